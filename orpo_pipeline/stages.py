"""Stage folders: named by what goes in, published whole, never done twice.

A stage is written under a temporary name, fsynced and renamed. `manifest.json` is written last and
lists every file with its size and SHA-256; without a manifest that agrees, the stage is not there.
"""

import ast
import fcntl
import hashlib
import importlib.util
import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from orpo_pipeline.disk import disk_fault, disk_faults, folder_bytes

MANIFEST = "manifest.json"
OUR_PACKAGES = ("orpo_pipeline", "schemas")
HELD_AFTER = 10  # seconds; by then a writer holds the lock of the folder that it has made
NO_STAGES = ("logs", "mlflow", "prefect")

TEMPORARY = re.compile(r"\..+\.(\d+\.[0-9a-f]{8}|partial)")
"""Names of folders that are being written: of `new_stage`, `export`, `restore` and snapshots."""

Entries = dict[str, dict[str, Any]]
"""A manifest's files: size and SHA-256 by path."""

log = logging.getLogger(__name__)


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(inputs: dict[str, Any]) -> str:
    """Twenty hex digits that name a stage by its inputs (any JSON values; key order is nothing)."""
    canonical = json.dumps(inputs, sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:20]


@cache
def code_version(module: str) -> str:
    """Hash of a module's syntax tree and of all of ours that it imports, however deep.

    A change of behaviour anywhere below a stage renames it; a changed comment or layout does not.
    """
    seen: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        path = _module_file(name)
        if path is None:  # a name in a module
            continue
        seen[name], imported = _read_module(path)
        waiting.extend(imported)
    return fingerprint(seen)


def _module_file(name: str) -> Path | None:
    """The file of one of our modules. `find_spec` of a deep name would import what is above it."""
    package, *inner = name.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    place = Path(spec.origin).parent.joinpath(*inner)
    files = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in files if file.is_file()), None)


@cache
def _read_module(path: Path) -> tuple[str, tuple[str, ...]]:
    """The hash of a module's code, and which of our modules it may import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    _remove_docs(tree)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(_our_imports(tree))


def _remove_docs(tree: ast.Module) -> None:
    """Take out the strings that stand alone: docstrings and docs under fields."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [line for line in body if not _is_text(line)]  # type: ignore[attr-defined]


def _is_text(line: ast.AST) -> bool:
    return (
        isinstance(line, ast.Expr)
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, str)
    )


def _our_imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # What is imported may itself be a module of the package.
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in OUR_PACKAGES)


def is_complete(folder: Path) -> bool:
    """Whether the stage is there, with every listed file as it was written.

    A stage whose files differ from its manifest is moved aside, named in the log, and done again.
    Raises EnvironmentFault when the disk does not let us look or move.
    """
    manifest = folder / MANIFEST
    try:
        if not manifest.is_file():
            return False
        damaged = first_damage(folder)
        if damaged is None:
            return True
        aside = folder.with_name(f"{folder.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        with suppress(FileNotFoundError):  # another process was faster
            folder.rename(aside)
    except OSError as error:
        raise disk_fault(f"Checking the stage {folder}", error, folder) from error
    log.warning("%s of stage %s is damaged; the stage is done again", damaged, folder.name)
    return False


def first_damage(folder: Path) -> str | None:
    """The first file of a stage that is not as its manifest says; None when all are."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        expected = {name: (entry["size"], entry["sha256"]) for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return MANIFEST
    for name, (size, sha256) in expected.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size or file_sha256(path) != sha256:
            return str(name)
    return None


def manifest_entries(folder: Path) -> Entries:
    """The files of a complete stage."""
    entries: Entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    return entries


@contextmanager
def new_stage(folder: Path, linked: Entries | None = None) -> Iterator[Path]:
    """A temporary folder to fill; on success it is published as `folder`, on failure removed.

    `linked` are the manifest entries of files that are links to those of another complete stage,
    which need no second look.

    When another process published the same stage meanwhile, its (equal) result stays.
    Raises EnvironmentFault when the disk fails or is full.
    """
    # A process id is not enough: containers that share a state folder have the same ones.
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        # What it has written by then is the least that it needs.
        with disk_faults(f"Writing the stage {folder}", folder, lambda: folder_bytes(temporary)):
            remove_abandoned(folder.parent, folder.name)
            temporary.mkdir(parents=True)
            with held(temporary):
                yield temporary
                publish(temporary, folder, linked)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Lock a temporary folder while it is filled; the kernel frees it when its writer dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system that cannot lock says so to `_is_free`, too
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove_abandoned(parent: Path, name: str = "*") -> int:
    """Remove what killed writers of stages of that name left; returns how many folders."""
    count = 0
    for left in parent.glob(f".{name}.*.*"):
        if not TEMPORARY.fullmatch(left.name):  # somebody's own
            continue
        with suppress(FileNotFoundError, NotADirectoryError):
            if is_abandoned(left):
                shutil.rmtree(left, ignore_errors=True)
                count += 1
    return count


def is_abandoned(left: Path) -> bool:
    """Whether the writer of this temporary folder is gone. Raises OSError for what is no folder."""
    return time.time() - left.stat().st_mtime > HELD_AFTER and _is_free(left)


def _is_free(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def remove_all_abandoned(home: Path) -> int:
    """The same for every stage in the state folder."""
    rooms = [room for room in home.glob("*") if room.is_dir() and room.name not in NO_STAGES]
    inner = [folder for room in rooms for folder in room.glob("[!.]*") if folder.is_dir()]
    return sum(remove_abandoned(parent) for parent in [*rooms, *inner])


def publish(temporary: Path, folder: Path, linked: Entries | None = None) -> None:
    """Seal `temporary` with its manifest, and rename it to `folder`."""
    seal(temporary, linked)
    try:
        temporary.rename(folder)
    except OSError:
        if not is_complete(folder):
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
    sync(folder.parent)


def seal(folder: Path, linked: Entries | None = None) -> None:
    """Write `manifest.json` over all files below `folder`: all fsynced, the manifest last."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    known = linked or {}
    entries: Entries = {}
    for path in files:
        name = path.relative_to(folder).as_posix()
        if name in known:
            entries[name] = known[name]
            continue
        sync(path)
        entries[name] = {"size": path.stat().st_size, "sha256": file_sha256(path)}
    write_atomically(folder / MANIFEST, json.dumps({"files": entries}, indent=1))
    for directory in {path.parent for path in files} | {folder}:
        sync(directory)


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file so that a crash leaves either the old or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    temporary.replace(path)


def sync(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
