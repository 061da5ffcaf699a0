"""Texts cut by arrays have the words that the pattern finds."""

import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orpo_pipeline.data.tokens.word_cuts import (
    END,
    GPT2,
    MARKS,
    ArrayCuts,
    Cut,
    PatternCuts,
)

CONTROLS = ("<|end|>", "<|end|>x", "€<")
SIGNS = "'s 'S 're 'll 'l ' '' ''t s t re ve ! ½ ٣ é 漢 word Word 12 <|end|> <|end|>x €< <|en"
SPACES = (" ", "  ", "\n", "\t", "\u00a0", "\u2028", "\u3000")
CHARACTERS = st.characters(categories=["L", "N", "P", "S", "Z"], exclude_characters=["\ue000"])
TEXTS = st.lists(st.sampled_from([*SIGNS.split(), *SPACES]) | CHARACTERS, max_size=12).map("".join)
DIGIT = regex.compile(r"(\p{N})")


def words_of(cut: Cut) -> list[list[str]]:
    words = [word.decode() for word in cut.words.to_pylist()]
    return [words[begin:end] for begin, end in zip(cut.limits, cut.limits[1:], strict=False)]


def found_by_pattern(text: str, digits_apart: bool) -> list[str]:
    """As tokenizers does it: control tokens first, then digits, then GPT-2's pattern."""
    words: list[str] = []
    controls = "|".join(map(regex.escape, sorted(CONTROLS, key=len, reverse=True)))
    for number, part in enumerate(regex.split(f"({controls})", text)):
        runs = DIGIT.split(part) if digits_apart and number % 2 == 0 else [part]
        for run in runs:
            whole = number % 2 or (digits_apart and DIGIT.fullmatch(run))
            words += [run] if whole else [found.group() for found in regex.finditer(GPT2, run)]
    return words


@given(texts=st.lists(TEXTS, max_size=4), digits_apart=st.booleans())
@example(texts=["a  1\n 2", "'s't'll"], digits_apart=True)
@example(texts=["a  1\n 2", "'s't'll", "'"], digits_apart=False)
@settings(deadline=None, max_examples=400)
def test_arrays_cut_as_the_pattern_does(texts: list[str], digits_apart: bool) -> None:
    cuts = ArrayCuts(digits_apart, CONTROLS)
    cuts.learn(set().union(*texts))
    found = words_of(cuts.cut(texts))
    assert [words[-1] for words in found] == [END] * len(texts)
    read = [[cuts.marks.get(word.encode(), word) for word in words[:-1]] for words in found]
    assert read == [found_by_pattern(text, digits_apart) for text in texts]
    assert words_of(PatternCuts(GPT2, CONTROLS).cut(texts)) == [
        found_by_pattern(text, False) for text in texts
    ]


def test_no_mark_can_stand_in_a_text_that_is_cut() -> None:
    assert not set(MARKS + END) & set("\t\n") and all(ord(mark) < 128 for mark in MARKS)
    assert all(regex.fullmatch(r"\p{Cc}", mark) for mark in MARKS + END)
