"""Words and their hashes: the bulk arithmetic agrees with a plain loop over words."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpo_pipeline.data.relations import words
from orpo_pipeline.data.relations.words import word_hashes, words_of

TEXTS = st.lists(
    st.text() | st.text(alphabet="aB 1_.,\n\u00e9\u0301\u65e5\u672c\ud55c\u0e01\u0e31\ufb01\u0130"),
    max_size=8,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("?!  --", []),
        ("The CAT's out", ["the", "cat", "s", "out"]),
        ("snake_case x2", ["snake_case", "x2"]),
        ("\ufb01ne Stra\u00dfe", ["fine", "strasse"]),  # NFKC, then case folding
        ("\u65e5\u672c\u8a9eABC", ["\u65e5", "\u672c", "\u8a9e", "abc"]),
        ("\ud55c\uad6d a", ["\ud55c", "\uad6d", "a"]),
        ("\u0e01\u0e02", ["\u0e01", "\u0e02"]),
        ("\uff21\uff22", ["ab"]),  # full-width letters
    ],
)
def test_words_of(text: str, expected: list[str]) -> None:
    assert words_of(text) == expected


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_hashes_are_those_of_single_words(texts: list[str]) -> None:
    bulk = word_hashes(texts)
    assert len(bulk) == len(texts)
    for text, start, end in zip(texts, bulk.starts[:-1], bulk.starts[1:], strict=True):
        alone = [int(word_hashes([word]).hashes[0]) for word in words_of(text)]
        assert bulk.hashes[start:end].tolist() == alone


def test_different_words_have_different_hashes() -> None:
    many = [f"{prefix}{number}" for prefix in ("", "a", "aa", "zz_") for number in range(20_000)]
    assert len(set(word_hashes(many).hashes.tolist())) == len(many)


def test_neither_batches_nor_pieces_change_a_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{'many words ' * number}caf\u00e9 {number}" for number in range(60)]
    whole = word_hashes(texts)
    monkeypatch.setattr(words, "PIECE", 50)
    assert np.array_equal(word_hashes(texts).hashes, whole.hashes)


def test_a_long_text_is_cut_by_its_own_length_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "LONGEST_PIECE", 4)
    assert words_of("abcdefgh ij") == ["abcd", "efgh", "ij"]
    alone, beside = word_hashes(["abcdefgh ij"]), word_hashes(["x y", "abcdefgh ij"])
    assert alone.hashes.tolist() == beside.hashes[2:].tolist()
    assert alone.starts.tolist() == [0, 3]


def test_the_hashes_are_the_same_in_every_process() -> None:
    code = (
        "from orpo_pipeline.data.relations.words import word_hashes;"
        "print(word_hashes(['The cat', 'caf\\u00e9']).hashes.tolist())"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7"},
    ).stdout
    assert printed.strip() == str(word_hashes(["The cat", "caf\u00e9"]).hashes.tolist())
