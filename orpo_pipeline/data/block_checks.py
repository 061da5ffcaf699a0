"""Blocks checked and stored, by this process and others."""

import json
import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, wait
from functools import cache
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from orpo_pipeline.data.checking import RowChecker
from orpo_pipeline.data.reading.readers import Block, count_rows
from orpo_pipeline.data.seen_blocks import SeenBlocks
from orpo_pipeline.stages import new_stage
from schemas.frames import PairRows

INDEX, ROWS, SUMMARY = "index.parquet", "rows.parquet", "block.json"
AHEAD = 2  # blocks that each other process has or waits for: they are held in memory

Progress = Callable[[str, int, int], None]
"""Called with what is counted, how many are done, and how many there are (0: not known)."""


class Check:
    """Checks blocks and stores them: in other processes, and here what those have no room for."""

    def __init__(
        self,
        build: Callable[[], RowChecker],
        progress: Progress,
        seen: SeenBlocks,
        pool: Executor | None = None,
        others: int = 0,
        spare: float = 0,
    ) -> None:
        """`spare`: bytes of rows that may turn out to be stored before the pool, which starts
        with its first block, is not worth its start.
        """
        self._stored = seen
        self._spare = spare
        self._started = False
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
        if self._stored.is_complete(folder):
            self._spare -= len(block.content)
            self._count(count_rows(block))
        elif self._has_room():
            assert self._pool is not None
            self._waiting.append(self._pool.submit(_store_in_process, block, folder, read_as))
        else:
            self._count(store(self._build(), block, folder, read_as))

    def _has_room(self) -> bool:
        """Whether another process can take a block, and has started or will be worth its start."""
        if self._pool is None or (self._spare < 0 and not self._started):
            return False
        self._started = True
        return len(self._waiting) < self._others * self._ahead

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


def start_process(build: Callable[[], RowChecker]) -> None:
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
