"""Task `choose start`: the champion's adapter where that is asked for and right, else the base."""

from collections.abc import Mapping
from datetime import timedelta

import polars as pl
from prefect import task
from prefect.artifacts import create_markdown_artifact

from orpo_pipeline.data.forgotten import read_marks
from orpo_pipeline.data.prepared_files import EVAL
from orpo_pipeline.training.warm_start import require_same_lora, split_rows, trained_rows
from schemas.config import RunConfig
from schemas.results import PreparedData
from schemas.training_start import FROM_BASE, TrainingStart, WarmStart
from tasks.champion import (
    describe_version,
    fetch_champion,
    require_same_base,
    require_same_template,
)
from tasks.home import state_home
from tasks.policies import stage_task
from tasks.tracking import Tracker
from tasks.tracking_models import registry
from tasks.version_tags import (
    CHAMPION,
    PREPARED_TAG,
    PRUNED_TAG,
    SHA256_TAG,
    STARTED_FROM_TAG,
)
from tasks.versions import find_aliases, list_versions
from tasks.warm_start.ancestry import Tags, prepared_ids


@task(**stage_task("choose-start", timedelta(hours=1)))
def choose_start(config: RunConfig, prepared: PreparedData) -> TrainingStart:
    """What this retraining begins from, and why."""
    if config.retraining.start == "base":
        return FROM_BASE
    with registry(config.registry, state_home()) as tracker:
        start = find_start(tracker, config, prepared)
    create_markdown_artifact(f"The training starts {start.because}", key="training-start")
    return start


def find_start(tracker: Tracker, config: RunConfig, prepared: PreparedData) -> TrainingStart:
    """The champion, unless something speaks against it; then the base model, with the reason.

    Raises UserError for a champion of another base model or another LoRA configuration.
    """
    champion_now = (find_aliases(tracker) or {}).get(CHAMPION)
    if champion_now is None:
        return _from_base("there is no champion yet")
    tags = {v.number: v.tags for v in list_versions(tracker)}
    version = _version_before(champion_now, prepared, tags)
    if version is None:
        return _from_base(
            f"version {champion_now} was trained on these very data, and began from it itself"
        )
    if PRUNED_TAG in tags.get(version, {}):
        return _from_base(f"the weights of version {version} were deleted")
    seen = _seen_rows(tracker, version, tags)
    if seen is None:
        return _from_base(f"the rows that version {version} was trained on are not known here")
    forgotten = len(seen & read_marks(tracker.home).keys())
    if forgotten:
        return _from_base(f"version {version} was trained on {forgotten:,} rows to be forgotten")
    held_out = pl.read_parquet(prepared.path / f"{EVAL}.parquet", columns=["row_id"], glob=False)[
        "row_id"
    ]
    known = len(seen.intersection(held_out))
    if known:
        return _from_base(f"version {version} was trained on {known:,} rows that are held out now")
    champion = describe_version(tracker, version, CHAMPION)
    require_same_base(champion, prepared.base_model.name, prepared.base_model.revision)
    fetch_champion(tracker, champion)
    require_same_template(champion, prepared.path / "tokenizer")
    require_same_lora(champion.path, version, config.lora)
    share = config.retraining.replay_share
    own = trained_rows(tracker.home, tags[version][PREPARED_TAG])
    assert own is not None
    new, again = split_rows(prepared.path, own, share)
    if not len(new) + len(again):
        return _from_base(f"version {version} has seen every row, and none is to be repeated")
    return TrainingStart(
        because=f"from version {version}, on {len(new):,} rows that are new to it and "
        f"{len(again):,} that are not",
        warm=WarmStart(
            version=version,
            path=champion.path,
            adapter_sha256=tags[version][SHA256_TAG],
            prepared_id=tags[version][PREPARED_TAG],
            replay_share=share,
        ),
    )


def _version_before(champion: str, prepared: PreparedData, tags: Mapping[str, Tags]) -> str | None:
    """The champion; where that was trained on these very data, what it began from itself.

    So a run that is repeated after its promotion is the same training, and makes no other version.
    """
    version: str | None = champion
    while version is not None and tags.get(version, {}).get(PREPARED_TAG) == prepared.prepared_id:
        version = tags[version].get(STARTED_FROM_TAG)
    return version


def _seen_rows(tracker: Tracker, version: str, tags: Mapping[str, Tags]) -> set[str] | None:
    """Rows that the version, or one that it began from, was trained on; None: not known."""
    seen: set[str] = set()
    if SHA256_TAG not in tags.get(version, {}):
        return None
    for prepared_id in prepared_ids(version, tags):
        rows = trained_rows(tracker.home, prepared_id) if prepared_id else None
        if rows is None:
            return None
        seen.update(rows)
    return seen


def _from_base(because: str) -> TrainingStart:
    return TrainingStart(because=f"{FROM_BASE.because}, because {because}")
