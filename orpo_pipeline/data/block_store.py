"""Checked blocks on disk: each is a stage of its own, checked once and found again by its content.

    blocks/SETTINGS/BLOCK/{index.parquet, rows.parquet, block.json, manifest.json}
    blocks/SETTINGS/files/SHA256SUFFIX/{blocks.json, manifest.json}
                                  the blocks of a file that was read to its end

SETTINGS names everything else that decides a row: rules, tokenizer, template, lengths, code.
"""

import json
import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from orpo_pipeline.data.checking import NO_DIALECT, RowChecker, mixed_dialects
from orpo_pipeline.data.files import SUFFIXES, SourceFile
from orpo_pipeline.data.readers import Block, read_blocks
from orpo_pipeline.stages import is_complete, new_stage, remove_abandoned
from schemas.config import RunConfig
from schemas.errors import EnvironmentFault

INDEX, ROWS, SUMMARY = "index.parquet", "rows.parquet", "block.json"
BLOCKS = "blocks.json"
SMALL = 32 * 2**20  # bytes of source files below which starting processes costs more than it saves
AHEAD = 2  # blocks per process that wait to be checked: they are held in memory

Progress = Callable[[str, int, int], None]
"""Called with what is counted, how many are done, and how many there are (0: not known)."""


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A checked block, and where in the source its rows stand."""

    folder: Path
    file: str
    split: str
    first_row: int
    rows: int
    dialect: str
    first: str


@dataclass(frozen=True, slots=True)
class BlockStore:
    """All blocks that were checked under one configuration."""

    folder: Path
    """blocks/SETTINGS"""
    config: RunConfig
    model_folder: Path

    def check_files(
        self, files: dict[str, list[tuple[SourceFile, str]]], progress: Progress
    ) -> list[StoredBlock]:
        """The checked blocks of every file (given with its SHA-256), in the order of the files.

        Only blocks that are not stored yet are checked, and only files that are not known are read.
        Raises UserError for a file that cannot be read or mixes dialects.
        """
        stored: list[StoredBlock] = []
        remove_abandoned(self.folder)
        with self._checkers(files) as check:
            for split, found in files.items():
                for file, sha256 in found:
                    blocks = self._known(file, sha256, split)
                    if blocks is None:
                        before = sum(block.rows for block in stored)
                        advance = partial(_advance, progress, before)
                        blocks = self._read(file, split, check, advance)
                        self._remember(file, sha256, blocks)
                    _require_one_dialect(blocks)
                    stored += blocks
                    progress("rows checked", sum(block.rows for block in stored), 0)
        return stored

    def _known(self, file: SourceFile, sha256: str, split: str) -> list[StoredBlock] | None:
        """The blocks of a file that was read before; None when it was not, or one is damaged."""
        listed = self._list_folder(file, sha256)
        if not is_complete(listed):
            return None
        places = json.loads((listed / BLOCKS).read_text(encoding="utf-8"))
        if not all(is_complete(self.folder / block) for block, _ in places):
            return None
        return [self._load(block, file.name, split, first_row) for block, first_row in places]

    def _load(self, block: str, file: str, split: str, first_row: int) -> StoredBlock:
        folder = self.folder / block
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        return StoredBlock(folder, file, split, first_row, **summary)

    def _read(
        self, file: SourceFile, split: str, check: "Check", advance: Callable[[int], None]
    ) -> list[StoredBlock]:
        places: list[tuple[str, int]] = []
        for block in read_blocks(file):
            advance(block.first_row)
            name = block.digest[:20]
            places.append((name, block.first_row))
            if not is_complete(self.folder / name):
                check(block, self.folder / name)
        check.wait()
        return [self._load(name, file.name, split, first_row) for name, first_row in places]

    def _remember(self, file: SourceFile, sha256: str, blocks: list[StoredBlock]) -> None:
        places = [(block.folder.name, block.first_row) for block in blocks]
        folder = self._list_folder(file, sha256)
        # A list whose block was damaged is there still; it is the same one.
        if not is_complete(folder):
            with new_stage(folder) as temporary:
                (temporary / BLOCKS).write_text(json.dumps(places), encoding="utf-8")

    def _list_folder(self, file: SourceFile, sha256: str) -> Path:
        # The same bytes under another suffix are read as other rows.
        suffix = next(filter(file.path.name.endswith, SUFFIXES), "")
        return self.folder / "files" / f"{sha256}{suffix}"

    @contextmanager
    def _checkers(self, files: dict[str, list[tuple[SourceFile, str]]]) -> Iterator["Check"]:
        processes = self.config.data.processes
        if processes is None:
            size = sum(file.path.stat().st_size for found in files.values() for file, _ in found)
            processes = 1 if size < SMALL else os.cpu_count() or 1
        if processes == 1:
            yield Check(None, 1, self.config, self.model_folder)
            return
        pool = ProcessPoolExecutor(
            processes,
            # Forking a process with threads, which polars and tokenizers have, may hang.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_process,
            initargs=(self.config, self.model_folder),
        )
        try:
            yield Check(pool, processes, self.config, self.model_folder)
        except BrokenProcessPool as error:
            raise EnvironmentFault(
                "A process that checks rows died, killed or out of memory.",
                f"memory for {processes} processes of about 1 GiB (data.processes).",
                "Start the same command again: finished blocks are kept. Or lower data.processes.",
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class Check:
    """Checks blocks and stores them: here, or in processes with a few blocks waiting for each."""

    def __init__(
        self, pool: Executor | None, processes: int, config: RunConfig, model_folder: Path
    ) -> None:
        self._pool = pool
        self._most = processes * AHEAD
        self._waiting: deque[Future[None]] = deque()
        self._checker: RowChecker | None = None
        self._build = lambda: RowChecker(config, model_folder)

    def __call__(self, block: Block, folder: Path) -> None:
        if self._pool is None:
            self._checker = self._checker or self._build()
            store(self._checker, block, folder)
            return
        while len(self._waiting) >= self._most:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(_store_in_process, block, folder))

    def wait(self) -> None:
        """Until all blocks are stored. Raises what went wrong with one of them."""
        while self._waiting:
            self._waiting.popleft().result()


def _advance(progress: Progress, before: int, rows: int) -> None:
    progress("rows checked", before + rows, 0)


def store(checker: RowChecker, block: Block, folder: Path) -> None:
    """Check one block and publish it as a stage."""
    checked = checker.check(block)
    with new_stage(folder) as temporary:
        checked.index.write_parquet(temporary / INDEX, compression="zstd", compression_level=1)
        pq.write_table(
            checked.rows,
            temporary / ROWS,
            compression="zstd",
            row_group_size=512,
            use_dictionary=False,
        )
        summary = {
            "rows": checked.index.height,
            "dialect": checked.dialect,
            "first": checked.first,
        }
        (temporary / SUMMARY).write_text(json.dumps(summary), encoding="utf-8")


def _require_one_dialect(blocks: list[StoredBlock]) -> None:
    first: StoredBlock | None = None
    for block in blocks:
        if block.dialect == NO_DIALECT:
            continue
        if first is not None and block.dialect != first.dialect:
            raise mixed_dialects(
                first.dialect,
                f"{first.file} from row {first.first_row + 1} {first.first}",
                block.dialect,
                f"{block.file} from row {block.first_row + 1} {block.first}",
            )
        first = first or block


# The pool's processes: one checker each, made once.

_checker: RowChecker | None = None


def _start_process(config: RunConfig, model_folder: Path) -> None:
    global _checker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _checker = RowChecker(config, model_folder)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _store_in_process(block: Block, folder: Path) -> None:
    assert _checker is not None
    store(_checker, block, folder)


def row_settings(config: RunConfig) -> dict[str, Any]:
    """The data settings that decide a row by itself."""
    own = {"dialect", "columns", "personal_data", "secrets", "min_score_margin"}
    return config.data.model_dump(include=own)
