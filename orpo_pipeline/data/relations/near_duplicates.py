"""Near-equal texts: MinHash finds candidates, the true Jaccard similarity of shingles decides.

A text's shingles are its runs of three words (`words.words_of`); a text of fewer words has one, of
all of them, and a text without words is its own. Signatures: 128 permutations in 16 bands of 8;
two texts of similarity s share a band, and so are compared, with probability
1 - (1 - s**8)**16: 0.81 for s = 0.75, 0.95 for 0.8, 0.994 for 0.85, 0.9999 for 0.9. What differs
more than the threshold allows is never joined, since every join is verified.

Everything is a function of content: `order` ranks items by their id, and neither the order of rows
nor the batches in which they come change a result.
"""

from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rensa import RMinHash

from orpo_pipeline.data.identity import folded
from orpo_pipeline.data.relations.words import (
    Hashes,
    Indices,
    TextHashes,
    mixed,
    text_hash,
    word_hashes,
)

PERMUTATIONS, BANDS = 128, 16
SEED = 1  # of the permutations: another one makes other signatures
SHINGLE = 3  # words
BLOCK = 128  # texts whose arrays are in memory at once
PAIRS_AT_ONCE = 16_384  # pairs of texts that are fetched and compared at once
ROUNDS = 3  # leaders that a bucket can have

WEIGHTS = np.array([0xD6E8FEB86659FD93, 0xA0761D6478BD642F, 0xE7037ED1A0B428DB], dtype=np.uint64)
TAG = np.uint64(0x8EBC6AF09C88C6E3)  # sets the shingles of rejected apart from those of chosen

TextsOf = Callable[[Indices], list[str]]
"""Texts of the items at the given indices, which come sorted and without repetition."""

Judge = Callable[[Indices], NDArray[np.bool_]]
"""Which of the pairs (m, 2) of item indices are near-equal."""


def signatures(texts: Sequence[str]) -> Hashes:
    """Band hashes (n, BANDS) of each text: near-equal texts share some."""
    blocks = (texts[at : at + BLOCK] for at in range(0, len(texts), BLOCK))
    return _stacked([_bands(_shingles(word_hashes(block), block)) for block in blocks])


def row_signatures(
    prompts: Sequence[str], chosen: Sequence[str], rejected: Sequence[str]
) -> Hashes:
    """Band hashes (n, BANDS) of rows: of prompt + chosen and prompt + rejected as one set.

    The two sides' shingles are kept apart, so the similarity of two rows' sets is at least that of
    the less similar side, and rows that share only one answer do not crowd each other's buckets.
    """
    parts = []
    for at in range(0, len(prompts), BLOCK):
        block = slice(at, at + BLOCK)
        prompt = word_hashes(prompts[block])
        sides = [
            _shingles(
                _joined(prompt, word_hashes(answers[block])),
                [f"{p}\n{a}" for p, a in zip(prompts[block], answers[block], strict=True)],
            )
            for answers in (chosen, rejected)
        ]
        sides[1] = TextHashes(sides[1].hashes ^ TAG, sides[1].starts)
        parts.append(_bands(_joined(*sides)))
    return _stacked(parts)


def verify(pairs: Indices, texts_of: TextsOf, threshold: float) -> NDArray[np.bool_]:
    """Whether the texts of each pair (m, 2) have a Jaccard similarity of at least `threshold`."""
    verdicts = np.zeros(len(pairs), dtype=np.bool_)
    for at in range(0, len(pairs), PAIRS_AT_ONCE):
        part = pairs[at : at + PAIRS_AT_ONCE]
        items, places = np.unique(part, return_inverse=True)
        sets = _shingle_sets(texts_of(items))
        for index, (one, two) in enumerate(places.reshape(-1, 2).tolist(), at):
            first, second = sets[one], sets[two]
            if min(len(first), len(second)) >= threshold * max(len(first), len(second)):
                verdicts[index] = _similarity(first, second) >= threshold
    return verdicts


def groups(n: int, edges: Indices) -> Indices:
    """For each of n items the smallest index in its connected component; edges (m, 2)."""
    # A third of a second that processes which only sketch texts need not spend.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(edges), dtype=np.bool_)
    graph = coo_array((ones, (edges[:, 0], edges[:, 1])), shape=(n, n))
    _, labels = connected_components(graph, directed=False)
    _, first = np.unique(labels, return_index=True)
    return np.asarray(first[labels], dtype=np.int64)


def near_equal_groups(bands: Hashes, order: Indices, near_equal: Judge) -> Indices:
    """For each item the smallest index of its group of near-equal items.

    Every item is compared with the first of each of its buckets. Those that turn out different
    from it are a bucket of their own in the next round, so that one text that many others resemble
    (a task's fixed instruction, say) does not hide that these are equal among themselves. At most
    ROUNDS * BANDS comparisons an item, in 2 * ROUNDS calls of `near_equal`.
    """
    labels = np.arange(len(bands), dtype=np.int64)
    edges = np.empty((0, 2), dtype=np.int64)
    tried = np.empty(0, dtype=np.uint64)
    waiting: list[Indices | None] = [None] * bands.shape[1]
    for _ in range(ROUNDS):
        stars = _stars(bands, order, waiting)
        codes = np.unique(np.concatenate([_codes(star) for star in stars]))
        pairs = _pairs(np.setdiff1d(codes, tried, assume_unique=True))
        if not len(pairs):
            break
        tried = np.union1d(tried, codes)
        # Most items are settled by one comparison: it saves those with their other buckets' firsts.
        foremost = _foremost(pairs, order)
        for some in (pairs[foremost], pairs[~foremost]):
            open_pairs = some[labels[some[:, 0]] != labels[some[:, 1]]]
            edges = np.concatenate([edges, open_pairs[near_equal(open_pairs)]])
            labels = groups(len(bands), edges)
        waiting = [star[labels[star[:, 0]] != labels[star[:, 1]], 1] for star in stars]
    return labels


def keepers(labels: Indices, order: Indices) -> Indices:
    """For each item the index of the first, by `order`, of its group."""
    by_order = np.argsort(order)
    _, first, group = np.unique(labels[by_order], return_index=True, return_inverse=True)
    kept = np.empty(len(labels), dtype=np.int64)
    kept[by_order] = by_order[first[group]]
    return kept


def near_duplicate_reasons(kept: Indices, row_ids: pl.Series) -> pl.Series:
    """A reason for each row that is not its own keeper, else null."""
    stays = row_ids.gather(kept).str.slice(0, 12)
    another = pl.lit(pl.Series(kept != np.arange(len(kept))))
    sentence = pl.format("nearly the same as row {}, which stays", pl.lit(stays))
    return pl.select(pl.when(another).then(sentence).alias("reason")).to_series()


def _shingles(words: TextHashes, texts: Sequence[str]) -> TextHashes:
    """Shingle hashes of texts whose words are given."""
    hashes, starts = words.hashes, words.starts
    counts = np.diff(starts)
    # Behind the last text stand zeros, so that short texts need no arithmetic of their own.
    padded = np.concatenate([hashes, np.zeros(SHINGLE - 1, np.uint64)])
    terms = [WEIGHTS[k] * padded[k : k + len(hashes)] for k in range(SHINGLE)]
    whole = np.ones(len(hashes), dtype=np.bool_)
    for missing in range(1, SHINGLE):
        whole[starts[1:][counts >= missing] - missing] = False
    short = (counts > 0) & (counts < SHINGLE)
    for k in range(1, SHINGLE):
        ends_before = starts[:-1][short & (counts <= k)]
        terms[k][ends_before] = 0
    whole[starts[:-1][short]] = True
    found = mixed(terms[0] + terms[1] + terms[2])[whole]
    starts = np.concatenate([[0], np.cumsum(np.maximum(counts - SHINGLE + 1, counts > 0))])
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        own = [text_hash(folded(texts[index])) for index in empty.tolist()]
        found = np.insert(found, starts[empty], np.array(own, dtype=np.uint64))
        starts[1:] += np.cumsum(counts == 0)
    return TextHashes(found, starts)


def _joined(first: TextHashes, second: TextHashes) -> TextHashes:
    """Each text's hashes of `first` and behind them those of `second`."""
    starts = first.starts + second.starts
    hashes = np.empty(starts[-1], dtype=np.uint64)
    for part, shift in ((first, second.starts[:-1]), (second, first.starts[1:])):
        places = np.arange(len(part.hashes)) + np.repeat(shift, np.diff(part.starts))
        hashes[places] = part.hashes
    return TextHashes(hashes, starts)


def _bands(shingles: TextHashes) -> Hashes:
    """Band hashes (T, BANDS) of T texts of at least one shingle each."""
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        shingles.hashes, shingles.starts.astype(np.uint64), PERMUTATIONS, SEED
    )
    count = len(shingles) * PERMUTATIONS
    digests = np.fromiter(chain.from_iterable(matrix.to_rows()), dtype="<u4", count=count)
    words = digests.view("<u8").astype(np.uint64).reshape(len(shingles), BANDS, -1)
    bands = words[:, :, 0].copy()
    for part in range(1, words.shape[2]):
        bands = mixed(bands) + words[:, :, part]
    return mixed(bands)


def _stacked(parts: list[Hashes]) -> Hashes:
    return np.concatenate(parts) if parts else np.empty((0, BANDS), dtype=np.uint64)


def _shingle_sets(texts: Sequence[str]) -> list[Hashes]:
    """Each text's shingle hashes, sorted, without repetition."""
    sets: list[Hashes] = []
    for at in range(0, len(texts), BLOCK):
        block = texts[at : at + BLOCK]
        shingles = _shingles(word_hashes(block), block)
        sets.extend(np.unique(part) for part in np.split(shingles.hashes, shingles.starts[1:-1]))
    return sets


def _similarity(first: Hashes, second: Hashes) -> float:
    both = np.concatenate([first, second])
    both.sort()
    shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return shared / (len(both) - shared)


def _stars(bands: Hashes, order: Indices, waiting: Sequence[Indices | None]) -> list[Indices]:
    """For each band the pairs (first of the bucket, member); of all items or those waiting."""
    by_order = np.argsort(order).astype(np.int64)
    stars = []
    for band, some in enumerate(waiting):
        items = by_order if some is None else some[np.argsort(order[some])]
        keys = np.asarray(bands[:, band])[items]
        _, first, bucket = np.unique(keys, return_index=True, return_inverse=True)
        leaders = first[bucket]
        members = np.flatnonzero(leaders != np.arange(len(items)))
        stars.append(np.stack([items[leaders[members]], items[members]], axis=1))
    return stars


def _codes(pairs: Indices) -> Hashes:
    """Each pair of indices as one number, so that pairs can be sorted and found."""
    halves = pairs.astype(np.uint64)
    return (halves[:, 0] << np.uint64(32)) | halves[:, 1]


def _pairs(codes: Hashes) -> Indices:
    halves = [codes >> np.uint64(32), codes & np.uint64(0xFFFFFFFF)]
    return np.stack(halves, axis=1).astype(np.int64)


def _foremost(pairs: Indices, order: Indices) -> NDArray[np.bool_]:
    """Of each member's pairs the one with the first leader by `order`."""
    by_leader = np.lexsort((order[pairs[:, 0]], pairs[:, 1]))
    _, first = np.unique(pairs[by_leader, 1], return_index=True)
    foremost = np.zeros(len(pairs), dtype=np.bool_)
    foremost[by_leader[first]] = True
    return foremost
