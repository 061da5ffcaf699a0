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

from orpo_pipeline.data.tokens.word_cuts import (
    END,
    GPT2,
    GPT2_DIGITS_APART,
    MARKS,
    ArrayCuts,
    Cut,
    Cuts,
    PatternCuts,
)

CONTEXTS = (
    *("{}", "a{}", "{}a", " {}", "{} ", "1{}1", "{}{}", ".{}.", "\n{}\n", "  {}"),
    *("a {}'s {}b", "a'{}"),
)
"""Where each character is tried before texts that hold it are cut by our pattern."""

COMPOSING = range(0x1100, 0x1200)
"""Hangul jamo: letters that the normal form joins with the one before."""

LARGEST = 1_000_000  # token ids in the table: about 60 MB with their words

PRINTED = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
HIDDEN = [byte for byte in range(0x100) if byte not in PRINTED]
LETTERS = {byte: 0x100 + number for number, byte in enumerate(HIDDEN)}
"""How byte-level models write the bytes that do not show; the others stand for themselves."""

EncodeTexts = Callable[[list[str]], list[list[int]]]
"""Texts to token ids, adding no control tokens."""


class WordTable:
    """Encodes texts of one tokenizer. Adds no control tokens; those in the text are recognised."""

    def __init__(self, backend: Any, encode_whole: EncodeTexts) -> None:
        """`backend` is the `tokenizers.Tokenizer` that `encode_whole` encodes with."""
        self._encode_whole = encode_whole
        self._model = backend.model
        # Word w has the ids flat[starts[w] : starts[w + 1]]; a word that is new gets a number.
        self._numbers: defaultdict[bytes, int] = defaultdict()
        self._flat = np.empty(0, dtype=np.int32)
        self._starts = np.zeros(1, dtype=np.int64)
        self._cuts = _cuts_of(backend)
        marks = self._cuts.marks if self._cuts is not None else {}
        self._marks = {END.encode(): list[int]()} | {
            mark: encode_whole([token])[0] for mark, token in marks.items()
        }
        self._tried: set[str] = set()
        self._alike: set[str] = set()
        self._alike_ascii = b""
        self._eligible = re.compile("")

    @property
    def in_use(self) -> bool:
        """Whether this tokenizer's texts can be encoded by table."""
        return self._cuts is not None

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, equal to the tokenizer's own."""
        if self._cuts is None:
            return self._encode_whole(texts)
        others = [text for text in texts if not self._is_eligible(text)]
        if others:
            self._try_characters(set().union(*others) - self._tried)
            others = [text for text in others if not self._is_eligible(text)]
        if not others:
            return self._by_table(texts)
        whole = dict(zip(others, self._encode_whole(others), strict=True))
        looked_up = iter(self._by_table([text for text in texts if text not in whole]))
        return [whole[text] if text in whole else next(looked_up) for text in texts]

    def _is_eligible(self, text: str) -> bool:
        """Whether all characters are known to be cut alike."""
        if text.isascii():
            return not text.encode("ascii").translate(None, self._alike_ascii)
        return self._eligible.fullmatch(text) is not None

    def _try_characters(self, new: set[str]) -> None:
        """Find out which of them are encoded by table as they are by the tokenizer, everywhere."""
        assert self._cuts is not None
        self._tried |= new
        tried = sorted(filter(_stands_alone, new))
        self._cuts.learn(tried)
        texts = ["".join(CONTEXTS).replace("{}", character) for character in tried]
        ours, theirs = self._by_table(texts), self._encode_whole(texts)
        self._alike.update(
            character
            for character, own, whole in zip(tried, ours, theirs, strict=True)
            if own == whole
        )
        self._alike_ascii = "".join(filter(str.isascii, self._alike)).encode()
        if self._alike:
            self._eligible = re.compile(f"[{re.escape(''.join(sorted(self._alike)))}]*")

    def _by_table(self, texts: list[str]) -> list[list[int]]:
        """The ids of texts whose characters are all cut alike."""
        assert self._cuts is not None
        # Texts of ASCII are cut several times as fast, if no other is among them.
        groups: tuple[list[int], list[int]] = ([], [])
        for number, text in enumerate(texts):
            groups[text.isascii()].append(number)
        found: list[list[int]] = [[]] * len(texts)
        for group in groups:
            cut = self._cuts.cut([texts[number] for number in group])
            for number, ids in zip(group, self._look_up(cut), strict=True):
                found[number] = ids
        return found

    def _look_up(self, cut: Cut) -> list[list[int]]:
        """The ids of texts that are cut to words."""
        # The table is asked for each word once.
        encoded = cut.words.dictionary_encode()
        distinct = encoded.dictionary.to_pylist()
        known = len(self._numbers)
        self._numbers.default_factory = count(known).__next__
        found = map(self._numbers.__getitem__, distinct)
        numbers = np.fromiter(found, dtype=np.int64, count=len(distinct))
        new = list(islice(reversed(self._numbers), len(self._numbers) - known))[::-1]
        self._learn(new)
        numbers = numbers[encoded.indices.to_numpy()]
        begins = self._starts[numbers]
        ends = np.concatenate([[0], np.cumsum(self._starts[numbers + 1] - begins)])
        places = np.arange(ends[-1]) + np.repeat(begins - ends[:-1], np.diff(ends))
        ids = self._flat[places].tolist()
        if len(self._flat) > LARGEST:
            self._forget(new)
        return [ids[begin:end] for begin, end in pairwise(ends[cut.limits].tolist())]

    def _learn(self, new: list[bytes]) -> None:
        """Have the tokenizer's model encode words that have just been numbered."""
        plain = [word for word in new if word not in self._marks]
        # All words at once: as the model knows them, with a letter for each byte.
        letters = END.encode().join(plain).decode("latin-1").translate(LETTERS)
        as_letters = iter(letters.split(chr(LETTERS[ord(END)])))
        found = [
            self._marks[word]
            if word in self._marks
            else [token.id for token in self._model.tokenize(next(as_letters))]
            for word in new
        ]
        flat = np.fromiter(chain.from_iterable(found), dtype=np.int32)
        starts = len(self._flat) + np.cumsum([len(ids) for ids in found], dtype=np.int64)
        self._flat = np.concatenate([self._flat, flat])
        self._starts = np.concatenate([self._starts, starts])

    def _forget(self, new: list[bytes]) -> None:
        """A full table takes no more words."""
        for word in new:
            del self._numbers[word]
        self._starts = self._starts[: len(self._numbers) + 1]
        self._flat = self._flat[: self._starts[-1]]


def _stands_alone(character: str) -> bool:
    """Whether the character is itself wherever it stands: no mark, no half of a letter, no gap."""
    return character in "\t\n" or (
        unicodedata.category(character)[0] in "LNPSZ" and ord(character) not in COMPOSING
    )


def _cuts_of(backend: Any) -> Cuts | None:
    """How the tokenizer's texts can be cut; None where they cannot."""
    added = backend.get_added_tokens_decoder().values()
    # Such a token swallows the spaces beside it, or is none within a word.
    if any(token.lstrip or token.rstrip or token.single_word for token in added):
        return None
    pattern, controls = _word_pattern(backend), [token.content for token in added]
    if pattern in (GPT2, GPT2_DIGITS_APART) and len(controls) <= len(MARKS):
        return ArrayCuts(pattern == GPT2_DIGITS_APART, controls)
    try:
        return PatternCuts(pattern, controls) if pattern else None
    except regex.error:
        return None


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
