"""Links both ways: version, run, data set, rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from orpo_pipeline.data.lineage import PreparedStage, RowPlace, find_row, find_stage
from schemas.errors import UserError
from schemas.results import PreparedData
from tasks.tracking import Tracker
from tasks.version_tags import DATASET_TAG, PREPARED_TAG
from tasks.versions import Version, command_about, find_version, list_versions

VERSION_TAG = "orpo.model_version"
NOTE_TAG = "mlflow.note.content"
SHORTEST_ID = 6
HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class VersionLineage:
    """What a version was made of."""

    version: Version
    run_id: str | None
    dataset_id: str | None
    prepared_id: str | None
    stage: PreparedStage | None
    """Its prepared data, when this state folder holds it."""


@dataclass(frozen=True)
class RowLineage:
    """A row, and the versions whose data hold it."""

    place: RowPlace
    versions: tuple[Version, ...]


def is_version(tracker: Tracker, wanted: str) -> bool:
    """Whether this is an alias or a version number, and no id of a row or a data set."""
    names = {version.number for version in list_versions(tracker)}
    names.update(alias for version in list_versions(tracker) for alias in version.aliases)
    return wanted in names or not (len(wanted) >= SHORTEST_ID and set(wanted.lower()) <= HEX)


def version_lineage(tracker: Tracker, home: Path, wanted: str) -> VersionLineage:
    """The way of a version back to its data. Raises UserError when there is no such version."""
    return _lineage(find_version(tracker, wanted), home)


def _lineage(version: Version, home: Path) -> VersionLineage:
    dataset_id, prepared_id = version.tags.get(DATASET_TAG), version.tags.get(PREPARED_TAG)
    stage = find_stage(home, dataset_id, prepared_id) if dataset_id else None
    return VersionLineage(version, version.run_id, dataset_id, prepared_id, stage)


def dataset_versions(tracker: Tracker, prefix: str) -> dict[str, list[Version]]:
    """Data set ids that begin so, each with the versions trained on it."""
    found: dict[str, list[Version]] = {}
    for version in list_versions(tracker):
        dataset_id = version.tags.get(DATASET_TAG, "")
        if dataset_id.startswith(prefix.lower()):
            found.setdefault(dataset_id, []).append(version)
    return found


def row_lineage(tracker: Tracker, home: Path, prefix: str) -> list[RowLineage]:
    """Every place of a row in prepared data, with the versions made of it.

    Raises UserError when no prepared data of this state folder has such a row.
    """
    places = find_row(home, prefix)
    if not places:
        raise UserError(
            f"{prefix!r} is no version of {tracker.config.model_name}, no data set that one was "
            f"trained on, and no row of prepared data in {home}.",
            "an alias, a version number, or at least six digits of the id of a row or a data set.",
            "`orpo-pipeline data explain FILE:ROW` shows a row's id.",
        )
    versions = list_versions(tracker)
    return [RowLineage(place, tuple(_made_of(place.stage, versions))) for place in places]


def _made_of(stage: PreparedStage, versions: list[Version]) -> Iterator[Version]:
    for version in versions:
        prepared_id = version.tags.get(PREPARED_TAG, stage.prepared_id)  # older versions lack it
        if (version.tags.get(DATASET_TAG), prepared_id) == (stage.dataset_id, stage.prepared_id):
            yield version


def link_run_and_version(
    tracker: Tracker, run_id: str, version: str, prepared: PreparedData
) -> None:
    """Let the run's page name the version and the data that it was made of."""
    client, name = tracker.client, tracker.config.model_name
    client.set_tag(run_id, VERSION_TAG, f"{name}/{version}")
    note = (
        f"Registered as [{name} version {version}](#/models/{quote(name)}/versions/{version}). "
        f"Data set `{prepared.dataset_id}`: {prepared.train_pairs:,} pairs to train, "
        f"{prepared.eval_pairs:,} held out; its rows: "
        f"{command_about(name, f'lineage {version} --rows rows.parquet')}.\n"
    )
    client.set_tag(run_id, NOTE_TAG, note)


def lineage_links(tracker: Tracker, run_id: str, prepared: PreparedData) -> str:
    """Markdown for the version's page: its run and its data set."""
    run = f"#/experiments/{tracker.experiment_id()}/runs/{run_id}"
    return (
        f"\n[MLflow run]({run}) with curves, plan and data report. "
        f"Data set `{prepared.dataset_id}`, prepared data `{prepared.prepared_id}`: "
        f"`orpo-pipeline lineage` goes from here to its rows, and from a row to its versions.\n"
    )
