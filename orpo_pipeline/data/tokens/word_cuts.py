"""Texts cut to words as a byte-level tokenizer's regular expression cuts them, many at once.

GPT-2's pattern is followed by arithmetic on arrays of characters (`ArrayCuts`), which takes a tenth
of the time of a search: where a word begins is told by two characters before it and three behind.
Any other pattern is searched for (`PatternCuts`).
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import regex
from numpy.typing import NDArray

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT2_DIGITS_APART = (
    r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"
)
"""The pattern of the ByteLevel pre-tokenizer (tokenizers, as GPT-2), and it behind Digits."""

Indices = NDArray[np.int64]

END = "\0"
"""Stands behind each text: a word without ids, as no text may hold it."""
MARKS = "".join(map(chr, (*range(1, 9), *range(11, 32), 127)))
"""Stand for control tokens in texts that are cut by arrays; no such text may hold them."""

OTHER, LETTER, NUMBER, SPACE, APART = range(5)  # kinds of characters
KINDS = {"L": LETTER, "N": NUMBER, "Z": SPACE}  # by the first letter of Unicode's category
SHORT_ENDINGS = tuple(map(ord, "stmd"))  # behind an apostrophe
LONG_ENDINGS = tuple((ord(one), ord(two)) for one, two in ("re", "ve", "ll"))


@dataclass(frozen=True, slots=True)
class Cut:
    """The words of T texts in a row, as UTF-8; `limits` (T + 1,): those of text t begin and end."""

    words: pa.BinaryArray
    limits: Indices


class Cuts(Protocol):
    """A way to cut texts. Marks (keys of `marks`) are words that stand for control tokens."""

    marks: dict[bytes, str]

    def learn(self, characters: Iterable[str]) -> None:
        """Be told of characters before any text that holds them is cut."""

    def cut(self, texts: Sequence[str]) -> Cut:
        """The words of each text, which holds neither END nor MARKS."""


class ArrayCuts:
    """Cuts by GPT-2's pattern, with runs of digits as words or each digit by itself."""

    def __init__(self, digits_apart: bool, controls: Sequence[str]) -> None:
        """`controls`: tokens that are words wherever they stand, at most len(MARKS)."""
        self._number = APART if digits_apart else NUMBER
        self._mark_of = dict(zip(controls, MARKS, strict=False))
        self._controls = _any_of(controls)
        self.marks = {mark.encode(): token for token, mark in self._mark_of.items()}
        self._kinds = np.full(0x110000, OTHER, dtype=np.uint8)
        self.learn(map(chr, range(128)))
        for mark in (END, *MARKS):
            self._kinds[ord(mark)] = APART
        self._ascii_kinds = self._kinds[:256].tobytes()

    def learn(self, characters: Iterable[str]) -> None:
        for character in characters:
            kind = KINDS.get(unicodedata.category(character)[0], OTHER)
            kind = SPACE if character in "\t\n" else kind
            self._kinds[ord(character)] = self._number if kind == NUMBER else kind

    def cut(self, texts: Sequence[str]) -> Cut:
        text = END + END.join(texts) + END
        if self._controls is not None:
            text = self._controls.sub(lambda found: self._mark_of[found.group()], text)
        data = text.encode()
        if len(data) == len(text):
            codes: NDArray[Any] = np.frombuffer(data, dtype=np.uint8)
            kinds = np.frombuffer(data.translate(self._ascii_kinds), dtype=np.uint8)
            offsets = begins = _word_begins(codes, kinds)
        else:
            codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
            begins = _word_begins(codes, self._kinds[codes])
            sizes = 1 + (codes > 0x7F).astype(np.int64) + (codes > 0x7FF) + (codes > 0xFFFF)
            offsets = (np.cumsum(sizes) - sizes)[begins]
        ends = np.flatnonzero(codes == ord(END)) if texts else np.zeros(1, dtype=np.int64)
        return Cut(
            words=_binary(data, np.append(offsets, len(data))),
            limits=np.searchsorted(begins, ends, side="right"),
        )


class PatternCuts:
    """Cuts by a regular expression."""

    def __init__(self, pattern: str, controls: Sequence[str]) -> None:
        """Raises regex.error for a pattern that `regex` does not know."""
        self._words = regex.compile(pattern)
        try:
            self._ascii_words: Any = re.compile(_ascii_pattern(pattern), re.ASCII)
        except re.error:  # it has classes that only `regex` knows
            self._ascii_words = self._words
        self._controls = _any_of(controls)
        self.marks = {token.encode(): token for token in controls}

    def learn(self, characters: Iterable[str]) -> None:
        """Nothing: the pattern knows all characters."""

    def cut(self, texts: Sequence[str]) -> Cut:
        words = [self._words_of(text) for text in texts]
        flat = list(chain.from_iterable(words))
        return Cut(
            words=pa.array(flat, pa.string()).cast(pa.binary()),
            limits=np.cumsum([0, *map(len, words)], dtype=np.int64),
        )

    def _words_of(self, text: str) -> list[str]:
        find_words = self._ascii_words.findall if text.isascii() else self._words.findall
        if self._controls is None:
            return list(find_words(text))
        words: list[str] = []
        for number, part in enumerate(self._controls.split(text)):
            if number % 2:
                words.append(part)
            elif part:
                words += find_words(part)
        return words


def _word_begins(codes: NDArray[Any], kinds: NDArray[np.uint8]) -> Indices:
    """Where words begin in characters of which the first and the last are END."""
    begins = np.empty(len(codes), dtype=np.bool_)
    begins[0] = True
    np.not_equal(kinds[1:], kinds[:-1], out=begins[1:])
    begins |= kinds == APART
    # The last of the white space before a run: part of it if it is a space, else by itself.
    last = np.flatnonzero((kinds[:-1] == SPACE) & (kinds[1:] < SPACE))
    begins[last] = True
    begins[last + 1] = codes[last] != ord(" ")
    # An apostrophe that no word has taken before, with a short ending.
    quotes = np.flatnonzero(codes == ord("'"))
    quotes = quotes[(kinds[quotes - 1] != OTHER) & (codes[quotes - 1] != ord(" "))]
    first = codes[quotes + 1]
    second = codes[np.minimum(quotes + 2, len(codes) - 1)]
    short = quotes[np.isin(first, SHORT_ENDINGS)]
    is_long = [(first == one) & (second == two) for one, two in LONG_ENDINGS]
    long = quotes[np.logical_or.reduce(is_long)]
    begins[np.concatenate([short, long]) + 1] = False
    begins[np.concatenate([short + 2, long + 3])] = True
    return np.flatnonzero(begins)


def _binary(data: bytes, offsets: Indices) -> pa.BinaryArray:
    """The bytes between each two offsets, without a copy."""
    ends = pa.py_buffer(offsets.astype(np.int32))
    return pa.BinaryArray.from_buffers(
        pa.binary(), len(offsets) - 1, [None, ends, pa.py_buffer(data)]
    )


def _any_of(tokens: Sequence[str]) -> re.Pattern[str] | None:
    ordered = sorted(tokens, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, ordered))})") if ordered else None


def _ascii_pattern(pattern: str) -> str:
    """The pattern for ASCII texts in the words of `re`, which finds them twice as fast."""
    ranges = {r"\p{L}": "a-zA-Z", r"\p{N}": "0-9"}
    parts, inside = [], False
    for part in re.split(r"(\\p\{[LN]\}|\\.|\[\^?|\])", pattern):
        if part in ranges:
            part = ranges[part] if inside else f"[{ranges[part]}]"
        elif part.startswith("[") or part == "]":
            inside = part != "]"
        parts.append(part)
    return "".join(parts)
