"""The data that a run reads, and the secrets that open it (names only)."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from orpo_pipeline.data.reading.detection import common_dialects, given_dialect, shown_keys
from orpo_pipeline.data.reading.files import SourceFile, find_files
from orpo_pipeline.data.reading.readers import (
    BLOCK_BYTES,
    BLOCK_ROWS,
    RawRow,
    block_rows,
    count_rows,
    read_blocks,
)
from orpo_pipeline.data.rules.redaction import Redaction
from orpo_pipeline.evaluation.judge.judge import read_key
from orpo_pipeline.hub import cached_snapshot, download_snapshot, has_token, looks_like_hub_id
from orpo_pipeline.planning.memory import GIB, describe_bytes
from orpo_pipeline.retraining.snapshots import DATA, watched
from orpo_pipeline.retraining.sql_rows import require_connection
from schemas.config import EMBEDDED, DataConfig, RunConfig
from schemas.errors import EnvironmentFault, PipelineError, UserError
from schemas.findings import Finding
from schemas.pairs import Defect
from schemas.retraining_config import FilesSource, HubSource, RetrainingConfig, SqlSource
from tasks.doctor.known import Known

FIRST_ROWS = 50
FIRST_FILES = 3


def check_credentials(config: RunConfig) -> Iterator[Finding]:
    """That variables are set where something needs them. No value is shown."""
    if any(_is_hub_id(name) for name in (config.data.source, config.model.base_model)):
        if has_token():
            yield Finding.ok("hub token", "there is one (HF_TOKEN, or of `hf auth login`)")
        else:
            yield Finding.warning(
                "hub token",
                "HF_TOKEN is not set; public models and data sets need none",
                "For a closed one accept its licence on the hub and set HF_TOKEN.",
            )
    judge = config.evaluation.judge
    if judge is not None:
        try:
            key = read_key(judge)
            said = f"{judge.key_variable} is set" if key else "no key is sent (no key_variable)"
            yield Finding.ok("judge key", said)
        except PipelineError as error:
            yield Finding.of("judge key", error)


def check_data(config: RunConfig, known: Known) -> Iterator[Finding]:
    """Every source: is it there, and are its first rows of a dialect that is known?

    What the rows say about sizes goes into `known`.
    """
    try:
        sources = list(watched(config))
    except UserError as error:
        yield Finding.of("data", error)
        return
    if config.retraining.sources and config.data.source != EMBEDDED:  # `run` reads that
        alone = config.model_copy(update={"retraining": RetrainingConfig()})
        sources += watched(alone)
    for source in sources:
        what = "data" if source.name == DATA else f"data {source.name}"
        try:
            if isinstance(source, SqlSource):
                database = require_connection(source)
                found = f"{source.database_url_variable} is set; {database} answers"
                known.add_source(0, 0.0, None)
                yield Finding.ok(what, found)
            elif isinstance(source, HubSource):
                yield _check_hub_data(what, source, config.data, known)
            else:
                yield _check_files(what, source, config.data, known)
        except PipelineError as error:
            yield Finding.of(what, error)


def _check_hub_data(what: str, source: HubSource, data: DataConfig, known: Known) -> Finding:
    cached = cached_snapshot(source.dataset, source.revision, "dataset")
    if cached is not None:
        local = FilesSource(name=source.name, path=str(cached))
        try:
            return _check_files(what, local, data, known)
        except UserError:
            pass  # a snapshot without its data files
    known.add_source(0, 0.0, None)
    try:
        download_snapshot(source.dataset, source.revision, "dataset", ["README.md"])
    except EnvironmentFault as error:
        return Finding.warning(what, error.found, error.fix)
    return Finding.ok(what, f"{source.dataset} can be downloaded; its size is not known here")


def _check_files(what: str, source: FilesSource, data: DataConfig, known: Known) -> Finding:
    by_split = find_files(data.model_copy(update={"source": source.path, "revision": None}))
    files = [file for found in by_split.values() for file in found]
    names = [_dialect_name(file, data) for file in files[:FIRST_FILES]]
    size, row_bytes, rows = _measure(files)
    known.add_source(size, row_bytes, rows)
    shown = describe_bytes(size) if size >= GIB else f"{size:,} bytes"
    splits = ", ".join(f"{name} {len(found)}" for name, found in by_split.items())
    return Finding.ok(
        what,
        f"{source.path}: {shown}, files by split: {splits}; the first rows are "
        f"{', '.join(dict.fromkeys(names))}",
    )


def _dialect_name(file: SourceFile, data: DataConfig) -> str:
    """Of the file's first rows. Raises UserError where they are of none, or of two."""
    redact, given = Redaction(data).text, given_dialect(data)
    rows = _first_rows(file)
    parsed = [row.value for row in rows if not isinstance(row.value, Defect)]
    dialects = (given,) if given else common_dialects(rows, redact).dialects
    fitting = [one for one in dialects if any(one.fits(value) for value in parsed)]
    if fitting:
        return fitting[0].name
    found = f"have the keys {shown_keys(parsed[0], redact)}" if parsed else "cannot be parsed"
    raise UserError(
        f"{file.path}: its first rows {found}, which is no row of "
        f"{f'the dialect {given.name}' if given else 'a known dialect'}.",
        "rows of a dialect that docs/formats.md lists.",
        "Set data.dialect, name the columns in data.columns, or correct the file.",
    )


def _first_rows(file: SourceFile) -> list[RawRow]:
    block = next(read_blocks(file), None)
    return list(islice(block_rows(block), FIRST_ROWS)) if block else []


def _measure(files: list[SourceFile]) -> tuple[int, float, int | None]:
    """Bytes of all, bytes of a row, and rows, by the first file's first block."""
    total = sum(file.path.stat().st_size for file in files)
    block = next(read_blocks(files[0]), None)
    if block is None or not (rows := count_rows(block)):
        return total, 0.0, 0
    row_bytes = len(block.content) / rows
    plain = all(file.name.endswith((".jsonl", ".ndjson")) for file in files)
    if len(files) == 1 and rows < BLOCK_ROWS and len(block.content) < BLOCK_BYTES:
        return total, row_bytes, rows
    return total, row_bytes, int(total / row_bytes) if plain else None


def _is_hub_id(name: str) -> bool:
    return looks_like_hub_id(name) and not Path(name).exists()
