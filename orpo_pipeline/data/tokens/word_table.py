"""Token ids by table: each distinct word is encoded once, by the tokenizer itself.

A byte-level BPE tokenizer cuts a text at its control tokens, then into words by a regular
expression, and encodes each word by itself. Words repeat so much that looking them up is several
times as fast as encoding them again (benchmarks/preparation.py). The ids are the tokenizer's own:
every word's ids come from its model, and which characters may take this way is found out by
comparing with it. Any other text, and any other kind of tokenizer, is encoded as a whole.
"""

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from itertools import chain, count, islice, pairwise
from typing import Any

import numpy as np
import regex
from tokenizers import pre_tokenizers

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT2_DIGITS_APART = (
    r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"
)
"""The pattern of the ByteLevel pre-tokenizer (tokenizers, as GPT-2), and it behind Digits."""

CONTEXTS = (
    *("{}", "a{}", "{}a", " {}", "{} ", "1{}1", "{}{}", ".{}.", "\n{}\n", "  {}"),
    *("a {}'s {}b", "a'{}"),
)
"""Where each character is tried before texts that hold it are cut by our pattern."""

COMPOSING = range(0x1100, 0x1200)
"""Hangul jamo: letters that the normal form joins with the one before."""

LARGEST = 1_000_000  # token ids in the table: about 60 MB with their words
BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


EncodeTexts = Callable[[list[str]], list[list[int]]]
"""Texts to token ids, adding no control tokens."""


class WordTable:
    """Encodes texts of one tokenizer. Adds no control tokens; those in the text are recognised."""

    def __init__(self, backend: Any, encode_whole: EncodeTexts) -> None:
        """`backend` is the `tokenizers.Tokenizer` that `encode_whole` encodes with."""
        self._encode_whole = encode_whole
        self._model = backend.model
        # Word w has the ids flat[starts[w] : starts[w + 1]]; a word that is new gets a number.
        self._numbers: defaultdict[str, int] = defaultdict()
        self._flat = np.empty(0, dtype=np.int32)
        self._starts = np.zeros(1, dtype=np.int64)
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
        self._control_words = frozenset(ordered)
        self._tried: set[str] = set()
        self._alike: set[str] = set()
        self._eligible = re.compile("")

    @property
    def in_use(self) -> bool:
        """Whether this tokenizer's texts can be encoded by table."""
        return self._words is not None

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, equal to the tokenizer's own."""
        if self._words is None:
            return self._encode_whole(texts)
        others = [text for text in texts if not self._eligible.fullmatch(text)]
        if others:
            self._try_characters(set().union(*others) - self._tried)
            others = [text for text in others if not self._eligible.fullmatch(text)]
        whole = dict(zip(others, self._encode_whole(others), strict=True))
        by_table = [text for text in texts if text not in whole] if whole else texts
        looked_up = iter(self._look_up([self._cut(text) for text in by_table]))
        return [whole[text] if text in whole else next(looked_up) for text in texts]

    def _try_characters(self, new: set[str]) -> None:
        """Find out which of them are encoded by table as they are by the tokenizer, everywhere."""
        self._tried |= new
        tried = sorted(filter(_stands_alone, new))
        texts = ["".join(CONTEXTS).replace("{}", character) for character in tried]
        ours, theirs = self._look_up(list(map(self._cut, texts))), self._encode_whole(texts)
        self._alike.update(
            character
            for character, own, whole in zip(tried, ours, theirs, strict=True)
            if own == whole
        )
        if self._alike:
            self._eligible = re.compile(f"[{re.escape(''.join(sorted(self._alike)))}]*")

    def _look_up(self, cut: list[list[str]]) -> list[list[int]]:
        """The ids of texts that are cut to words."""
        known = len(self._numbers)
        self._numbers.default_factory = count(known).__next__
        numbers = np.fromiter(
            map(self._numbers.__getitem__, chain.from_iterable(cut)),
            dtype=np.int64,
            count=sum(map(len, cut)),
        )
        new = list(islice(reversed(self._numbers), len(self._numbers) - known))[::-1]
        self._learn(new)
        begins = self._starts[numbers]
        ends = np.concatenate([[0], np.cumsum(self._starts[numbers + 1] - begins)])
        places = np.arange(ends[-1]) + np.repeat(begins - ends[:-1], np.diff(ends))
        ids = self._flat[places].tolist()
        limits = ends[np.cumsum([0, *map(len, cut)])].tolist()
        if len(self._flat) > LARGEST:
            self._forget(new)
        return [ids[begin:end] for begin, end in pairwise(limits)]

    def _learn(self, new: list[str]) -> None:
        """Have the tokenizer's model encode words that have just been numbered."""
        found = [
            self._encode_whole([word])[0]
            if word in self._control_words
            else [
                token.id for token in self._model.tokenize(BYTE_LEVEL.pre_tokenize_str(word)[0][0])
            ]
            for word in new
        ]
        flat = np.fromiter(chain.from_iterable(found), dtype=np.int32)
        starts = len(self._flat) + np.cumsum([len(ids) for ids in found], dtype=np.int64)
        self._flat = np.concatenate([self._flat, flat])
        self._starts = np.concatenate([self._starts, starts])

    def _forget(self, new: list[str]) -> None:
        """A full table takes no more words."""
        for word in new:
            del self._numbers[word]
        self._starts = self._starts[: len(self._numbers) + 1]
        self._flat = self._flat[: self._starts[-1]]

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


def _stands_alone(character: str) -> bool:
    """Whether the character is itself wherever it stands: no mark, no half of a letter, no gap."""
    return character in "\t\n" or (
        unicodedata.category(character)[0] in "LNPSZ" and ord(character) not in COMPOSING
    )


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
