"""A registered version as a folder that other tools load."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from orpo_pipeline.data.lineage import find_stage
from orpo_pipeline.data.preparation import prepare
from orpo_pipeline.data.prepared_files import EVAL, TOKEN_COLUMNS, read_pairs
from orpo_pipeline.data.row_lists import is_row_list
from orpo_pipeline.export.adapter import write_adapter
from orpo_pipeline.export.drift import measure_drift, require_small
from orpo_pipeline.export.folder import new_folder, require_free
from orpo_pipeline.export.gguf import convert, find_converter
from orpo_pipeline.export.merge import load_merged, write_merged
from orpo_pipeline.inference.loading import find_base, load_base, quiet_loading
from orpo_pipeline.model_card.card import CARD, FACTS, Form, render_card
from orpo_pipeline.training.qlora import attach_saved_adapter
from schemas.config import RunConfig
from schemas.model_card import Drift, ModelCard
from schemas.serving import ServingSettings
from schemas.tokens import TokenizedPair
from tasks.tracking_models import registry
from tasks.version_tags import DATASET_TAG, PREPARED_TAG
from tasks.versions import Version, fetch_version, find_version

Notify = Callable[[str], None]


@dataclass(frozen=True)
class ExportRequest:
    """What is wanted beside the adapter."""

    folder: Path
    merge: bool = False
    gguf: bool = False
    converter: Path | None = None
    pairs: int = 64
    """Held-out pairs on which merged weights are compared with base + adapter."""
    force: bool = False
    """Take merged weights that have drifted."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    version: Version
    settings: ServingSettings
    files: tuple[str, ...]
    warnings: tuple[str, ...]
    drift: Drift | None = None


@dataclass(frozen=True)
class _Source:
    """A version's adapter on this disk, and the state folder."""

    version: Version
    adapter: Path
    settings: ServingSettings
    home: Path


def export_version(
    config: RunConfig, home: Path, wanted: str, request: ExportRequest, notify: Notify
) -> Exported:
    """Write `request.folder`: complete, or not at all.

    Raises UserError when the folder is taken, there is no such version, its adapter is damaged, or
    merged weights have drifted; EnvironmentFault when the base model or the converter is missing.
    """
    require_free(request.folder)
    converter = find_converter(request.converter) if request.gguf else None
    with TemporaryDirectory() as scratch, new_folder(request.folder) as target:
        with registry(config.registry, home) as tracker:
            version = find_version(tracker, wanted)
            notify(f"fetching {version.name} {version.label}")
            adapter, settings = fetch_version(tracker, version, Path(scratch))
        source = _Source(version, adapter, settings, home)
        drift, warnings = None, []
        if request.merge or request.gguf:
            write_merged(adapter, target, settings, home, notify)
            drift = _drift(source, target, request.pairs, notify)
            if not request.force:
                require_small(drift)
        else:
            warnings = write_adapter(adapter, target, settings)
        _write_card(target, _read_card(adapter), "merged" if drift else "adapter", drift)
        if converter is not None:
            notify("converting to GGUF")
            convert(converter, target, target / f"{version.name}-{version.number}-bf16.gguf")
        files = tuple(sorted(path.name for path in target.iterdir()))
    return Exported(version, settings, files, tuple(warnings), drift)


def _read_card(adapter: Path) -> ModelCard | None:
    """The card's facts; versions of before have none."""
    facts = adapter / FACTS
    if not facts.is_file():
        return None
    return ModelCard.model_validate_json(facts.read_text(encoding="utf-8"))


def _write_card(target: Path, card: ModelCard | None, form: Form, drift: Drift | None) -> None:
    # save_pretrained of PEFT and transformers leaves cards of its own.
    (target / CARD).unlink(missing_ok=True)
    if card is not None:
        (target / CARD).write_text(render_card(card, form, drift), encoding="utf-8")


def _drift(source: _Source, merged: Path, most: int, notify: Notify) -> Drift:
    """Measured on the files that ship, against base + adapter as they were evaluated."""
    rows, pairs_from = _held_out(source, most, notify)
    pairs = [TokenizedPair(*ids) for ids in rows.select(TOKEN_COLUMNS).iter_rows()]
    notify("loading base + adapter, and the merged weights")
    base = load_base(source.settings, source.home, notify)
    with quiet_loading():
        reference = attach_saved_adapter(base, source.adapter)
    return measure_drift(
        reference,
        load_merged(merged),
        pairs,
        pairs_from,
        lambda done: notify(f"comparing on held-out pairs: {done} of {len(pairs)}"),
    )


def _held_out(source: _Source, most: int, notify: Notify) -> tuple[pl.DataFrame, str]:
    """Token ids of held-out pairs, and where they come from.

    The version's own where the state folder has them, else the packaged ones.
    """
    tags = source.version.tags
    stage = find_stage(source.home, tags.get(DATASET_TAG, ""), tags.get(PREPARED_TAG))
    if stage is not None and not is_row_list(stage.folder):
        return read_pairs(stage.folder, EVAL, TOKEN_COLUMNS, most), "of its own data"
    notify("preparing the packaged pairs")
    base, revision = find_base(source.settings, source.home, notify)
    packaged = RunConfig.model_validate(
        {
            "model": {"base_model": base, "revision": revision},
            "chat": {"template": str(source.adapter / "chat_template.jinja")},
        }
    )
    with TemporaryDirectory() as scratch:
        prepared = prepare(packaged, Path(scratch), lambda *_: None)
        rows = read_pairs(prepared.path, EVAL, TOKEN_COLUMNS, most)
    return rows, "packaged with orpo-pipeline, as its own are not in this state folder"
