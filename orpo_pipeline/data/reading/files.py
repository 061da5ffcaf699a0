"""Files of preference data: found, named, checked, and assigned to splits."""

import glob
import importlib.resources
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path, PurePosixPath

from orpo_pipeline.hub import download_snapshot, looks_like_hub_id
from schemas.config import EMBEDDED, DataConfig
from schemas.errors import UserError

EMBEDDED_PAIRS = "preferences.jsonl"
TEXT_FORMATS = (".jsonl", ".ndjson", ".json", ".csv")
SUFFIXES = (
    *(f"{text}{packed}" for text in TEXT_FORMATS for packed in ("", ".gz", ".zst")),
    ".parquet",
    ".arrow",
)
HUB_PATTERNS = [f"*{suffix}" for suffix in SUFFIXES]
# What `datasets` writes beside the rows: its own records, and results of `map`, `filter`, `sort`.
# And what `data report` writes.
NO_ROWS = re.compile(
    r"(dataset_infos?|dataset_dict|state)\.json|cache-[0-9a-f].*\.arrow|.*\.report\.json"
)
TEST_SET = re.compile(r"(test|eval|evaluation|val|valid|validation|dev)(_\w+)?([.-]|$)")
HUB_FOLDERS = ("datasets--", "models--")
MAGIC = re.compile(r"[*?[]")
MOST_FILES = 100_000  # of a glob; links that lead upwards make it find files without end
LISTED = 5  # files that an error names


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file and the name under which reports show it."""

    path: Path
    name: str


def find_files(config: DataConfig) -> dict[str, list[SourceFile]]:
    """Source files by split name. Hub ids are downloaded first.

    Raises UserError when there is nothing to read or nothing for a split that the config names,
    when a file of these splits is empty, unreadable or no regular file, and when a link below the
    source leads out of it.
    """
    try:
        root, files = _list_files(config)
    except OSError as error:
        raise UserError(
            f"The data source {config.source!r} cannot be listed: {error}.",
            "files and folders that may be read and stay as they are meanwhile.",
            "Correct the permissions or the broken link, or try again when nothing changes there.",
        ) from error
    by_split: dict[str, list[SourceFile]] = {}
    for split in filter(None, (config.train_split, config.eval_split)):
        found = [f for f in files if _belongs_to(f, split)]
        if not found and config.eval_split is None and not _has_held_out(files):
            found = files
        if not found:
            names = ", ".join(f.name for f in files[:LISTED]) or "no data file at all"
            raise UserError(
                f"No file of split {split!r} in {root}; found {names}.",
                f"files named {split}.* or {split}-* with one of {', '.join(SUFFIXES)}.",
                "Correct data.train_split and data.eval_split, or data.source.",
            )
        _require_content(found)
        by_split[split] = found
    return by_split


def name_with_split(file: SourceFile, split: str) -> str:
    """The file's name, made to say its split wherever the file lies; two names stay two."""
    if _belongs_to(file, split):
        return file.name
    path = PurePosixPath(file.name)
    return str(path.with_name(f"{split}-{path.name}"))


def unreadable(file: SourceFile, error: Exception) -> UserError:
    """The error of a file that cannot be read as a whole."""
    return UserError(
        f"The data file {file.path} cannot be read: {error}.",
        f"a readable, complete file of one of the types {', '.join(SUFFIXES)}.",
        "Repair or remove the file.",
    )


def _list_files(config: DataConfig) -> tuple[str, list[SourceFile]]:
    name = config.source
    if name == EMBEDDED:
        packaged = importlib.resources.files("orpo_pipeline.data") / "embedded" / EMBEDDED_PAIRS
        return name, [SourceFile(Path(str(packaged)), EMBEDDED_PAIRS)]
    path = Path(os.path.expanduser(name))  # noqa: PTH111 -- Path's raises for unknown users
    if path.is_dir():
        return name, _files_below(path)
    if path.exists():
        return name, _named([path], path.parent)
    matches = _matches(path)
    if matches:
        return name, _named(matches, Path(os.path.commonpath([m.parent for m in matches])))
    if looks_like_hub_id(name) and not name.endswith(SUFFIXES):
        return name, _files_below(download_snapshot(name, config.revision, "dataset", HUB_PATTERNS))
    raise UserError(
        f"The data source {name!r} does not exist.",
        f"`{EMBEDDED}`, an existing file, folder or glob, or a hub id OWNER/NAME.",
        "Correct data.source (relative paths start at the current folder).",
    )


def _files_below(folder: Path) -> list[SourceFile]:
    """Data files at any depth. Linked folders are not entered: those inside are found anyway.

    Hidden ones are left out: caches, checkpoints of notebooks, our own state folder.
    """
    home = _link_home(folder)
    paths: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        linked = [path for name in folders if (path := Path(parent, name)).is_symlink()]
        found = [Path(parent, name) for name in names if _is_data(name) and name[0] != "."]
        for path in (*linked, *found):
            _refuse_escape(path, home)
        paths += found
    return _named(sorted(paths), folder)


def _matches(pattern: Path) -> list[Path]:
    """Data files that a glob finds, each once, by its shortest name."""
    fixed = Path(*takewhile(lambda part: not MAGIC.search(part), pattern.parts))
    found = list(islice(glob.iglob(str(pattern), recursive=True), MOST_FILES + 1))  # noqa: PTH207 -- absolute too
    if len(found) > MOST_FILES:
        raise UserError(
            f"The glob {str(pattern)!r} finds more than {MOST_FILES:,} files.",
            "fewer files, and no link that leads to a folder above it.",
            "Correct data.source, or remove the link.",
        )
    if not found:
        return []
    home = _link_home(fixed)
    unique: dict[str, Path] = {}
    for path in sorted(map(Path, found), key=lambda path: (len(path.parts), path)):
        if _is_data(path.name) and not path.is_dir():
            unique.setdefault(_refuse_escape(path, home), path)
    return sorted(unique.values())


def _raise(error: OSError) -> None:
    raise error


def _is_data(name: str) -> bool:
    return name.endswith(SUFFIXES) and NO_ROWS.fullmatch(name) is None


def _link_home(folder: Path) -> str:
    """The folder that links below `folder` may lead to: itself, or the hub cache it is part of.

    Files of a hub snapshot are links to CACHE/datasets--OWNER--NAME/blobs.
    """
    real = Path(os.path.realpath(folder))
    for above in (real, *real.parents):
        if above.name == "snapshots" and above.parent.name.startswith(HUB_FOLDERS):
            return str(above.parent)
    return str(real)


def _refuse_escape(path: Path, home: str) -> str:
    """The real path of a file below the source.

    Raises UserError when it lies outside, OSError when it is a link to nothing.
    """
    target = os.path.realpath(path, strict=True)
    if os.path.commonpath([home, target]) != home:
        raise UserError(
            f"The link {path} leads to {target}, out of the data source {home}.",
            "links that stay within the source.",
            "Remove the link, copy what it leads to, or name that as data.source.",
        )
    return target


def _named(paths: list[Path], root: Path) -> list[SourceFile]:
    # A file name may hold bytes that are no text; reports and Parquet take text only.
    names = (os.fsencode(path.relative_to(root).as_posix()) for path in paths)
    return [SourceFile(p, n.decode(errors="replace")) for p, n in zip(paths, names, strict=True)]


def _belongs_to(file: SourceFile, split: str) -> bool:
    path = PurePosixPath(file.name)  # within the source: folders above it name no split
    return path.name.startswith((f"{split}.", f"{split}-")) or path.parent.name == split


def _has_held_out(files: list[SourceFile]) -> bool:
    """Whether one of several files is named as a test set, which must not be trained on."""
    paths = [PurePosixPath(file.name) for file in files] if len(files) > 1 else []
    return any(TEST_SET.match(path.name) or TEST_SET.match(path.parent.name) for path in paths)


def _require_content(files: Iterable[SourceFile]) -> None:
    problems = [f"{file.path}: {problem}" for file in files if (problem := _problem(file))]
    if problems:
        more = f" and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise UserError(
            f"Data files that cannot be read: {'; '.join(problems[:LISTED])}{more}.",
            "regular files with content that may be read.",
            "Correct or remove them.",
        )


def _problem(file: SourceFile) -> str | None:
    try:
        status = file.path.stat()
        if not stat.S_ISREG(status.st_mode):
            return "it is no regular file"  # to open a pipe or a device may block, or do something
        if status.st_size == 0:
            return "it is empty"
        with file.path.open("rb"):
            return None
    except OSError as error:
        return error.strerror or str(error)
