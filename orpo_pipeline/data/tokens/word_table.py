"""Token ids by table: each distinct word is encoded once, by the tokenizer itself.

A byte-level BPE tokenizer cuts a text at its control tokens, then into words by a regular
expression, and encodes each word by itself. Words repeat so much that looking them up is several
times as fast as encoding them again (benchmarks/preparation.py). The ids are the tokenizer's own:
every word's ids come from it, and which characters may take this way is found out by comparing with
it. Any other text, and any other kind of tokenizer, is encoded as a whole.
"""

import json
import re
from collections.abc import Callable
from typing import Any

import regex

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT2_DIGITS_APART = (
    r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"
)
"""The pattern of the ByteLevel pre-tokenizer (tokenizers, as GPT-2), and it behind Digits."""

CANDIDATES = (
    *map(chr, range(0x20, 0x7F)),
    *"\t\n",
    *map(chr, range(0xA0, 0x250)),  # Latin letters and signs
    *map(chr, range(0x370, 0x500)),  # Greek, Cyrillic
    *map(chr, range(0x2010, 0x2028)),  # dashes, quotation marks, dots
    *"\u2030\u2032\u2033\u2039\u203a\u20ac\u2122\u2190\u2191\u2192\u2193\u2212\u2248\u2260\u2264\u2265",
)
"""Characters that are tried. All are old enough that every Unicode version has them alike."""

CONTEXTS = (
    *("{}", "a{}", "{}a", " {}", "{} ", "1{}1", "{}{}", ".{}.", "\n{}\n", "  {}"),
    *("a {}'s {}b", "a'{}"),
)
LARGEST = 300_000  # words in the table: about 60 MB
LONGEST_WORD = 40  # characters; longer ones hardly ever repeat


EncodeTexts = Callable[[list[str]], list[list[int]]]
"""Texts to token ids, adding no control tokens."""


class WordTable:
    """Encodes texts of one tokenizer. Adds no control tokens; those in the text are recognised."""

    def __init__(self, backend: Any, encode_whole: EncodeTexts) -> None:
        """`backend` is the `tokenizers.Tokenizer` that `encode_whole` encodes with."""
        self._encode_whole = encode_whole
        self._ids: dict[str, tuple[int, ...]] = {}
        added = backend.get_added_tokens_decoder().values()
        # Such a token swallows the spaces beside it, or is none within a word.
        greedy = any(token.lstrip or token.rstrip or token.single_word for token in added)
        pattern = None if greedy else _word_pattern(backend)
        patterns = _compile(pattern) if pattern else (None, None)
        self._words: Any = patterns[0]
        self._ascii_words: Any = patterns[1]
        ordered = sorted((token.content for token in added), key=len, reverse=True)
        joined = "|".join(map(re.escape, ordered))
        self._controls = re.compile(f"({joined})") if joined else None
        self._eligible = re.compile("")
        if self._words is not None:
            self._eligible = re.compile(f"[{re.escape(''.join(self._alike()))}]*")

    @property
    def in_use(self) -> bool:
        """Whether this tokenizer's texts can be encoded by table."""
        return self._words is not None

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, equal to the tokenizer's own."""
        if self._words is None:
            return self._encode_whole(texts)
        cut = [self._cut(text) if self._eligible.fullmatch(text) else None for text in texts]
        whole = [index for index, words in enumerate(cut) if words is None]
        ids, rare = self._ids, self._learn(cut)
        found: list[list[int]] = []
        for words in cut:
            encoded: list[int] = []
            for word in words or ():
                try:
                    encoded += ids[word]
                except KeyError:
                    encoded += rare[word]
            found.append(encoded)
        others = self._encode_whole([texts[index] for index in whole])
        for index, encoded in zip(whole, others, strict=True):
            found[index] = encoded
        return found

    def _alike(self) -> list[str]:
        """The characters that are encoded by table as they are by the tokenizer, everywhere."""
        assert self._words is not None
        self._eligible = re.compile("(?s:.)*")
        texts = ["".join(CONTEXTS).replace("{}", character) for character in CANDIDATES]
        ours, theirs = self.encode(texts), self._encode_whole(texts)
        return [
            character
            for character, own, whole in zip(CANDIDATES, ours, theirs, strict=True)
            if own == whole
        ]

    def _cut(self, text: str) -> list[str]:
        """The text's words and control tokens, in order."""
        assert self._words is not None and self._ascii_words is not None
        find_words = self._ascii_words.findall if text.isascii() else self._words.findall
        if self._controls is None:
            return find_words(text)
        words: list[str] = []
        for number, part in enumerate(self._controls.split(text)):
            if number % 2:
                words.append(part)
            elif part:
                words += find_words(part)
        return words

    def _learn(self, cut: list[list[str] | None]) -> dict[str, list[int]]:
        """Have the tokenizer encode all words that are not in the table, in one call.

        They join it while there is room; those that do not are returned.
        """
        known = self._ids
        new = sorted({word for words in cut for word in words or () if word not in known})
        rare: dict[str, list[int]] = {}
        for word, encoded in zip(new, self._encode_whole(new), strict=True):
            if len(word) <= LONGEST_WORD and len(known) < LARGEST:
                known[word] = tuple(encoded)
            else:
                rare[word] = encoded
        return rare


def _word_pattern(backend: Any) -> str | None:
    """How the tokenizer cuts words, as a pattern of the `regex` library; None: in another way."""
    normalizer, pre = _described(backend.normalizer), _described(backend.pre_tokenizer)
    if type(backend.model).__name__ != "BPE" or normalizer.get("type", "NFC") != "NFC":
        return None
    steps = pre["pretokenizers"] if pre.get("type") == "Sequence" else [pre]
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    by_itself = steps[-1].get("use_regex", True)
    if len(steps) == 1:
        return GPT2 if by_itself else None
    first = steps[0]
    if len(steps) > 2:
        return None
    if first["type"] == "Digits" and first["individual_digits"] and by_itself:
        return GPT2_DIGITS_APART
    if first["type"] == "Split" and first["behavior"] == "Isolated" and not by_itself:
        return None if first["invert"] else first["pattern"].get("Regex")
    return None


def _described(part: Any) -> dict[str, Any]:
    """A part of the tokenizer as tokenizer.json holds it; the whole would include all its words."""
    described: dict[str, Any] = json.loads(part.__getstate__()) if part is not None else {}
    return described


def _compile(pattern: str) -> tuple[Any, Any]:
    """The pattern for all texts and, where it can be said so, a faster one for ASCII texts."""
    try:
        words = regex.compile(pattern)
    except regex.error:
        return None, None
    try:
        return words, re.compile(_ascii_pattern(pattern), re.ASCII)
    except re.error:  # it has classes that only `regex` knows
        return words, words


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
