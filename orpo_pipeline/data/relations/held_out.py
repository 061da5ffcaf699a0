"""Prompts that were ever held out for evaluation, and so are barred from training for ever.

    FOLDER/KEY.parquet    one file per evaluation policy: prompt_id, dataset_id, version

A file only grows. `version` numbers (1, 2, ...) the data sets that brought new held-out prompts,
each prompt standing with the first that held it out.
"""

import fcntl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from orpo_pipeline.disk import NO_OS_ERROR
from orpo_pipeline.stages import sync
from schemas.errors import EnvironmentFault, UserError

SCHEMA = {"prompt_id": pl.String, "dataset_id": pl.String, "version": pl.Int32}


def record_held_out(folder: Path, key: str, dataset_id: str, prompt_ids: Iterable[str]) -> int:
    """Add the prompts that this data set holds out under policy `key`; the file's newest version.

    A data set that adds no prompt makes no version, so recording it again changes nothing.
    Concurrent writers wait for each other, and a crash leaves the old file or the new one.
    Raises UserError for a damaged file, EnvironmentFault when the disk fails or is full.
    """
    path = folder / f"{key}.parquet"
    with _disk_faults(path):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f".{key}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            recorded = _read(path) if path.exists() else pl.DataFrame(schema=SCHEMA)
            prompts = pl.DataFrame({"prompt_id": sorted(set(prompt_ids))}, schema_overrides=SCHEMA)
            new = prompts.join(recorded, on="prompt_id", how="anti", maintain_order="left")
            newest = recorded["version"].max() or 0
            assert isinstance(newest, int)
            if new.is_empty():
                return newest
            earlier = recorded.filter(pl.col("dataset_id") == dataset_id)["version"].max()
            version = pl.lit(earlier or newest + 1, dtype=pl.Int32)
            added = new.with_columns(dataset_id=pl.lit(dataset_id), version=version)
            _write(path, pl.concat([recorded, added]))
            return max(newest, int(added["version"][0]))


def barred_prompts(folder: Path, except_key: str | None = None) -> pl.Series:
    """Prompt ids, each once and sorted, that any policy but `except_key` ever held out.

    The policy of the run itself need not be asked: its held-out prompts are on the other side.
    Raises UserError for a damaged file, EnvironmentFault when the disk cannot be read.
    """
    found = [pl.Series("prompt_id", [], dtype=pl.String)]
    with _disk_faults(folder):
        for path in sorted(folder.glob("[!.]*.parquet")):  # others were never finished
            if path.stem != except_key:
                found.append(_read(path)["prompt_id"])
    return pl.concat(found).unique().sort()


def _read(path: Path) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(path, glob=False)
    except pl.exceptions.PolarsError as error:
        raise _damaged(path, str(error)) from error
    if frame.schema != pl.Schema(SCHEMA):
        raise _damaged(path, f"its columns are {', '.join(frame.columns) or 'none'}")
    if frame.null_count().sum_horizontal().sum() or frame["prompt_id"].is_duplicated().any():
        raise _damaged(path, "it holds nulls, or a prompt twice")
    return frame


def _write(path: Path, frame: pl.DataFrame) -> None:
    temporary = path.with_name(f".{path.name}")  # one writer at a time: the lock is held
    frame.write_parquet(temporary)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def _damaged(path: Path, why: str) -> UserError:
    return UserError(
        f"The record of held-out prompts {path} is damaged: {why}.",
        f"a parquet file with {', '.join(SCHEMA)}, as preparation writes it.",
        "Restore it from a backup. Without it, remove it: then evaluation prompts of earlier runs "
        "may be trained on, and results that used them no longer count.",
    )


@contextmanager
def _disk_faults(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and not NO_OS_ERROR.search(str(error)):
            raise
        raise EnvironmentFault(
            f"The record of held-out prompts {path} cannot be read or written: {error}.",
            "a state folder that can be read and written and has space left.",
            "Correct its permissions, free space, or set ORPO_HOME to another folder.",
        ) from error
