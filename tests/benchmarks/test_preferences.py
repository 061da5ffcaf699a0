"""The generator of benchmark rows: the same every time, as long as asked for, planted as said."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from rows import read_rows

from orpo_pipeline.data.dialects import find_dialect
from orpo_pipeline.data.reading.files import SourceFile
from orpo_pipeline.data.reading.readers import RawRow
from orpo_pipeline.data.rules.checks import check_pair
from schemas.config import DataConfig
from schemas.pairs import Defect, DefectCode, Pair

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "preferences.py"
ROWS = 4000
REPETITIONS = {"near_prompt": 0.02, "near_row": 0.005, "exact": 0.002}
COLUMNS = [
    *("prompt", "prompt_id", "chosen", "rejected", "messages"),
    *("score_chosen", "score_rejected"),
]
OF_TOKENS = {DefectCode.CONTROL_TOKEN_NEUTRALISED}


@dataclass(frozen=True)
class Made:
    """A generated file, and what the generator says it planted."""

    path: Path
    planted: dict[str, int]

    @property
    def lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines()

    @property
    def rows(self) -> list[RawRow]:
        return list(read_rows(SourceFile(self.path, self.path.name)))


def make(path: Path, rows: int, seed: int, *options: str) -> Made:
    command = [sys.executable, str(SCRIPT), str(path), f"--rows={rows}", f"--seed={seed}", *options]
    done = subprocess.run(command, capture_output=True, check=True)
    return Made(path, json.loads(done.stdout))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("made") / "rows.jsonl", ROWS, 1)


@pytest.fixture(scope="module")
def pairs(made: Made) -> list[Pair]:
    found = [parse(row) for row in made.rows]
    return [pair for pair in found if isinstance(pair, Pair)]


def parse(row: RawRow) -> Pair | Defect:
    if isinstance(row.value, Defect):
        return row.value
    dialect = find_dialect(row.value)
    assert dialect is not None and dialect.name == "ultrafeedback"
    return dialect.parse(row.value, row.origin)


def test_same_seed_same_bytes(made: Made, tmp_path: Path) -> None:
    again = make(tmp_path / "again.jsonl", ROWS, 1)
    assert again.path.read_bytes() == made.path.read_bytes()
    assert again.planted == made.planted


def test_another_seed_other_rows(made: Made, tmp_path: Path) -> None:
    other = make(tmp_path / "other.jsonl", 50, 2)
    assert set(other.lines).isdisjoint(made.lines)


def test_a_longer_file_begins_with_the_shorter_one(made: Made, tmp_path: Path) -> None:
    shorter = make(tmp_path / "shorter.jsonl", 1234, 1)
    assert len(shorter.lines) == 1234
    assert made.lines[:1234] == shorter.lines


def test_rows_and_columns_are_as_asked_for(made: Made) -> None:
    assert len(made.lines) == ROWS
    assert list(json.loads(made.lines[0])) == COLUMNS


def test_repetition_is_planted_in_its_shares(made: Made) -> None:
    for kind, share in REPETITIONS.items():
        # Four standard deviations of a binomial number.
        assert made.planted[kind] == pytest.approx(share * ROWS, abs=4 * (share * ROWS) ** 0.5)
    defects = sum(made.planted.values()) - sum(made.planted[kind] for kind in REPETITIONS)
    assert defects == pytest.approx(20, abs=4 * 20**0.5)
    assert ROWS - len(set(made.lines)) == made.planted["exact"]


def test_planted_defects_are_what_the_gate_finds(made: Made) -> None:
    config = DataConfig()
    found: Counter[str] = Counter()
    for row in made.rows:
        parsed = parse(row)
        if isinstance(parsed, Defect):
            found[parsed.code] += 1
            continue
        checked = check_pair(parsed, config)
        found.update(note.code for note in checked.notes)
        if checked.defect is not None:
            found[checked.defect.code] += 1
    ties = found.pop(DefectCode.SCORE_TIE)
    assert ties == pytest.approx(0.11 * ROWS, rel=0.2)
    found.pop(DefectCode.ANSWER_IS_PREFIX, None)
    planted = {k: n for k, n in made.planted.items() if k not in (*REPETITIONS, *OF_TOKENS)}
    assert found == planted


def test_readable_rows_are_json_of_one_shape(tmp_path: Path) -> None:
    made = make(tmp_path / "readable.jsonl", 3000, 3, "--readable")
    rows = [json.loads(line) for line in made.lines]
    assert {tuple(row) for row in rows} == {tuple(COLUMNS)}
    for row in rows:
        for side in ("chosen", "rejected"):
            assert [turn["role"] for turn in row[side]] == ["user", "assistant"]
            assert row[side][0]["content"] == row["prompt"]
            assert isinstance(row[side][1]["content"], str)
    assert sum(made.planted[kind] for kind in made.planted if kind not in REPETITIONS) > 0


def test_lengths_are_spread_like_real_ones(pairs: list[Pair]) -> None:
    # The sample's tokens have 4.4 characters in answers; its medians are 84, 210 and 194 tokens.
    for side, median in (("prompt", 84), ("chosen", 210), ("rejected", 194)):
        lengths = sorted(len(getattr(pair, side)[-1].content) for pair in pairs)
        middle, long = lengths[len(lengths) // 2], lengths[len(lengths) * 95 // 100]
        assert middle == pytest.approx(4.2 * median, rel=0.2)
        assert long > 3 * middle
    assert 0.1 < sum(not pair.prompt[-1].content.isascii() for pair in pairs) / len(pairs) < 0.2
    assert 0.05 < sum("```" in pair.chosen[0].content for pair in pairs) / len(pairs) < 0.15
