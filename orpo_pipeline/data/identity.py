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
    return prompt_ids(pair)[-1]


def prompt_ids(pair: Pair) -> list[str]:
    """The `prompt_id` of each beginning of the dialogue that is answered in it, then its own.

    Where every turn of a dialogue was rated, those are the prompts of other rows.
    """
    digest, ids = hashlib.sha256(b"["), []
    roles = [message.role for message in pair.prompt]
    for number, message in enumerate(pair.prompt):
        digest.update(b"," if number else b"")
        digest.update(_json([message.role, folded(message.content)]))
        if roles[number : number + 2] == ["user", "assistant"]:
            ids.append(_closed(digest))
    return [*ids, _closed(digest)]


def _closed(list_so_far: Any) -> str:
    digest = list_so_far.copy()
    digest.update(b"]")
    return str(digest.hexdigest())


def _digest(value: Any) -> str:
    return hashlib.sha256(_json(value)).hexdigest()


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # half a surrogate pair
        return _ENCODER.encode(value).encode("utf-8", errors="surrogatepass")
