"""Preferences in a circle: all edges on it, and no other."""

import networkx as nx
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from orpo_pipeline.data.relations.contradictions import contradiction_reasons

Row = tuple[str, int, int]

WAY_ROUND = "another row prefers these two answers the other way round"


def frame(rows: list[Row]) -> pl.DataFrame:
    schema = {"prompt_id": pl.String, "chosen_key": pl.UInt64, "rejected_key": pl.UInt64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def found(*rows: Row) -> set[int]:
    return set(contradiction_reasons(frame(list(rows))).is_not_null().arg_true().to_list())


def test_two_rows_the_other_way_round() -> None:
    reasons = contradiction_reasons(frame([("p", 1, 2), ("p", 3, 4), ("p", 2, 1), ("p", 1, 2)]))
    assert reasons.to_list() == [WAY_ROUND, None, WAY_ROUND, WAY_ROUND]


def test_a_circle_of_three_and_what_hangs_on_it() -> None:
    rows = [("p", 1, 2), ("p", 2, 3), ("p", 3, 1), ("p", 9, 1), ("p", 3, 8)]
    circle = "the prompt's rows prefer 3 answers in a circle"
    assert contradiction_reasons(frame(rows)).to_list() == [circle] * 3 + [None] * 2


def test_a_row_between_two_circles_lies_on_neither() -> None:
    # 1 <-> 2 -> 3 <-> 4: the row 2 -> 3 passes the first sieve, and is on no circle.
    assert found(("p", 1, 2), ("p", 2, 1), ("p", 2, 3), ("p", 3, 4), ("p", 4, 3)) == {0, 1, 3, 4}


def test_what_nearly_contradicts() -> None:
    assert found() == set()
    assert found(("p", 1, 2)) == set()
    assert found(("p", 1, 2), ("q", 2, 1)) == set()  # another prompt
    assert found(("p", 1, 2), ("p", 2, 3), ("p", 1, 3)) == set()  # a chain
    assert found(("p", 1, 1), ("p", 1, 2)) == set()  # an identical pair is another rule's
    assert found(("p", 2**64 - 1, 2**63), ("p", 2**63, 2**64 - 1)) == {0, 1}


def plain(rows: list[Row]) -> set[int]:
    """Each prompt's graph by itself, through networkx."""
    bad: set[int] = set()
    for prompt in {row[0] for row in rows}:
        graph = nx.DiGraph((a, b) for p, a, b in rows if p == prompt)
        for component in nx.strongly_connected_components(graph):
            if len(component) > 1:
                bad |= {
                    index
                    for index, (p, a, b) in enumerate(rows)
                    if p == prompt and a in component and b in component
                }
    return bad


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("pq"), st.integers(0, 5), st.integers(0, 5)), max_size=14)
)
def test_agrees_with_networkx_prompt_by_prompt(rows: list[Row]) -> None:
    assert found(*rows) == plain(rows)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("pq"), st.integers(0, 4), st.integers(0, 4)), max_size=12),
    st.randoms(use_true_random=False),
)
def test_order_changes_nothing(rows: list[Row], shuffler: object) -> None:
    shuffled = list(rows)
    shuffler.shuffle(shuffled)  # type: ignore[attr-defined]
    assert {rows[i] for i in found(*rows)} == {shuffled[i] for i in found(*shuffled)}


def test_a_circle_of_a_hundred_thousand_answers() -> None:
    count = 100_000
    rows = frame([("p", number, (number + 1) % count) for number in range(count)])
    assert contradiction_reasons(rows).null_count() == 0
