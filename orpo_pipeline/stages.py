"""Stage folders: named by what goes in, published whole, never done twice.

A stage is written under a temporary name, fsynced and renamed. `manifest.json` is written last and
lists every file with its size and SHA-256; without a manifest that agrees, the stage is not there.
"""

import ast
import hashlib
import importlib.util
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from schemas.errors import EnvironmentFault

MANIFEST = "manifest.json"
OUR_PACKAGES = ("orpo_pipeline", "schemas")

log = logging.getLogger(__name__)


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(inputs: dict[str, Any]) -> str:
    """Twenty hex digits that name a stage by its inputs (any JSON values; key order is nothing)."""
    canonical = json.dumps(inputs, sort_keys=True, ensure_ascii=False, default=str)
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
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        seen[name] = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
        waiting.extend(_our_imports(tree))
    return fingerprint(seen)


def _our_imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in OUR_PACKAGES)


def is_complete(folder: Path) -> bool:
    """Whether the stage is there, with every listed file as it was written.

    A stage whose files differ from its manifest is moved aside, named in the log, and done again.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return False
    damaged = _first_damage(folder, manifest)
    if damaged is None:
        return True
    aside = folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    log.warning("%s of stage %s is damaged; the stage is done again", damaged, folder.name)
    return False


def _first_damage(folder: Path, manifest: Path) -> str | None:
    try:
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError, UnicodeDecodeError):
        return MANIFEST
    for name, expected in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected["size"]:
            return str(name)
        if file_sha256(path) != expected["sha256"]:
            return str(name)
    return None


@contextmanager
def new_stage(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill; on success it is published as `folder`, on failure removed.

    When another process published the same stage meanwhile, its (equal) result stays.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        publish(temporary, folder)
    except OSError as error:
        raise EnvironmentFault(
            f"Writing the stage {folder} failed: {error}.",
            "a state folder that can be written and has space left.",
            "Free space or set ORPO_HOME to another folder, then start the same command again.",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish(temporary: Path, folder: Path) -> None:
    """Seal `temporary` with its manifest, and rename it to `folder`."""
    seal(temporary)
    try:
        temporary.rename(folder)
    except OSError:
        if not is_complete(folder):
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
    sync(folder.parent)


def seal(folder: Path) -> None:
    """Write `manifest.json` over all files below `folder`: all fsynced, the manifest last."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    entries = {}
    for path in files:
        sync(path)
        entries[path.relative_to(folder).as_posix()] = {
            "size": path.stat().st_size,
            "sha256": file_sha256(path),
        }
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
