"""Near-equal texts: what counts as alike, who is compared, and who stays."""

import random
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpo_pipeline.data.relations import near_duplicates
from orpo_pipeline.data.relations.near_duplicates import (
    BANDS,
    Judge,
    groups,
    keepers,
    near_duplicate_reasons,
    near_equal_groups,
    row_signatures,
    signatures,
    verify,
)
from orpo_pipeline.data.relations.words import Hashes, Indices, words_of

SIGNED = ["0xaebe9da5eebdb00c", "0x9314b8f6892fc468"]
VOCABULARY = [f"{syllable}{number}" for syllable in ("ba", "ko", "mi") for number in range(900)]


def varied(seed: int, words: int, changed: int) -> tuple[str, str]:
    """A text, and the same text with so many of its words replaced."""
    drawn = random.Random(seed)
    one = [drawn.choice(VOCABULARY) for _ in range(words)]
    two = list(one)
    for place in drawn.sample(range(words), changed):
        two[place] = drawn.choice(VOCABULARY)
    return " ".join(one), " ".join(two)


def judge(texts: list[str], threshold: float) -> Judge:
    return lambda pairs: verify(pairs, lambda items: [texts[i] for i in items], threshold)


def jaccard(first: str, second: str) -> float:
    """The highest threshold at which two texts count as near-equal, found by halving."""
    low, high = 0.0, 1.0
    if near_equal(first, second, high):
        return high
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if near_equal(first, second, middle) else (low, middle)
    return low


def near_equal(first: str, second: str, threshold: float) -> bool:
    return bool(judge([first, second], threshold)(np.array([[0, 1]]))[0])


def test_jaccard_by_hand() -> None:
    # abc bcd cde | abc bcd cdf: 2 shared of 4 in all
    assert jaccard("a b c d e", "a b c d f") == pytest.approx(2 / 4, abs=1e-5)
    assert jaccard("A, b; c! d e", "a b c d e") == 1.0
    assert jaccard("a b a b a b", "b a b a b a") == 1.0  # aba and bab on both sides
    assert not near_equal("a b c", "c b a", 1e-5)
    assert jaccard("a b", "a b") == 1.0
    assert not near_equal("a b", "b a", 1e-5)  # one shingle each: the two words in their order
    assert jaccard("a", "a b") == 0.0
    assert not near_equal("?!", "? !", 1e-5)  # no words: the folded texts themselves
    assert jaccard("?\n!", "? !") == jaccard("", " ") == 1.0


def plain_jaccard(first: str, second: str) -> float:
    sets = []
    for text in (first, second):
        words = words_of(text)
        runs = {tuple(words[at : at + 3]) for at in range(max(len(words) - 2, 1))}
        sets.append(runs if words else {text.strip()})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@settings(max_examples=200, deadline=None)
@given(*[st.lists(st.sampled_from("abc?"), max_size=9).map(" ".join)] * 2)
def test_jaccard_agrees_with_sets_of_words(first: str, second: str) -> None:
    assert jaccard(first, second) == pytest.approx(plain_jaccard(first, second), abs=1e-5)


def test_signatures_do_not_depend_on_company() -> None:
    texts = ["one two three four", "", "?", "a b", "\u65e5\u672c\u8a9e\u6587", "a"] * 60
    bands = signatures(texts)
    assert bands.shape == (360, BANDS)
    assert bands.dtype == np.uint64
    assert np.array_equal(bands[:6], bands[-6:])
    assert np.array_equal(np.concatenate([signatures([text]) for text in texts[:6]]), bands[:6])
    assert signatures([]).shape == row_signatures([], [], []).shape == (0, BANDS)


def test_signatures_never_change() -> None:
    # Written down once: stored signatures are compared with new ones.
    assert [hex(band) for band in signatures(["The quick brown fox jumps"])[0, :2]] == SIGNED


@pytest.mark.parametrize(("changed", "words"), [(4, 160), (9, 200), (12, 200)])
def test_recall_is_what_the_bands_promise(changed: int, words: int) -> None:
    pairs = [varied(seed, words, changed) for seed in range(400)]
    first, second = (signatures(list(side)) for side in zip(*pairs, strict=True))
    found = (first == second).any(axis=1)
    similarity = np.array([plain_jaccard(*pair) for pair in pairs])
    promised = 1 - (1 - similarity**8) ** 16
    deviation = np.sqrt(np.sum(promised * (1 - promised)))
    assert abs(found.sum() - promised.sum()) <= 4 * deviation + 1


def test_signatures_of_rows_see_both_sides() -> None:
    prompt, near = varied(1, 60, 0)[0], varied(2, 80, 1)
    far = varied(3, 80, 80)
    bands = row_signatures(
        [prompt] * 4, [near[0], near[1], near[0], near[0]], [far[0]] * 2 + [*far]
    )
    assert (bands[0] == bands[2]).all()
    assert (bands[0] == bands[1]).sum() >= 4
    assert (bands[0] == bands[3]).sum() <= 3
    swapped = row_signatures([prompt], [far[0]], [near[0]])
    assert not (bands[0] == swapped[0]).any()


def asked_pairs(bands: Hashes, order: Indices) -> list[list[list[int]]]:
    """What is compared, call by call, when all turn out near-equal."""
    asked = []

    def everybody(pairs: Indices) -> np.ndarray:
        asked.append(pairs.tolist())
        return np.ones(len(pairs), dtype=np.bool_)

    near_equal_groups(bands, order, everybody)
    return [pairs for pairs in asked if pairs]


def test_a_bucket_is_a_star_around_its_first() -> None:
    bands = np.array([[7, 1], [7, 2], [7, 2], [8, 3]], dtype=np.uint64)
    order = np.array([2, 0, 1, 3])
    # band 0: {0, 1, 2}, first by order 1; band 1: {1, 2}, first 1 again
    assert asked_pairs(bands, order) == [[[1, 0], [1, 2]]]
    assert asked_pairs(bands[:0], order[:0]) == []


def test_a_huge_bucket_gives_one_pair_less_than_members() -> None:
    bands = np.full((20_000, BANDS), 5, dtype=np.uint64)
    (pairs,) = asked_pairs(bands, np.arange(20_000)[::-1])
    assert len(pairs) == 19_999
    assert {first for first, _ in pairs} == {19_999}


def test_rows_of_one_long_prompt_are_compared_a_bounded_number_of_times() -> None:
    drawn = random.Random(7)
    prompt = " ".join(drawn.choices(VOCABULARY, k=1500))
    chosen, rejected = (
        [" ".join(drawn.choices(VOCABULARY, k=40)) for _ in range(540)] for _ in range(2)
    )
    chosen += [f"{text} more" for text in chosen[:60]]
    rejected += rejected[:60]
    bands = row_signatures([prompt] * 600, chosen, rejected)
    largest = max(np.unique(band, return_counts=True)[1].max() for band in bands.T)
    assert largest > 300  # the prompt is most of every row
    compared = []

    def same_answers(pairs: Indices) -> np.ndarray:
        compared.append(len(pairs))
        return np.asarray(np.abs(pairs[:, 1] - pairs[:, 0]) == 540)

    labels = near_equal_groups(bands, np.arange(600), same_answers)
    assert sum(compared) <= near_duplicates.ROUNDS * BANDS * 600
    assert labels[:540].tolist() == list(range(540))
    assert (labels[540:] == np.arange(60)).sum() >= 55


def test_verification_asks_for_few_texts_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "PAIRS_AT_ONCE", 3)
    texts = ["a b c d e", "a b c d e!", "a b c d f", "x y z"]
    asked: list[list[int]] = []

    def fetch(items: Indices) -> list[str]:
        asked.append(items.tolist())
        return [texts[item] for item in items]

    pairs = np.array([[0, 1], [0, 2], [0, 3], [1, 2]])
    assert verify(pairs, fetch, 0.5).tolist() == [True, True, False, True]
    assert verify(pairs, fetch, 0.51).tolist() == [True, False, False, False]
    assert asked[:2] == [[0, 1, 2, 3], [1, 2]]


def test_groups_are_labelled_by_their_smallest_index() -> None:
    assert groups(6, np.array([[4, 1], [5, 4], [3, 2]])).tolist() == [0, 1, 2, 2, 1, 1]
    assert groups(2, np.empty((0, 2), dtype=np.int64)).tolist() == [0, 1]


def test_the_threshold_decides() -> None:
    texts = list(varied(5, 100, 2))
    similarity = plain_jaccard(*texts)
    bands, order = signatures(texts), np.arange(2)
    assert near_equal_groups(bands, order, judge(texts, similarity)).tolist() == [0, 0]
    assert near_equal_groups(bands, order, judge(texts, similarity + 0.001)).tolist() == [0, 1]


def test_a_resembling_first_does_not_hide_that_the_others_are_equal() -> None:
    # One bucket of four; the first resembles nobody enough, two of the others are equal.
    bands = np.ones((4, BANDS), dtype=np.uint64)
    texts = ["a b c d", "k l m n", "x y z", "k l m n!"]
    assert near_equal_groups(bands, np.arange(4), judge(texts, 0.9)).tolist() == [0, 1, 2, 1]


def test_a_bucket_of_strangers_costs_a_bounded_number_of_comparisons() -> None:
    bands = np.ones((500, BANDS), dtype=np.uint64)
    compared = []

    def nobody(pairs: Indices) -> np.ndarray:
        compared.append(len(pairs))
        return np.zeros(len(pairs), dtype=np.bool_)

    assert near_equal_groups(bands, np.arange(500), nobody).tolist() == list(range(500))
    assert [count for count in compared if count] == [499, 498, 497]


def test_the_smallest_row_id_stays_and_is_named() -> None:
    labels = np.array([0, 1, 0, 1, 4])
    ids = pl.Series(["d" * 64, "a" * 64, "b" * 64, "c" * 64, "e" * 64])
    kept = keepers(labels, np.array([3, 0, 1, 2, 4]))
    assert kept.tolist() == [2, 1, 2, 1, 4]
    assert near_duplicate_reasons(kept, ids).to_list() == [
        f"nearly the same as row {'b' * 12}, which stays",
        None,
        None,
        f"nearly the same as row {'a' * 12}, which stays",
        None,
    ]


def kept_texts(texts: list[str], rank: Callable[[str], str]) -> set[str]:
    order = np.argsort(np.argsort([rank(text) for text in texts]))
    labels = near_equal_groups(signatures(texts), order, judge(texts, 0.85))
    return {texts[index] for index in keepers(labels, order)}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_order_changes_nothing(seed: int, shuffler: random.Random) -> None:
    texts = [text for n in range(12) for text in varied(seed + n, 40, n % 4)]
    texts = sorted(set(texts) | {f"{texts[0]} more", "short", "Short?"})
    shuffled = list(texts)
    shuffler.shuffle(shuffled)

    def rank(text: str) -> str:
        return text[::-1]

    assert kept_texts(shuffled, rank) == kept_texts(texts, rank)
