"""Prompts held out once are barred for ever: recorded once, by version, whatever happens."""

import multiprocessing
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpo_pipeline.data.relations.held_out import barred_prompts, record_held_out
from schemas.errors import EnvironmentFault, UserError


def stored(folder: Path, key: str = "k") -> list[tuple[str, str, int]]:
    return pl.read_parquet(folder / f"{key}.parquet").rows()


def test_versions_count_what_is_new(tmp_path: Path) -> None:
    folder = tmp_path / "held_out"
    assert record_held_out(folder, "k", "d1", ["b", "a", "b"]) == 1
    assert record_held_out(folder, "k", "d2", ["c", "a"]) == 2
    assert record_held_out(folder, "k", "d3", ["a"]) == 2  # nothing new, no version
    assert stored(folder) == [("a", "d1", 1), ("b", "d1", 1), ("c", "d2", 2)]


def test_the_same_data_set_again_changes_nothing(tmp_path: Path) -> None:
    record_held_out(tmp_path, "k", "d1", ["a"])
    record_held_out(tmp_path, "k", "d2", ["a", "b"])
    before = (tmp_path / "k.parquet").read_bytes()
    assert record_held_out(tmp_path, "k", "d1", ["a"]) == 2
    assert record_held_out(tmp_path, "k", "d2", ["b", "a"]) == 2
    assert (tmp_path / "k.parquet").read_bytes() == before


def test_a_known_data_set_makes_no_second_version(tmp_path: Path) -> None:
    record_held_out(tmp_path, "k", "d1", ["a"])
    record_held_out(tmp_path, "k", "d2", ["b"])
    assert record_held_out(tmp_path, "k", "d1", ["c"]) == 2
    assert stored(tmp_path)[-1] == ("c", "d1", 1)


def test_only_other_policies_bar(tmp_path: Path) -> None:
    record_held_out(tmp_path, "one", "d", ["b", "a"])
    record_held_out(tmp_path, "two", "d", ["b", "c"])
    assert barred_prompts(tmp_path, "one").to_list() == ["b", "c"]
    assert barred_prompts(tmp_path).to_list() == ["a", "b", "c"]
    assert barred_prompts(tmp_path / "none", "one").to_list() == []


def test_no_prompts_make_no_file(tmp_path: Path) -> None:
    assert record_held_out(tmp_path, "k", "d", []) == 0
    assert barred_prompts(tmp_path).dtype == pl.String


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sets(st.sampled_from("abcdef")), max_size=6))
def test_nothing_that_was_recorded_is_ever_lost(
    tmp_path_factory: pytest.TempPathFactory, sets: list[set[str]]
) -> None:
    folder = tmp_path_factory.mktemp("held_out")
    seen: set[str] = set()
    for number, prompts in enumerate(sets):
        version = record_held_out(folder, "k", f"d{number}", prompts)
        seen |= prompts
        assert set(barred_prompts(folder)) == seen
        assert version <= number + 1


def test_concurrent_writers_wait_for_each_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=record_held_out, args=(tmp_path, "k", f"d{n}", [f"p{n}", "shared"]))
        for n in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    rows = stored(tmp_path)
    assert {row[0] for row in rows} == {"p0", "p1", "p2", "p3", "shared"}
    assert {row[2] for row in rows} == {1, 2, 3, 4}


def test_what_a_killed_writer_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".k.parquet").write_bytes(b"half")
    assert record_held_out(tmp_path, "k", "d", ["a"]) == 1
    assert barred_prompts(tmp_path).to_list() == ["a"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-10]),
        lambda path: path.write_bytes(b""),
        lambda path: pl.DataFrame({"prompt_id": ["a"]}).write_parquet(path),
        lambda path: pl.concat([pl.read_parquet(path)] * 2).write_parquet(path),
        lambda path: pl.read_parquet(path).with_columns(dataset_id=None).write_parquet(path),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: object) -> None:
    record_held_out(tmp_path, "k", "d", ["a"])
    damage(tmp_path / "k.parquet")  # type: ignore[operator]
    for use in (lambda: barred_prompts(tmp_path), lambda: record_held_out(tmp_path, "k", "e", [])):
        with pytest.raises(UserError, match=r"k\.parquet is damaged"):
            use()


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "held_out").write_text("")
    with pytest.raises(EnvironmentFault, match="held_out"):
        record_held_out(tmp_path / "held_out", "k", "d", ["a"])
