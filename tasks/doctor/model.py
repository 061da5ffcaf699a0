"""The base model that a run trains on."""

from pathlib import Path

from orpo_pipeline.base_model import (
    EMBEDDED_SHAPE,
    embedded_gguf,
    needs_dequantising,
    resolve_base_model,
    shape_of,
)
from orpo_pipeline.hub import cached_snapshot, download_snapshot, looks_like_hub_id
from schemas.config import EMBEDDED, ModelConfig
from schemas.errors import EnvironmentFault, PipelineError, UserError
from schemas.findings import Finding
from tasks.doctor.known import Known

WHAT = "base model"
BFLOAT16_BYTES = 2


def check_base_model(config: ModelConfig, home: Path, known: Known) -> Finding:
    """Is it here, or can it be fetched? Its sizes, where they can be known, go into `known`."""
    name = config.base_model
    folder = Path(name).expanduser()
    try:
        if name == EMBEDDED or folder.suffix == ".gguf":
            return _check_gguf(config, home, known)
        if folder.is_dir():
            known.shape = shape_of(folder)
            return Finding.ok(WHAT, f"{folder} is complete")
        if looks_like_hub_id(name):
            return _check_hub_model(config, known)
        resolve_base_model(config, home, lambda _: None)  # it says what is wrong with the name
    except PipelineError as error:
        return Finding.of(WHAT, error)
    raise AssertionError(f"{name} is of no known kind and was resolved")


def _check_gguf(config: ModelConfig, home: Path, known: Known) -> Finding:
    name = config.base_model
    if name == EMBEDDED:
        embedded_gguf()
        known.shape = EMBEDDED_SHAPE
    if not needs_dequantising(config, home):
        record = resolve_base_model(config, home, lambda _: None)
        known.shape = record.shape
        return Finding.ok(WHAT, f"{record.name} in {record.path}")
    if known.shape is not None:
        known.model_bytes = float(BFLOAT16_BYTES * known.shape.parameters)
    return Finding.ok(WHAT, f"{name} is here; the first run dequantises it, once")


def _check_hub_model(config: ModelConfig, known: Known) -> Finding:
    name, revision = config.base_model, config.revision
    cached = cached_snapshot(name, revision, "model")
    if cached is not None:
        try:
            known.shape = shape_of(cached)
            return Finding.ok(WHAT, f"{name} is in the hub cache ({cached.name[:12]})")
        except UserError:
            pass  # some of its files are missing there
    try:
        download_snapshot(name, revision, "model", ["config.json"])
    except EnvironmentFault as error:
        return Finding.warning(WHAT, error.found, error.fix)
    return Finding.ok(WHAT, f"{name} is on the hub, and the first run downloads it")
