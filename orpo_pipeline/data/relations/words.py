"""Words of a text in the form in which texts are compared, and 64-bit hashes of them in bulk.

The hashes depend on the words alone: equal on every machine, in every process, in any batch.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Indices = NDArray[np.int64]

# Thai, Hangul, kana and Han (with extensions) are written without spaces, or with few of them.
ALONE = (
    "\u0e00-\u0e7f\u1100-\u11ff\u3040-\u30ff\u3105-\u318f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
)
WORD = re.compile(rf"(?![{ALONE}])\w(?:(?![{ALONE}])\w)*|(?=[{ALONE}])\w")
BETWEEN, PART, SINGLE = 0, 1, 2  # kinds of characters

PIECE = 2**15  # characters hashed at once: such arrays stay in the processor's cache
LONGEST_PIECE = 2**20  # a longer text is cut there, so that one text cannot fill the memory

# Odd 64-bit constants: the golden ratio and those of MurmurHash3's and SplitMix64's finalisers.
BASE = 0x9E3779B97F4A7C15
MIX = np.uint64(0xBF58476D1CE4E5B9)


@dataclass(frozen=True)
class TextHashes:
    """Hashes (W,) of the words or shingles of T texts, text by text; starts (T + 1,).

    The hashes of text t are hashes[starts[t] : starts[t + 1]]. Equal words have equal hashes; two
    different ones share a hash in about one of 2**64 cases.
    """

    hashes: Hashes
    starts: Indices

    def __len__(self) -> int:
        return len(self.starts) - 1


def caseless(text: str) -> str:
    """NFKC and case folded; white space as it stands, since words do not hold any."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def words_of(text: str) -> list[str]:
    """The words of a text, case folded: runs of letters, digits and underscores.

    Characters of scripts without spaces between words are words of their own.
    """
    return [word for piece in _pieces(caseless(text)) for word in WORD.findall(piece)]


def word_hashes(texts: Sequence[str]) -> TextHashes:
    """Hashes of `words_of` each text; 10 to 20 ns a character."""
    parts: list[Hashes] = []
    counts = np.zeros(len(texts), dtype=np.int64)
    for indices, pieces in _batches(texts):
        hashes, found = _hash_pieces(pieces)
        parts.append(hashes)
        np.add.at(counts, indices, found)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return TextHashes(np.concatenate(parts) if parts else np.empty(0, np.uint64), starts)


def mixed(hashes: Hashes) -> Hashes:
    """Every bit of a hash made to depend on every other; works in place."""
    for shift, factor in ((32, MIX), (29, MIX)):
        hashes ^= hashes >> np.uint64(shift)
        hashes *= factor
    hashes ^= hashes >> np.uint64(32)
    return hashes


def text_hash(text: str) -> int:
    """64-bit hash of a text as a whole."""
    data = text.encode("utf-8", errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _pieces(text: str) -> list[str]:
    if len(text) <= LONGEST_PIECE:
        return [text]
    return [text[at : at + LONGEST_PIECE] for at in range(0, len(text), LONGEST_PIECE)]


def _batches(texts: Sequence[str]) -> Iterator[tuple[list[int], list[str]]]:
    """Texts in order, case folded and cut, with their indices, about PIECE characters at once."""
    indices: list[int] = []
    pieces: list[str] = []
    size = 0
    for index, text in enumerate(texts):
        for piece in _pieces(caseless(text)):
            indices.append(index)
            pieces.append(piece)
            size += len(piece) + 1
            if size >= PIECE:
                yield indices, pieces
                indices, pieces, size = [], [], 0
    if pieces:
        yield indices, pieces


def _hash_pieces(pieces: list[str]) -> tuple[Hashes, Indices]:
    """Word hashes of all pieces, and the number of words of each.

    A word's hash is the polynomial of its characters in BASE modulo 2**64, mixed. Prefix sums over
    the whole batch give it without a loop: BASE is odd and so has an inverse.
    """
    codes, kinds = _characters("\n" + "\n".join(pieces) + "\n")
    begins, ends = _word_bounds(kinds)
    powers, inverses = _powers(1 << (len(codes) - 1).bit_length())
    terms = codes.astype(np.uint64)
    terms *= powers[: len(codes)]
    sums = np.cumsum(terms, out=terms)
    hashes = mixed((sums[ends - 1] - sums[begins - 1]) * inverses[begins])
    limits = np.cumsum([len(piece) + 1 for piece in pieces])
    return hashes, np.diff(np.searchsorted(begins, limits), prepend=0)


def _word_bounds(kinds: NDArray[np.uint8]) -> tuple[Indices, Indices]:
    """Where each word begins, and the place behind its last character."""
    if kinds.max() < SINGLE:
        changes = np.flatnonzero(kinds[1:] != kinds[:-1]) + 1
        return changes[::2], changes[1::2]
    inside, alone = kinds == PART, kinds == SINGLE
    begins, ends = alone.copy(), alone.copy()
    begins[1:] |= inside[1:] & ~inside[:-1]
    ends[:-1] |= inside[:-1] & ~inside[1:]
    return np.flatnonzero(begins), np.flatnonzero(ends) + 1


def _characters(text: str) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Code points of a text, and the kind of each."""
    if text.isascii():
        data = text.encode("ascii")
        kinds = np.frombuffer(data.translate(_ascii_kinds()), dtype=np.uint8)
        return np.frombuffer(data, dtype=np.uint8), kinds
    data = text.encode("utf-32-le", errors="surrogatepass")
    codes = np.frombuffer(data, dtype="<u4")
    return codes, _kind_table()[codes]


@cache
def _kind_table() -> NDArray[np.uint8]:
    """Kind of every character of Unicode, by its code point: 1.1 MB, made in half a second."""
    table = np.zeros(0x110000, dtype=np.uint8)
    everything = "".join(map(chr, range(0x110000)))
    for kind, pattern in ((PART, r"\w+"), (SINGLE, rf"(?:(?=[{ALONE}])\w)+")):
        for run in re.finditer(pattern, everything):
            table[run.start() : run.end()] = kind
    return table


@cache
def _ascii_kinds() -> bytes:
    return bytes(PART if WORD.match(chr(code)) else BETWEEN for code in range(256))


@cache
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """BASE ** i and its inverse modulo 2**64, for i below `count`."""
    inverse = pow(BASE, -1, 2**64)
    both = []
    for base in (BASE, inverse):
        factors = np.full(count, base, dtype=np.uint64)
        factors[0] = 1
        both.append(np.cumprod(factors, dtype=np.uint64))
    return both[0], both[1]
