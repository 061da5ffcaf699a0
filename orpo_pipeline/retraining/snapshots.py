"""What all watched sources hold now, as a folder that nothing changes any more.

    snapshots/ID/rows/SOURCE/...    the sources' files: `data.source` of a training
    snapshots/ID/snapshot.json, manifest.json

ID is the hash of the files' names and contents. A file is copied once: later snapshots link to the
copy of an earlier one. They do not link to a landing folder's own files, which may be appended to
or edited in place, and every link would change with them.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from orpo_pipeline.data.inputs import BLOCKS
from orpo_pipeline.data.reading.files import HUB_PATTERNS, find_files, name_with_split
from orpo_pipeline.data.source_hashes import SourceHashes
from orpo_pipeline.hub import download_snapshot, looks_like_hub_id
from orpo_pipeline.retraining.sql_rows import write_rows
from orpo_pipeline.stages import (
    MANIFEST,
    Entries,
    file_sha256,
    fingerprint,
    held,
    is_complete,
    manifest_entries,
    new_stage,
    remove_abandoned,
)
from schemas.config import DataConfig, RunConfig
from schemas.errors import EnvironmentFault, UserError
from schemas.retraining import Snapshot, SourceState
from schemas.retraining_config import FilesSource, HubSource, SqlSource, WatchedSource

SNAPSHOTS, ROWS, RECORD = "snapshots", "rows", "snapshot.json"
DATA = "data"
"""Name of the source that `data.source` is, where no other is watched."""

Listed = list[tuple[str, "FoundFile", str]]
"""Name in the snapshot, file, SHA-256."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file of a source; one that is never written to again may be linked to."""

    path: Path
    final: bool


@dataclass(frozen=True, slots=True)
class Found:
    """A source's files by their names below its folder, and the commit that it is at."""

    name: str
    files: dict[str, FoundFile]
    commit: str | None = None


def take_snapshot(config: RunConfig, home: Path) -> Snapshot:
    """The snapshot of now; an earlier one where nothing has changed since.

    Raises UserError for a source that is empty, missing or misnamed, or is written to meanwhile;
    EnvironmentFault when a database, the hub or the disk fails.
    """
    hashes = SourceHashes(home / BLOCKS / "source-hashes.json")
    with _scratch(home / SNAPSHOTS) as scratch:
        sources = [_find(source, config.data, scratch) for source in watched(config)]
        listed = [
            (f"{ROWS}/{source.name}/{name}", file, hashes.sha256(file.path))
            for source in sources
            for name, file in source.files.items()
        ]
        hashes.save()
        folder = home / SNAPSHOTS / fingerprint({name: sha256 for name, _, sha256 in listed})
        snapshot = Snapshot(
            path=folder / ROWS,
            snapshot_id=folder.name,
            sources=tuple(_state(source, listed) for source in sources),
        )
        if not is_complete(folder):
            _write(snapshot, folder, listed)
    return snapshot


def watched(config: RunConfig) -> tuple[WatchedSource, ...]:
    """The sources that the configuration names, or `data.source`.

    Raises UserError for one that is named like a split: a file's folder may say its split.
    """
    data = config.data
    for source in config.retraining.sources:
        if source.name in (data.train_split, data.eval_split):
            raise UserError(
                f"The source {source.name!r} has the name of a split.",
                "another name: a folder named like a split holds that split's files.",
                "Rename it in retraining.sources.",
            )
    if config.retraining.sources:
        return config.retraining.sources
    if looks_like_hub_id(data.source) and not Path(data.source).exists():
        return (HubSource(name=DATA, dataset=data.source, revision=data.revision),)
    return (FilesSource(name=DATA, path=data.source),)


def on_snapshot(config: RunConfig, snapshot: Snapshot) -> RunConfig:
    """The configuration of a training on the snapshot."""
    data = config.data.model_copy(update={"source": str(snapshot.path), "revision": None})
    return config.model_copy(update={"data": data})


def _find(source: WatchedSource, data: DataConfig, scratch: Path) -> Found:
    if isinstance(source, SqlSource):
        path = scratch / f"{source.name}.jsonl"
        write_rows(source, path)
        return Found(source.name, {f"{data.train_split}-rows.jsonl": FoundFile(path, final=True)})
    if isinstance(source, HubSource):
        folder = download_snapshot(source.dataset, source.revision, "dataset", HUB_PATTERNS)
        return Found(source.name, _files(str(folder), data, final=True), folder.name)
    return Found(source.name, _files(source.path, data, final=False))


def _files(source: str, data: DataConfig, final: bool) -> dict[str, FoundFile]:
    """Files of the splits that are read, each by a name that says its split."""
    given = data.model_copy(update={"source": source, "revision": None})
    return {
        name_with_split(file, split): FoundFile(file.path, final)
        for split, files in find_files(given).items()
        for file in files
    }


def _state(source: Found, listed: Listed) -> SourceState:
    prefix = f"{ROWS}/{source.name}/"
    contents = {name: sha256 for name, _, sha256 in listed if name.startswith(prefix)}
    return SourceState(name=source.name, revision=source.commit or fingerprint(contents))


def _write(snapshot: Snapshot, folder: Path, listed: Listed) -> None:
    """Publish the snapshot, with links to what an earlier one has copied already."""
    earlier = _newest(folder.parent)
    copies = _copies(earlier) if earlier else {}
    linked: Entries = {}
    with new_stage(folder, linked) as temporary:
        for name, file, sha256 in listed:
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if earlier and sha256 in copies and _link(earlier / copies[sha256], target):
                linked[name] = manifest_entries(earlier)[copies[sha256]]
            elif not (file.final and _link(file.path.resolve(), target)):
                shutil.copyfile(file.path, target)
                _require_unchanged(file.path, target, sha256)
        text = snapshot.model_dump_json(indent=1, exclude={"path"})
        (temporary / RECORD).write_text(text, encoding="utf-8")


def _newest(folder: Path) -> Path | None:
    """The last complete snapshot; its files are as they were written."""
    manifests = folder.glob(f"[!.]*/{MANIFEST}")
    for manifest in sorted(manifests, key=lambda m: m.stat().st_mtime, reverse=True):
        if "." not in manifest.parent.name and is_complete(manifest.parent):
            return manifest.parent
    return None


def _copies(snapshot: Path) -> dict[str, str]:
    """Its files by their SHA-256."""
    return {entry["sha256"]: name for name, entry in manifest_entries(snapshot).items()}


def _link(file: Path, target: Path) -> bool:
    try:
        os.link(file, target)
    except OSError:  # another file system, or one without links
        return False
    return True


def _require_unchanged(file: Path, copy: Path, sha256: str) -> None:
    if file_sha256(copy) != sha256:
        raise UserError(
            f"The data file {file} changed while it was copied.",
            "files that are complete when they appear in a watched folder.",
            "Write them elsewhere on the same disk and move them there; then start again.",
        )


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for the rows of queries, on the snapshots' own disk."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)
        with (
            TemporaryDirectory(prefix=".look.", suffix=".partial", dir=folder) as scratch,
            held(Path(scratch)),
        ):
            yield Path(scratch)
    except OSError as error:
        raise EnvironmentFault(
            f"Looking at the sources failed: {error}.",
            "files that can be read, and a state folder with space left.",
            "Correct the permissions or free space; then start the same command again.",
        ) from error
