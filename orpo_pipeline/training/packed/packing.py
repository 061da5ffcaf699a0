"""Which pairs share a forward pass, and which a rank takes. Pure, no torch."""

from collections.abc import Sequence

Pack = list[int]
"""Indices of the pairs that one forward pass computes together."""


def pack_pairs(tokens: Sequence[int], budget: int) -> list[Pack]:
    """First-fit decreasing: packs of at most `budget` tokens, their pairs in the order given.

    A pair longer than the budget has a pack of its own. The plain bin-packing heuristic of
    Johnson 1973, at most 11/9 of the fewest packs + 1. The fullest pack comes first: what it frees
    has room for all that a later one needs (docs/performance.md).

    Args:
        tokens: prompt + chosen + rejected of each pair.
        budget: tokens that a forward pass may hold.
    """
    packs: list[Pack] = []
    room: list[int] = []
    for index in _longest_first(tokens):
        fitting = next((n for n, left in enumerate(room) if left >= tokens[index]), None)
        if fitting is None:
            fitting = len(packs)
            packs.append([])
            room.append(budget)
        packs[fitting].append(index)
        room[fitting] -= tokens[index]
    fullest_first = sorted(range(len(packs)), key=room.__getitem__)
    return [sorted(packs[number]) for number in fullest_first]


def balance(tokens: Sequence[int], ranks: int) -> list[list[int]]:
    """Pairs of each rank, so that every rank has about as many tokens.

    Longest first to the rank with the fewest tokens (Graham 1969): the fullest rank has at most
    4/3 of the best possible.
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    held = [0] * ranks
    for index in _longest_first(tokens):
        rank = held.index(min(held))
        shares[rank].append(index)
        held[rank] += tokens[index]
    return [sorted(share) for share in shares]


def _longest_first(tokens: Sequence[int]) -> list[int]:
    return sorted(range(len(tokens)), key=lambda index: (-tokens[index], index))
