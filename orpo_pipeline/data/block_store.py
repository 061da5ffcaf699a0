"""Checked blocks on disk: each is a stage of its own, checked once and found again by its content.

    blocks/SETTINGS/BLOCK/{index.parquet, rows.parquet, block.json, manifest.json}
    blocks/SETTINGS/files/SHA256SUFFIX/{blocks.json, manifest.json}
                                  the blocks of a file that was read to its end
    blocks/SETTINGS/seen.json     which blocks need not be looked through again

SETTINGS names everything else that decides a row: rules, tokenizer, template, lengths, code.
"""

import json
import math
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from orpo_pipeline.data.block_checks import SUMMARY, Check, Progress, start_process
from orpo_pipeline.data.checking import RowChecker
from orpo_pipeline.data.reading.detection import NO_DIALECT, BlockDialects, file_dialect
from orpo_pipeline.data.reading.files import SUFFIXES, SourceFile
from orpo_pipeline.data.reading.readers import read_blocks, require_unchanged
from orpo_pipeline.data.seen_blocks import SeenBlocks
from orpo_pipeline.data.source_hashes import SourceHashes
from orpo_pipeline.data.tokens.chat_template import ChatFormat
from orpo_pipeline.stages import fingerprint, is_complete, new_stage, remove_abandoned
from schemas.config import RunConfig
from schemas.errors import EnvironmentFault

BLOCKS, SEEN = "blocks.json", "seen.json"
SMALL = 32 * 2**20  # bytes of new rows below which starting processes costs more than it saves

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
    trusting: bool = True
    """Blocks that were found whole before are taken for whole, unless they were written to."""

    def check_files(
        self, files: dict[str, list[tuple[SourceFile, str]]], progress: Progress
    ) -> list[StoredBlock]:
        """The checked blocks of every file (given with its SHA-256), in the order of the files.

        Only blocks that are not stored yet are checked, and only files that are not known are read.
        Raises UserError for a file that cannot be read or mixes dialects.
        """
        remove_abandoned(self.folder)
        seen = SeenBlocks(self.folder / SEEN)
        if not self.trusting:
            seen.forget()
        given = [(file, sha, split) for split, found in files.items() for file, sha in found]
        known = [self._known(*one, seen) for one in given]
        unread = [file for blocks, (file, *_) in zip(known, given, strict=True) if blocks is None]
        with self._checkers(unread, progress, seen) as check:
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
        for block in stored:
            seen.remember(block.folder)
        seen.save()
        progress("rows checked", sum(block.rows for block in stored), 0)
        return stored

    def _known(
        self, file: SourceFile, sha256: str, split: str, seen: SeenBlocks
    ) -> list[StoredBlock] | None:
        """The blocks of a file that was read before; None when it was not, or one is damaged."""
        listed = self._list_folder(file, sha256)
        if not is_complete(listed):
            return None
        places = json.loads((listed / BLOCKS).read_text(encoding="utf-8"))
        if not all(seen.is_complete(self.folder / block) for block, _ in places):
            return None
        return [self._load(block, file.name, split, first_row) for block, first_row in places]

    def _load(self, block: str, file: str, split: str, first_row: int) -> StoredBlock:
        folder = self.folder / block
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        return StoredBlock(folder, file, split, first_row, **summary)

    def _read(self, file: SourceFile, check: Check) -> Places:
        """The file's blocks; those that are not stored yet may still be under way."""
        places: Places = []
        for block in read_blocks(file):
            name = block.digest[:20]
            places.append((name, block.first_row))
            check(block, self.folder / name)
        return places

    def _in_one_dialect(
        self, file: SourceFile, split: str, places: Places, check: Check
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
        self, unread: list[SourceFile], progress: Progress, seen: SeenBlocks
    ) -> Iterator[Check]:
        processes = self.config.data.processes
        size = sum(file.path.stat().st_size for file in unread)
        spare = size - SMALL if processes is None else math.inf
        processes = processes or os.cpu_count() or 1
        build = partial(RowChecker, self.config, self.model_folder, self.chat)
        if processes == 1 or spare < 0:
            yield Check(build, progress, seen)
            return
        others = processes - 1
        pool = ProcessPoolExecutor(
            others,
            # Forking a process with threads, which polars and tokenizers have, may hang.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=start_process,
            initargs=(partial(RowChecker, self.config, self.model_folder),),
        )
        try:
            yield Check(build, progress, seen, pool, others, spare)
        except BrokenProcessPool as error:
            raise EnvironmentFault(
                "A process that checks rows died, killed or out of memory.",
                f"memory for {processes} processes of about 1 GiB (data.processes).",
                "Start the same command again: finished blocks are kept. Or lower data.processes.",
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
