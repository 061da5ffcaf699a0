"""What makes two rows, two prompts or two texts the same."""

import hashlib
import json
import unicodedata
from typing import Any

import orjson

from schemas.pairs import Conversation, Pair

# Writes the same bytes as orjson, and texts that orjson refuses.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)


def nfc(text: str) -> str:
    """The text in Unicode NFC, the form in which pairs are held.

    So rows of one identity also have the same tokens.
    """
    # normalize() begins with the check of is_normalized(): asking twice costs more.
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """NFKC, white space collapsed, case folded: the form in which texts count as the same."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.split()).casefold()


def canonical(conversation: Conversation) -> list[list[str]]:
    """Roles and contents in NFC: what a row's identity is made of."""
    return [[m.role, nfc(m.content)] for m in conversation]


def row_id(pair: Pair) -> str:
    """SHA-256 (hex) of the canonical row: one changed character or a flipped label changes it."""
    return _digest([canonical(part) for part in (pair.prompt, pair.chosen, pair.rejected)])


def prompt_id(pair: Pair) -> str:
    """SHA-256 (hex) of the prompt, equal for prompts that differ only in case and white space."""
    return _digest([[m.role, folded(m.content)] for m in pair.prompt])


def _digest(value: Any) -> str:
    try:
        text = orjson.dumps(value)
    except orjson.JSONEncodeError:  # half a surrogate pair
        text = _ENCODER.encode(value).encode("utf-8", errors="surrogatepass")
    return hashlib.sha256(text).hexdigest()
