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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from orpo_pipeline.data.checking import RowChecker
from orpo_pipeline.data.reading.detection import NO_DIALECT, BlockDialects, file_dialect
from orpo_pipeline.data.reading.files import SUFFIXES, SourceFile
from orpo_pipeline.data.reading.readers import Block, count_rows, read_blocks, require_unchanged
from orpo_pipeline.data.source_hashes import SourceHashes
from orpo_pipeline.data.tokens.chat_template import ChatFormat
from orpo_pipeline.stages import fingerprint, is_complete, new_stage, remove_abandoned
from schemas.config import RunConfig
from schemas.errors import EnvironmentFault
from schemas.frames import PairRows

INDEX, ROWS, SUMMARY = "index.parquet", "rows.parquet", "block.json"
BLOCKS = "blocks.json"
SMALL = 32 * 2**20  # bytes of source files below which starting processes costs more than it saves
AHEAD = 2  # blocks that each other process has or waits for: they are held in memory

Progress = Callable[[str, int, int], None]
"""Called with what is counted, how many are done, and how many there are (0: not known)."""

Places = list[tuple[str, int]]
"""A file's blocks: name, and rows of the file before it."""


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A checked block, and where in the source its rows stand."""

    folder: Path
    file: str
    split: str
    first_row: int
    rows: int
    dialects: Sequence[str]
    """All that fit its rows; they were read as the first. Empty: no row fits any."""
    first: str

    @property
    def dialect(self) -> str:
        return self.dialects[0] if self.dialects else NO_DIALECT


@dataclass(frozen=True, slots=True)
class BlockStore:
    """All blocks that were checked under one configuration."""

    folder: Path
    """blocks/SETTINGS"""
    config: RunConfig
    model_folder: Path
    hashes: SourceHashes | None = None
    """That the files were hashed with."""
    chat: ChatFormat | None = None
    """That of `model_folder`, where it is loaded already."""

    def check_files(
        self, files: dict[str, list[tuple[SourceFile, str]]], progress: Progress
    ) -> list[StoredBlock]:
        """The checked blocks of every file (given with its SHA-256), in the order of the files.

        Only blocks that are not stored yet are checked, and only files that are not known are read.
        Raises UserError for a file that cannot be read or mixes dialects.
        """
        remove_abandoned(self.folder)
        given = [(file, sha, split) for split, found in files.items() for file, sha in found]
        with self._checkers(files, progress) as check:
            known = [self._known(*one) for one in given]
            places = [
                None if blocks is not None else self._read(file, check)
                for blocks, (file, _, _) in zip(known, given, strict=True)
            ]
            check.wait()
            stored: list[StoredBlock] = []
            for blocks, read, (file, sha256, split) in zip(known, places, given, strict=True):
                if read is not None:
                    blocks = self._in_one_dialect(file, split, read, check)
                    self._remember(file, sha256, blocks)
                stored += blocks or ()
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

    def _read(self, file: SourceFile, check: "Check") -> Places:
        """The file's blocks; those that are not stored yet may still be under way."""
        places: Places = []
        for block in read_blocks(file):
            name = block.digest[:20]
            places.append((name, block.first_row))
            check(block, self.folder / name)
        return places

    def _in_one_dialect(
        self, file: SourceFile, split: str, places: Places, check: "Check"
    ) -> list[StoredBlock]:
        """The file's blocks, all read as one dialect: a block by itself may look like another."""
        blocks = [self._load(name, file.name, split, first_row) for name, first_row in places]
        dialect = file_dialect(
            [
                BlockDialects(b.dialects, f"{b.file} from row {b.first_row + 1} {b.first}")
                for b in blocks
            ]
        )
        others = {b.folder.name for b in blocks if b.dialects and b.dialect != dialect}
        if not others:
            return blocks
        names = {name: fingerprint({"block": name, "read as": dialect}) for name in others}
        for block in read_blocks(file):
            if (name := block.digest[:20]) in others:
                check(block, self.folder / names[name], dialect)
        check.wait()
        return [self._load(names.get(name, name), file.name, split, row) for name, row in places]

    def _remember(self, file: SourceFile, sha256: str, blocks: list[StoredBlock]) -> None:
        if self.hashes is None or not self.hashes.still(file.path, sha256):
            require_unchanged(file, sha256)
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
    def _checkers(
        self, files: dict[str, list[tuple[SourceFile, str]]], progress: Progress
    ) -> Iterator["Check"]:
        processes = self.config.data.processes
        if processes is None:
            size = sum(file.path.stat().st_size for found in files.values() for file, _ in found)
            processes = 1 if size < SMALL else os.cpu_count() or 1
        build = partial(RowChecker, self.config, self.model_folder, self.chat)
        if processes == 1:
            yield Check(build, progress)
            return
        others = processes - 1
        pool = ProcessPoolExecutor(
            others,
            # Forking a process with threads, which polars and tokenizers have, may hang.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_process,
            initargs=(partial(RowChecker, self.config, self.model_folder),),
        )
        try:
            yield Check(build, progress, pool, others)
        except BrokenProcessPool as error:
            raise EnvironmentFault(
                "A process that checks rows died, killed or out of memory.",
                f"memory for {processes} processes of about 1 GiB (data.processes).",
                "Start the same command again: finished blocks are kept. Or lower data.processes.",
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class Check:
    """Checks blocks and stores them: in other processes, and here what those have no room for."""

    def __init__(
        self,
        build: Callable[[], RowChecker],
        progress: Progress,
        pool: Executor | None = None,
        others: int = 0,
    ) -> None:
        self._pool = pool
        self._others = others
        self._ahead = 1  # a process starts for seconds: until one has answered, this one works on
        self._waiting: list[Future[int]] = []
        self._build = cache(build)
        self._progress = progress
        self._rows = 0
        self._seen: set[Path] = set()

    def __call__(self, block: Block, folder: Path, read_as: str | None = None) -> None:
        """Have the block checked, unless it is stored or under way."""
        if folder in self._seen:
            return
        self._seen.add(folder)
        self._collect()
        if is_complete(folder):
            self._count(count_rows(block))
        elif self._pool is not None and len(self._waiting) < self._others * self._ahead:
            self._waiting.append(self._pool.submit(_store_in_process, block, folder, read_as))
        else:
            self._count(store(self._build(), block, folder, read_as))

    def wait(self) -> None:
        """Until all blocks are stored. Raises what went wrong with one of them."""
        wait(self._waiting, return_when=FIRST_EXCEPTION)
        self._collect()

    def _collect(self) -> None:
        done = [future for future in self._waiting if future.done()]
        self._waiting = [future for future in self._waiting if future not in done]
        for future in done:
            self._ahead = AHEAD
            self._count(future.result())

    def _count(self, rows: int) -> None:
        self._rows += rows
        self._progress("rows checked", self._rows, 0)


def store(checker: RowChecker, block: Block, folder: Path, read_as: str | None = None) -> int:
    """Check one block and publish it as a stage. Returns its number of rows."""
    checked = checker.check(block, read_as)
    rows, expected = checked.index.height, count_rows(block)
    if rows != expected:
        raise AssertionError(f"{block.file}: a block of {expected} rows gave {rows}")
    pairs = pl.DataFrame(checked.rows).filter(checked.index["code"].is_null())
    PairRows.validate(pairs, lazy=True)
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
            "rows": rows,
            "dialects": checked.dialects,
            "first": checked.first,
        }
        (temporary / SUMMARY).write_text(json.dumps(summary), encoding="utf-8")
    return rows


# The pool's processes: one checker each, made once. It is made for the first block and not when
# the process starts, since an error there would only be a process that died.

_checker: Callable[[], RowChecker]


def _start_process(build: Callable[[], RowChecker]) -> None:
    global _checker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _checker = cache(build)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _store_in_process(block: Block, folder: Path, read_as: str | None) -> int:
    return store(_checker(), block, folder, read_as)
