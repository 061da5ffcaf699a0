"""What may go from a state folder, and that removing it can be killed anywhere."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from prepared import frame
from rows import pair_row, write_rows
from seen import seen, watermark

from orpo_pipeline.data.lineage import find_stage, stage_rows
from orpo_pipeline.data.preparation import prepare
from orpo_pipeline.data.prepared_files import QUARANTINE
from orpo_pipeline.data.quarantine import PART, QUARANTINED
from orpo_pipeline.data.row_lists import FACTS, keep_row_list
from orpo_pipeline.data.row_search import resolve_row_id, row_uses
from orpo_pipeline.retention.removal import remove, rotate_log
from orpo_pipeline.retention.unused import Kept, find_unused, freed_bytes, open_adapters
from orpo_pipeline.retraining.snapshots import take_snapshot
from orpo_pipeline.retraining.watermark import commit_watermark
from orpo_pipeline.stages import is_complete, new_stage
from schemas.config import RunConfig
from schemas.results import PreparedData
from schemas.retention_config import RetentionConfig

NOTHING = Kept(frozenset(), frozenset(), frozenset(), frozenset())
Configure = Callable[..., RunConfig]


def kept(**names: set[str]) -> Kept:
    return Kept(**{**vars(NOTHING), **{name: frozenset(ids) for name, ids in names.items()}})


def config(**fields: Any) -> RetentionConfig:
    return RetentionConfig.model_validate({"keep_looks": 1, **fields})


def unused(home: Path, what: Kept = NOTHING, **fields: Any) -> dict[str, set[str]]:
    """Names of what may go, by kind."""
    found: dict[str, set[str]] = {}
    for one in find_unused(home, what, config(**fields)):
        found.setdefault(one.kind, set()).add(one.folder.name)
    return found


def stage(home: Path, name: str, days_ago: float = 0) -> Path:
    folder = home / name
    with new_stage(folder) as temporary:
        (temporary / "weights").write_bytes(b"x" * 1000)
    made_before(folder, days_ago)
    return folder


def made_before(folder: Path, days: float) -> None:
    when = time.time() - days * 86400
    for path in (*folder.iterdir(), folder):
        os.utime(path, (when, when))


def prepared_twice(home: Path, tiny_config: Configure, folder: Path) -> list[PreparedData]:
    """Sixty rows; then two more files of ten, of which the first is as it was."""
    source = folder / "rows"
    source.mkdir()
    write_rows(source / "train-a.jsonl", [pair_row(number) for number in range(60)])
    write_rows(source / "train-b.jsonl", [pair_row(number) for number in range(100, 110)])
    made = []
    for last in ("b", "c"):
        write_rows(source / f"train-{last}.jsonl", [pair_row(n) for n in range(100, 120)])
        made.append(prepare(tiny_config(data={"source": str(source)}), home, lambda *_: None))
        os.utime(made[-1].path / "manifest.json", ((last == "c" and 2e9) or 1e9,) * 2)
        (source / "train-b.jsonl").unlink(missing_ok=True)
    return made


def test_prepared_data_of_kept_versions_and_of_the_last_look_stays_with_its_blocks(
    tiny_config: Configure, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    first, second = prepared_twice(home, tiny_config, tmp_path)
    assert unused(home, kept(prepared={first.prepared_id})) == {}
    assert unused(home, keep_looks=2) == {}
    found = unused(home)
    assert found["prepared data"] == {first.path.name}
    assert "checked blocks" not in found  # both files' contents are in the newest, too
    before = freed_bytes([first.path])
    remove(first.path)
    assert 0 < before < sum(p.stat().st_size for p in second.path.rglob("*") if p.is_file())
    assert is_complete(second.path)


def test_blocks_that_no_prepared_data_holds_go_and_are_made_again_when_they_are_needed(
    tiny_config: Configure, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    make = tiny_config
    whole = prepare(make(), home, lambda *_: None)
    write_rows(tmp_path / "pairs.jsonl", [pair_row(number) for number in range(300, 360)])
    other = prepare(make(), home, lambda *_: None)
    os.utime(whole.path / "manifest.json", (1e9, 1e9))
    going = find_unused(home, NOTHING, config())
    kinds = [one.kind for one in going]
    assert kinds == ["prepared data", "checked blocks", "checked blocks"]  # a list, then its block
    assert going[1].folder.parent.name == "files"
    for one in going:
        remove(one.folder)
    assert unused(home) == {} and is_complete(other.path)
    write_rows(tmp_path / "pairs.jsonl", [pair_row(number) for number in range(60)])
    again = prepare(make(), home, lambda *_: None)
    assert not again.reused and again.dataset_id == whole.dataset_id


def test_a_part_of_a_quarantine_goes_with_the_last_data_that_hold_it(
    tiny_config: Configure, tmp_path: Path
) -> None:
    home, source = tmp_path / "home", tmp_path / "pairs.jsonl"
    rows = [pair_row(number) for number in range(60)]
    made = []
    for broken in ("[1]", "[2]"):
        write_rows(source, [*rows, broken])
        made.append(prepare(tiny_config(), home, lambda *_: None))
    parts = {path for one in made for path in (one.path / QUARANTINE).iterdir()}
    stored = list(home.glob(f"blocks/*/{QUARANTINED}/*"))
    assert len(parts) == len(stored) == 2
    os.utime(made[0].path / "manifest.json", (1e9, 1e9))
    going = [one.folder for one in find_unused(home, NOTHING, config())]
    (left,) = [folder for folder in stored if folder not in going]
    assert (left / PART).samefile(made[1].path / QUARANTINE / "00000.parquet")
    for folder in going:
        remove(folder)
    assert is_complete(made[1].path) and unused(home) == {}


def test_the_watermarks_snapshot_and_the_newest_stay(
    tiny_config: Configure, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    taken = []
    for number in range(4):
        write_rows(tmp_path / "pairs.jsonl", [pair_row(number)])
        taken.append(take_snapshot(tiny_config(), home).snapshot_id)
        os.utime(home / "snapshots" / taken[-1] / "manifest.json", (1e9 + number,) * 2)
    dotted = watermark([seen("a")], model_name="orpo.chat", snapshot_id=taken[0])
    commit_watermark(home, dotted)
    assert unused(home)["snapshots"] == {taken[1], taken[2]}
    assert unused(home, keep_looks=2)["snapshots"] == {taken[1]}


def test_unfinished_work_stays_for_its_days_and_registered_work_by_its_version(
    tmp_path: Path,
) -> None:
    for name, days in (("kept", 90), ("registered", 0), ("open", 1), ("given-up", 15)):
        stage(tmp_path, f"adapters/{name}", days)
        stage(tmp_path, f"evaluations/e-{name}", days)
    whole = stage(tmp_path, "adapters/whole")
    (whole / "model.safetensors").touch()
    made_before(whole, 90)
    for name, days in (("training-now", 1), ("left", 15), ("registered", 0)):
        folder = tmp_path / "training" / name / "checkpoint-2"
        folder.mkdir(parents=True)
        made_before(folder.parent, days)
    what = kept(adapters={"kept"}, registered={"kept", "registered"}, evaluations={"e-kept"})
    assert unused(tmp_path, what) == {
        "adapters": {"registered", "given-up"},
        "checkpoints": {"left"},
        "evaluations": {"e-given-up"},
    }
    # What is registered is being trained once more.
    open_now = {"open", "training-now", "registered"}
    assert open_adapters(tmp_path, what.registered, config()) == open_now


def test_what_killed_writers_and_old_damages_left_goes(tmp_path: Path) -> None:
    (tmp_path / "snapshots" / ".look.abc.partial").mkdir(parents=True)
    (tmp_path / "adapters" / ".id.123.beefbeef").mkdir(parents=True)
    for name, days in (("new.damaged", 0), ("old.damaged", 20)):
        folder = tmp_path / "prepared" / name
        folder.mkdir(parents=True)
        made_before(folder, days)
    assert unused(tmp_path) == {
        "temporary folders": {".look.abc.partial", ".id.123.beefbeef"},
        "damaged folders": {"old.damaged"},
    }


def test_rows_of_pruned_data_are_still_found(tiny_config: Configure, tmp_path: Path) -> None:
    home = tmp_path / "home"
    prepared = prepare(tiny_config(), home, lambda *_: None)
    trained, evaluated = (frame(prepared, side)["row_id"][0] for side in ("train", "eval"))
    wanted = {trained, evaluated, "f" * 64}
    uses, rows = row_uses(home, wanted), stage_rows(prepared.path)
    found = find_stage(home, prepared.dataset_id, prepared.prepared_id)
    assert found is not None
    keep_row_list(home, rows, {name: getattr(found, name) for name in FACTS})
    remove(prepared.path)
    assert row_uses(home, wanted) == uses
    assert uses[prepared.prepared_id].trained == {trained}
    assert resolve_row_id(home, trained[:10]) == trained
    listed = find_stage(home, prepared.dataset_id, prepared.prepared_id)
    assert listed is not None and listed.train_pairs == prepared.train_pairs
    assert stage_rows(listed.folder).equals(rows)
    assert unused(home) == {"checked blocks": {p.name for p in home.glob("blocks/*") if p.is_dir()}}


KILLED = """
import os, signal, sys
from pathlib import Path
from orpo_pipeline.retention import removal
left = int(sys.argv[2])
def step(event, arguments):
    global left
    if event in ("os.rename", "os.remove", "os.rmdir"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(step)
removal.remove(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_removal_that_is_killed_leaves_a_whole_stage_or_none(tmp_path: Path, step: int) -> None:
    folder = stage(tmp_path, "adapters/one")
    command = [sys.executable, "-c", KILLED, str(folder), str(step)]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    assert is_complete(folder) == (step == 1)
    assert folder.exists() == (step == 1)
    for one in find_unused(tmp_path, kept(registered={"one"}), config()):
        remove(one.folder)
    assert list((tmp_path / "adapters").iterdir()) == []


def test_a_log_is_cut_while_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "mlflow.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"a" * 100)
        assert not rotate_log(log, 100)
        assert rotate_log(log, 99)
        writer.write(b"after")
    assert log.read_bytes() == b"after"
    assert (tmp_path / "mlflow.log.1").read_bytes() == b"a" * 100


def test_a_damaged_manifest_stops_no_prune(tiny_config: Configure, tmp_path: Path) -> None:
    home = tmp_path / "home"
    prepared = prepare(tiny_config(), home, lambda *_: None)
    (prepared.path / "manifest.json").write_text("{")
    (settings,) = (p for p in home.glob("blocks/*") if p.is_dir())
    assert unused(home) == {"checked blocks": {settings.name}}
    assert pl.read_parquet(prepared.path / "train.parquet").height == prepared.train_pairs
    assert json.loads((prepared.path / "record.json").read_text())
