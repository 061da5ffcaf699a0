"""Rows that are forgotten: left out everywhere, counted, and remembered whatever happens."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prepared import EMPTY, GOOD, answer, check_account, frame, prompts, quarantined, report_of
from rows import pair_row

from orpo_pipeline.data.forgotten import (
    FORGOTTEN,
    mark_forgotten,
    read_marks,
    unmark_forgotten,
)
from orpo_pipeline.data.row_search import near_duplicates_of, resolve_row_id, row_uses
from schemas.errors import UserError
from schemas.pairs import DefectCode
from schemas.results import PreparedData

Prepare = Callable[..., PreparedData]


def row_ids(prepared: PreparedData) -> dict[int, str]:
    """Row id by the row's number in the file."""
    tables = ("train", "eval", "quarantine")
    return {
        number: row_id
        for table in tables
        for number, row_id in frame(prepared, table).select("origin_row", "row_id").iter_rows()
    }


def test_a_forgotten_row_and_its_copies_are_left_out_and_counted(
    prepare_rows: Prepare, tmp_path: Path
) -> None:
    rows = [*GOOD, GOOD[0]]
    before = prepare_rows(rows)
    row_id = row_ids(before)[1]
    assert mark_forgotten(tmp_path / "home", [row_id], "asked by mail") == [row_id]
    after = prepare_rows(rows)
    check_account(after)
    assert after.quarantined == {DefectCode.FORGOTTEN.value: 2}
    assert (before.duplicates, after.duplicates) == (1, 0)
    assert after.train_pairs + after.eval_pairs == before.train_pairs + before.eval_pairs - 1
    assert after.dataset_id != before.dataset_id
    assert "What is 0 plus 0?" not in prompts(after, "train") | prompts(after, "eval")
    assert quarantined(after)[1][1].startswith("somebody asked for it")

    assert unmark_forgotten(tmp_path / "home", [row_id]) == [row_id]
    assert prepare_rows(rows).dataset_id == before.dataset_id


def test_its_text_stands_in_no_report_whatever_else_was_wrong_with_it(
    prepare_rows: Prepare, tmp_path: Path
) -> None:
    secret = "A sentence nobody else would write."
    rows = [*GOOD, pair_row(200, chosen=answer(secret)), {**EMPTY, "rejected": answer(secret)}]
    before = prepare_rows(rows)
    assert secret in frame(before, "quarantine")["row"][0]
    ids = row_ids(before)
    mark_forgotten(tmp_path / "home", [ids[len(GOOD) + 1], ids[len(GOOD) + 2]], "")
    after = prepare_rows(rows)
    assert after.quarantined == {DefectCode.FORGOTTEN.value: 2}
    assert frame(after, "quarantine")["row"].to_list() == ["", ""]
    (defect,) = report_of(after).defects
    assert [example.text for example in defect.examples] == ["", ""]
    files = [after.path / "report.json", after.path / "train.parquet"]
    for file in (*files, *(after.path / "quarantine.parquet").iterdir()):
        assert secret.encode() not in file.read_bytes()


def test_rows_are_named_by_a_beginning_that_only_one_has(
    prepare_rows: Prepare, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    row_id = row_ids(prepare_rows(GOOD))[3]
    assert resolve_row_id(home, row_id[:10].upper()) == row_id
    assert resolve_row_id(home, "f" * 64) == "f" * 64  # may come later
    mark_forgotten(home, [f"{row_id[:8]}{'0' * 56}"], "")
    with pytest.raises(UserError, match=rf"2 rows have an id that begins with '{row_id[:8]}'"):
        resolve_row_id(home, row_id[:8])
    with pytest.raises(UserError, match="No prepared data has a row"):
        resolve_row_id(home, "123456789abc")
    for wanted in (row_id[:5], "rows.jsonl:1", "g" * 64):
        with pytest.raises(UserError, match="is no row id"):
            resolve_row_id(home, wanted)


def test_who_had_the_row_is_told_by_prepared_id(prepare_rows: Prepare, tmp_path: Path) -> None:
    with_it, without = prepare_rows(GOOD), prepare_rows(GOOD[1:], name="others.jsonl")
    trained = frame(with_it, "train")["row_id"][0]
    evaluated = frame(with_it, "eval")["row_id"][0]
    uses = row_uses(tmp_path / "home", {trained, evaluated, "f" * 64})
    assert uses[with_it.prepared_id].trained == {trained}
    assert uses[with_it.prepared_id].evaluated == {evaluated}
    assert without.prepared_id in uses


def test_a_row_that_was_nearly_the_same_is_named_before_it_takes_the_place(
    prepare_rows: Prepare, tmp_path: Path
) -> None:
    near = [pair_row(300, chosen=answer(f"{'so ' * 40}good{end}")) for end in (".", "!")]
    before = prepare_rows([*GOOD, *near])
    (left_out,) = frame(before, "quarantine")["row_id"]
    ids = row_ids(before)
    (stays,) = {ids[len(GOOD) + 1], ids[len(GOOD) + 2]} - {left_out}
    assert near_duplicates_of(tmp_path / "home", {stays}) == {left_out}
    mark_forgotten(tmp_path / "home", [stays], "")
    after = prepare_rows([*GOOD, *near])
    assert after.quarantined == {DefectCode.FORGOTTEN.value: 1}


@pytest.mark.parametrize("text", ["", "[]", '{"abc": {}}', '{"', '["' + "a" * 64 + '"]'])
def test_a_damaged_list_stops_everything(text: str, prepare_rows: Prepare, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / FORGOTTEN).write_text(text)
    with pytest.raises(UserError, match=r"list of forgotten rows .* is damaged"):
        prepare_rows(GOOD)
    with pytest.raises(UserError, match="is damaged"):
        mark_forgotten(tmp_path / "home", ["a" * 64], "")


def test_marks_of_several_processes_at_once_all_stay(tmp_path: Path) -> None:
    mark = """
import sys
from pathlib import Path
from orpo_pipeline.data.forgotten import mark_forgotten
for number in range(10):
    mark_forgotten(Path(sys.argv[1]), [f"{sys.argv[2]}{number:063d}"], "")
"""
    started = [
        subprocess.Popen([sys.executable, "-c", mark, str(tmp_path), digit]) for digit in "abc"
    ]
    assert [process.wait(120) for process in started] == [0, 0, 0]
    assert len(read_marks(tmp_path)) == 30
    assert set(json.loads((tmp_path / FORGOTTEN).read_text())["a" + "0" * 63]) == {
        "since",
        "because",
    }
