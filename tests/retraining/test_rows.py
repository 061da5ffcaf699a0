"""Which rows are there, and what has become of them since the last training."""

from collections.abc import Callable
from pathlib import Path

import pytest
from rows import pair_row, write_rows
from seen import frame, seen

from orpo_pipeline.data.preparation import prepare
from orpo_pipeline.retraining.rows import changes, count_new, rows_of
from schemas.config import RunConfig

BEFORE = [seen("a", 1), seen("b", 2), seen("c", 3)]


@pytest.mark.parametrize(
    ("now", "expected"),
    {
        "nothing": (BEFORE, (3, 0, 0, 0)),
        "one more": ([*BEFORE, seen("d", 4)], (4, 1, 0, 0)),
        "a late one in an old file": ([*BEFORE, seen("d", 1, origin="votes/old:9")], (4, 1, 0, 0)),
        "one edited in its place": ([seen("A", 1), *BEFORE[1:]], (3, 0, 1, 0)),
        "one gone": (BEFORE[:2], (2, 0, 0, 1)),
        # A line inserted above moves all others, which are the same rows still.
        "one above the others": (
            [seen("d", 1), seen("a", 2), seen("b", 3), seen("c", 4)],
            (4, 1, 0, 0),
        ),
        # a is gone and d is new, at another place: nothing says that one was the other.
        "one edited and moved": ([seen("d", 9), *BEFORE[1:]], (3, 1, 0, 1)),
        "another name of the file": (
            [seen(text, 1, origin=f"votes/b:{n}") for n, text in enumerate("abc")],
            (3, 0, 0, 0),
        ),
    }.values(),
)
def test_rows_are_known_by_content_and_edits_by_place(
    now: list[dict[str, object]], expected: tuple[int, int, int, int]
) -> None:
    (found,) = changes(frame(now), frame(BEFORE))
    assert (found.rows, found.added, found.changed, found.removed) == expected


def test_each_source_is_counted_by_itself_and_one_that_left_is_named() -> None:
    other = [seen("a", source="mail"), seen("x", source="mail")]
    found = changes(frame([seen("a"), *other]), frame([seen("a"), seen("z", source="gone")]))
    assert [(c.name, c.rows, c.added, c.removed) for c in found] == [
        ("gone", 0, 0, 1),
        ("mail", 2, 2, 0),
        ("votes", 1, 0, 0),
    ]


def test_new_accepted_rows_are_contents_that_no_training_had() -> None:
    before = [seen("a"), seen("b", accepted=False)]
    now = [
        seen("a"),
        seen("b"),  # was not accepted when the last model was trained
        seen("c"),
        seen("c", source="mail"),  # the same content once more
        seen("a", source="mail"),
        seen("d", accepted=False),
    ]
    assert count_new(frame(now), frame(before)) == 2  # b and c


def test_rows_of_prepared_data(
    tiny_config: Callable[..., RunConfig], prepared_home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "snapshot"
    (folder / "votes").mkdir(parents=True)
    (folder / "mail").mkdir()
    votes = [pair_row(1), pair_row(2), pair_row(2), pair_row(3, chosen=pair_row(3)["rejected"])]
    write_rows(
        folder / "votes" / "train-a.jsonl", [*votes, "{broken", *map(pair_row, range(9, 30))]
    )
    write_rows(folder / "mail" / "train-b.jsonl", [pair_row(5, source="forum"), "{broken"])
    config = tiny_config(data={"source": str(folder)})
    prepared = prepare(config, prepared_home, lambda *_: None)
    rows = rows_of(prepared.path)
    accepted = rows.filter("accepted")
    assert accepted.height == prepared.train_pairs + prepared.eval_pairs
    # The copy of row 2 is no content of its own; a broken line has the id of its text.
    assert rows.height == prepared.rows_in - 1
    assert rows["row_id"].bin.size().unique().to_list() == [32]
    mail = rows.filter(source="mail").sort("origin").to_dicts()
    assert [(r["origin"], r["label"], r["accepted"]) for r in mail] == [
        ("mail/train-b.jsonl:1", "forum", True),
        ("mail/train-b.jsonl:2", "mail", False),
    ]
    assert mail[0]["prompt_tokens"] > 0
    assert set(accepted.filter(source="votes")["label"]) == {"votes"}
