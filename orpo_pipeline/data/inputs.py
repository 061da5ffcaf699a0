"""What goes into preparation: files, base model, settings, and what must not be trained on."""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import polars as pl

from orpo_pipeline.base_model import resolve_base_model
from orpo_pipeline.data.forgotten import forgotten_rows
from orpo_pipeline.data.prepared_files import EVAL, TRAIN
from orpo_pipeline.data.reading.files import SourceFile, find_files, unreadable
from orpo_pipeline.data.relations.held_out import barred_prompts
from orpo_pipeline.data.relations.splits import held_out
from orpo_pipeline.data.source_hashes import SourceHashes
from orpo_pipeline.data.tokens.chat_template import format_identity
from orpo_pipeline.stages import code_version, file_sha256, fingerprint
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.results import BaseModelRecord

DECISIVE_LIBRARIES = ("jinja2", "regex", "rensa", "tokenizers", "transformers")
"""A row's text, tokens and sketches are theirs to decide, too."""

ROW_SETTINGS = ("dialect", "columns", "personal_data", "secrets", "min_score_margin")
"""The data settings that decide a row by itself."""

BLOCKS = "blocks"
"""Folder of the state folder with checked blocks, and whatever else only saves time."""

HELD_OUT = "held_out"
"""Folder of the state folder with the prompts that were ever held out."""

Files = dict[str, list[tuple[SourceFile, str]]]
"""Source files with their SHA-256, by the side that they are for."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that decides the prepared data."""

    files: Files
    base_model: BaseModelRecord
    tokens: str
    """Names what decides a row's tokens: tokenizer, template, lengths."""
    settings: str
    """Names what decides a row by itself: blocks are kept under it."""
    held_out_key: str
    """Names how evaluation prompts are chosen: their record is kept under it."""
    barred: pl.Series
    """Prompts that may not be trained on."""
    forgotten: pl.Series
    """Rows that are left out."""
    folder: Path
    """The stage's folder, which may not exist yet."""
    hashes: SourceHashes
    """That the files were hashed with."""


def find_inputs(config: RunConfig, home: Path, notify: Callable[[str], None]) -> Inputs:
    """What would be prepared, and where it is or will be. Reads the files' bytes, no rows."""
    hashes = SourceHashes(home / BLOCKS / "source-hashes.json")
    files = _hashed_files(config, hashes)
    base_model = resolve_base_model(config.model, home, notify)
    benchmarks = config.data.benchmarks
    tokens = fingerprint(
        {
            "format": format_identity(base_model.path, config.chat.template),
            "chat": config.chat.model_dump(exclude={"template"}),
        }
    )
    settings = fingerprint(
        {
            "tokens": tokens,
            "data": config.data.model_dump(include=set(ROW_SETTINGS)),
            "benchmarks": benchmarks and [Path(benchmarks).suffix, _benchmarks_sha256(benchmarks)],
            "code": code_version("orpo_pipeline.data.block_store"),
            "libraries": {name: version(name) for name in DECISIVE_LIBRARIES},
            "unicode": unicodedata.unidata_version,
        }
    )
    held_out_key = fingerprint(
        {"eval_files": sorted(sha256 for _, sha256 in files[EVAL])}
        if EVAL in files
        else {"eval_fraction": config.data.eval_fraction}
    )
    barred = barred_prompts(home / HELD_OUT, except_key=held_out_key)
    if EVAL not in files:  # those that are held out again decide nothing
        barred = barred.filter(~held_out(barred, config.data.eval_fraction))
    forgotten = forgotten_rows(home)
    decisive = {"eval_fraction", "near_duplicates", "max_pairs_per_prompt"}
    inputs = {
        "settings": settings,
        "files": {
            side: [(file.name, sha256) for file, sha256 in found] for side, found in files.items()
        },
        "data": config.data.model_dump(include=decisive),
        "barred": barred.to_list(),
        "forgotten": forgotten.to_list(),
        "base_model": base_model.revision,
        "code": code_version("orpo_pipeline.data.preparation"),
    }
    folder = home / "prepared" / fingerprint(inputs)
    return Inputs(
        files=files,
        base_model=base_model,
        tokens=tokens,
        settings=settings,
        held_out_key=held_out_key,
        barred=barred,
        forgotten=forgotten,
        folder=folder,
        hashes=hashes,
    )


def _hashed_files(config: RunConfig, hashes: SourceHashes) -> Files:
    names = {config.data.train_split: TRAIN}
    if config.data.eval_split is not None:
        names[config.data.eval_split] = EVAL
    return {
        names[split]: [(file, _sha256(file, hashes)) for file in found]
        for split, found in find_files(config.data).items()
    }


def _sha256(source: SourceFile, hashes: SourceHashes) -> str:
    try:
        return hashes.sha256(source.path)
    except OSError as error:
        raise unreadable(source, error) from error


def _benchmarks_sha256(name: str) -> str:
    try:
        return file_sha256(Path(name).expanduser())
    except OSError as error:
        raise UserError(
            f"The benchmark file {name} cannot be read: {error}.",
            "a file with one prompt a line (.txt), or with the field `prompt` (.jsonl).",
            "Correct data.benchmarks.",
        ) from error
