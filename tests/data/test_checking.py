"""Checking blocks: what is written down, and quoted in errors, of rows that are no pairs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prepared import GOOD, frame
from rows import pair_row, write_rows

from orpo_pipeline.data.checking import CheckedBlock, RowChecker
from orpo_pipeline.data.reading.files import SourceFile
from orpo_pipeline.data.reading.readers import read_blocks
from orpo_pipeline.data.reading.streams import LONGEST_BROKEN
from orpo_pipeline.data.rules.redaction import CUT_EDGE
from schemas.config import RunConfig
from schemas.results import PreparedData

MakeConfig = Callable[..., RunConfig]
Prepare = Callable[..., PreparedData]
KEY = "ghp_" + "a1B2c3D4e5F6" * 3
MAIL = "jane.doe@acme-mail.com"


def check(path: Path, config: RunConfig, model: Path) -> CheckedBlock:
    (block,) = read_blocks(SourceFile(path, path.name))
    return RowChecker(config, model).check(block)


ROWS: list[Any] = [
    *GOOD,
    f'{{"prompt": "my key is {KEY} and {MAIL}',
    f'{{"{MAIL}": 1, "{MAIL}": 2}}',
    pair_row(50, chosen={"text": f"né\n{MAIL}", "keys": [KEY]}),
    {MAIL: KEY, "card": 4111111111111111},
    [MAIL, KEY],
]


@pytest.mark.parametrize("dialect", [None, "trl_explicit"])
def test_unparsed_rows_are_written_down_redacted(
    dialect: str | None, prepare_rows: Prepare
) -> None:
    prepared = prepare_rows(ROWS, dialect=dialect, max_quarantined_share=1.0)
    rows = frame(prepared, "quarantine")
    assert rows.height == len(ROWS) - len(GOOD)
    shown = "".join(rows["row"].to_list() + rows["reason"].to_list())
    for secret in (KEY, MAIL, "4111111111111111"):
        assert secret not in shown
    assert "[SECRET]" in shown and "[EMAIL]" in shown and "[CARD]" in shown


def test_what_is_kept_is_written_down_as_it_is(prepare_rows: Prepare) -> None:
    kept = prepare_rows(ROWS, secrets="keep", personal_data="keep", max_quarantined_share=1.0)
    rows = frame(kept, "quarantine")["row"].to_list()
    assert all(KEY in row or MAIL in row for row in rows)


def test_unknown_keys_are_redacted_in_the_reason(
    tiny_config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    # The address would be cut in two where keys are cut.
    path = write_rows(tmp_path / "rows.jsonl", [{"k" * 190: 1, MAIL: 2}])
    checked = check(path, tiny_config(), tiny_model)
    (reason,) = checked.index["reason"]
    assert "k" * 190 in reason and "jane" not in reason


def test_a_key_at_the_cut_of_an_unreadable_row_goes(
    tiny_config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    begin = "word " * ((LONGEST_BROKEN - 20) // 5)
    path = write_rows(tmp_path / "rows.jsonl", [*GOOD[:2], f"{begin}{KEY}{' more' * 99}"])
    text = check(path, tiny_config(), tiny_model).rows["text"].to_pylist()[2]
    assert text == begin[: len(text)]
    assert LONGEST_BROKEN - len(text) == CUT_EDGE
    path = write_rows(tmp_path / "rows.jsonl", [json.dumps([f"{'word ' * 6000}{KEY}"])])
    assert "ghp_" not in check(path, tiny_config(), tiny_model).rows["text"].to_pylist()[0]


def test_a_benchmark_file_may_stand_below_the_home_folder(
    tiny_config: MakeConfig, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "b.txt").write_text("What is 1 plus 1?\n")
    path = write_rows(tmp_path / "rows.jsonl", GOOD[:3])
    checked = check(path, tiny_config(data={"benchmarks": "~/b.txt"}), tiny_model)
    assert checked.index["code"].to_list() == [None, "benchmark_prompt", None]


def test_a_blocks_first_keys_are_without_the_name_of_its_file(
    tiny_config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "a file with (spaces).jsonl", GOOD[:2])
    checked = check(path, tiny_config(), tiny_model)
    assert checked.first == "(prompt, chosen, rejected)"
    assert checked.dialects[0] == "trl_explicit"
