"""Which folders of the state folder nothing needs any more. Pure looking; nothing is removed here.

Whoever calls holds the lock of `use.not_in_use`: no run is at work, so that a temporary folder is a
dead process's.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orpo_pipeline.data.block_checks import ROWS
from orpo_pipeline.data.block_store import BLOCKS as LISTED_BLOCKS
from orpo_pipeline.data.inputs import BLOCKS
from orpo_pipeline.data.lineage import prepared_stages
from orpo_pipeline.data.quarantine import PART, QUARANTINED
from orpo_pipeline.data.row_lists import LINEAGE, is_row_list
from orpo_pipeline.retraining.snapshots import SNAPSHOTS
from orpo_pipeline.retraining.watermark import WATERMARKS, newest_training
from orpo_pipeline.stages import MANIFEST, Entries, manifest_entries
from schemas.retention_config import RetentionConfig

DAY = 86400.0
STAGES = ("adapters", "champions", "evaluations", "judgements", "prepared", SNAPSHOTS, LINEAGE)
TRAINING, EVALUATING = "training", "evaluating"


@dataclass(frozen=True)
class Kept:
    """What the registry says must stay, and what it knows."""

    adapters: frozenset[str]
    """Of the versions that stay."""
    registered: frozenset[str]
    """Adapters of any version that has its weights: those that are not kept go, others are
    unfinished work."""
    prepared: frozenset[str]
    """Prepared ids of the versions that stay, and of unfinished trainings."""
    evaluations: frozenset[str]
    """Of the versions that stay; of their judgements, too."""


@dataclass(frozen=True)
class Unused:
    """One folder that may go."""

    kind: str
    folder: Path


def find_unused(home: Path, kept: Kept, config: RetentionConfig) -> list[Unused]:
    """Everything that may go, in an order in which a kill between two leaves nothing half-valid."""
    looks = _Looks(home, kept, config.keep_looks)
    given_up = time.time() - config.unfinished_days * DAY

    def old(folder: Path) -> bool:
        return newest_change(folder) <= given_up

    found: list[Unused] = []

    def add(kind: str, folders: Iterable[Path]) -> None:
        found.extend(Unused(kind, folder) for folder in folders)

    add("temporary folders", _abandoned(home))
    add("damaged folders", filter(old, _damaged(home)))
    add("checkpoints", filter(old, _inside(home / TRAINING)))
    add("unfinished evaluations", filter(old, _inside(home / EVALUATING)))
    add("adapters", _adapters(home, kept, old))
    for name in ("evaluations", "judgements"):
        stages = _inside(home / name)
        add(name, (f for f in stages if f.name not in kept.evaluations and old(f)))
    add("champions' copies", filter(old, _inside(home / "champions")))
    add("snapshots", (f for f in _inside(home / SNAPSHOTS) if f.name not in looks.snapshots))
    add("prepared data", (f for f in _inside(home / "prepared") if f.name not in looks.prepared))
    add("checked blocks", _blocks(home, looks.prepared))
    return found


def open_adapters(home: Path, registered: frozenset[str], config: RetentionConfig) -> set[str]:
    """Ids of trainings that are not given up, and of adapters that wait to be registered."""
    given_up = time.time() - config.unfinished_days * DAY
    adapters = [f for f in _inside(home / "adapters") if f.name not in registered]
    work = [*_inside(home / TRAINING), *adapters]
    return {f.name for f in work if newest_change(f) > given_up}


def newest_change(folder: Path) -> float:
    """When it, or anything directly in it, was last written, in seconds since the epoch."""
    times = [folder.stat().st_mtime]
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return max(times)


def freed_bytes(folders: Iterable[Path]) -> int:
    """What the disk gets back: files whose every link is in these folders."""
    links: Counter[tuple[int, int]] = Counter()
    files: dict[tuple[int, int], tuple[int, int]] = {}
    for folder in folders:
        for path in folder.rglob("*") if folder.is_dir() else (folder,):
            if path.is_symlink() or not path.is_file():
                continue
            status = path.stat()
            inode = status.st_dev, status.st_ino
            links[inode] += 1
            files[inode] = status.st_size, status.st_nlink
    return sum(size for inode, (size, count) in files.items() if links[inode] >= count)


class _Looks:
    """The snapshots and prepared data that stay, by folder name."""

    def __init__(self, home: Path, kept: Kept, newest: int) -> None:
        trained = [newest_training(home, folder.name) for folder in _models(home)]
        self.snapshots = {one.snapshot_id for one in trained if one}
        self.snapshots.update(f.name for f in _newest_first(home / SNAPSHOTS)[:newest])
        self.prepared = {f.name for f in _newest_first(home / "prepared")[:newest]}
        for stage in prepared_stages(home):
            if stage.prepared_id in kept.prepared and not is_row_list(stage.folder):
                self.prepared.add(stage.folder.name)


def _inside(parent: Path) -> list[Path]:
    """Folders of a kind: not those that are being written, and none that was set aside."""
    found = sorted(parent.iterdir()) if parent.is_dir() else []
    return [f for f in found if f.is_dir() and "." not in f.name]


def _models(home: Path) -> list[Path]:
    """Folders of watermarks, named by models: their names may have a dot inside."""
    return sorted(f for f in (home / WATERMARKS).glob("[!.]*") if f.is_dir())


def _newest_first(parent: Path) -> list[Path]:
    complete = [f for f in _inside(parent) if (f / MANIFEST).is_file()]
    return sorted(complete, key=lambda f: (f / MANIFEST).stat().st_mtime, reverse=True)


def _stage_parents(home: Path) -> Iterator[Path]:
    yield from (home / name for name in (*STAGES, BLOCKS, TRAINING, EVALUATING))
    yield from _models(home)
    for settings in _inside(home / BLOCKS):
        yield from (settings, settings / "files", settings / "compared", settings / QUARANTINED)
        yield from _inside(settings / "compared")


def _abandoned(home: Path) -> Iterator[Path]:
    """What killed writers, and killed removals, left."""
    for parent in _stage_parents(home):
        yield from (path for path in sorted(parent.glob(".*.*")) if path.is_dir())


def _damaged(home: Path) -> Iterator[Path]:
    for parent in _stage_parents(home):
        yield from sorted(parent.glob("[!.]*.damaged"))


def _adapters(home: Path, kept: Kept, old: Callable[[Path], bool]) -> Iterator[Path]:
    for folder in _inside(home / "adapters"):
        # A whole model, which the train stage alone has made, is registered nowhere.
        if folder.name in kept.adapters or any(folder.glob("model*.safetensors")):
            continue
        if folder.name in kept.registered or old(folder):
            yield folder


def _blocks(home: Path, prepared: set[str]) -> Iterator[Path]:
    """Blocks and parts of quarantines that no kept prepared data holds, and lists of files that
    name such a block.

    They are known by their bytes, because a disk without hard links has copies.
    """
    used = {
        entry["sha256"]
        for name in prepared
        for entry in _entries(home / "prepared" / name).values()
    }
    for settings in _inside(home / BLOCKS):
        blocks = {f.name: f for f in _newest_first(settings)}
        stay = {
            name
            for name, folder in blocks.items()
            if _entries(folder).get(ROWS, {}).get("sha256") in used
        }
        if not stay:
            yield settings
            continue
        # The lists first: one that names a block that is gone would be read again for nothing.
        for listed in sorted((settings / "files").glob(f"[!.]*/{LISTED_BLOCKS}")):
            damaged = listed.parent.suffix == ".damaged"
            if not damaged and not {name for name, _ in json.loads(listed.read_text())} <= stay:
                yield listed.parent
        yield from (folder for name, folder in blocks.items() if name not in stay)
        for part in _newest_first(settings / QUARANTINED):
            if _entries(part).get(PART, {}).get("sha256") not in used:
                yield part


def _entries(folder: Path) -> Entries:
    """Of its manifest; none where that is damaged, because nobody uses such a stage."""
    try:
        return manifest_entries(folder)
    except (OSError, ValueError, LookupError, TypeError):
        return {}
