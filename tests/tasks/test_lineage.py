"""Links both ways: version to rows, row and data set to versions, run to version."""

from pathlib import Path

import polars as pl
import pytest
from versions import Versions

from orpo_pipeline.data.lineage import stage_rows
from schemas.errors import UserError
from tasks.lineage import dataset_versions, is_version, row_lineage, version_lineage
from tasks.tracking import Tracker


@pytest.fixture(scope="module")
def tracker(two_versions: Versions) -> Tracker:
    return two_versions.tracker()


def test_from_a_version_to_its_rows(two_versions: Versions, tracker: Tracker) -> None:
    way = version_lineage(tracker, two_versions.home, "champion")
    prepared = two_versions.prepared
    assert (way.dataset_id, way.prepared_id) == (prepared.dataset_id, prepared.prepared_id)
    assert way.stage is not None and way.stage.folder == prepared.path
    rows = stage_rows(way.stage.folder)
    assert rows["split"].value_counts().sort("split")["count"].to_list() == [
        prepared.eval_pairs,
        prepared.train_pairs,
    ]
    assert rows.columns == ["row_id", "split", "source", "origin_file", "origin_row"]


def test_from_a_row_to_its_versions(two_versions: Versions, tracker: Tracker) -> None:
    for split in ("train", "eval"):
        row_id = pl.read_parquet(two_versions.prepared.path / f"{split}.parquet")["row_id"][0]
        (way,) = row_lineage(tracker, two_versions.home, row_id[:16])
        assert (way.place.row_id, way.place.split) == (row_id, split)
        assert [version.number for version in way.versions] == ["2", "1"]
        assert way.place.origin.startswith("pairs.jsonl:")


def test_from_a_data_set_to_its_versions(two_versions: Versions, tracker: Tracker) -> None:
    dataset_id = two_versions.prepared.dataset_id
    found = dataset_versions(tracker, dataset_id[:8])
    assert [version.number for version in found[dataset_id]] == ["2", "1"]
    assert dataset_versions(tracker, "0" * 64) == {}


def test_words_and_numbers_are_versions_and_long_hex_is_an_id(tracker: Tracker) -> None:
    assert is_version(tracker, "champion") and is_version(tracker, "2")
    assert is_version(tracker, "previous")  # no such version, and that is what is to be said
    assert not is_version(tracker, "a1b2c3") and not is_version(tracker, "123456")


def test_what_nobody_knows(two_versions: Versions, tracker: Tracker) -> None:
    with pytest.raises(UserError, match="no row of prepared data"):
        row_lineage(tracker, two_versions.home, "f" * 64)


def test_data_prepared_elsewhere(two_versions: Versions, tracker: Tracker, tmp_path: Path) -> None:
    assert version_lineage(tracker, tmp_path, "1").stage is None


def test_the_pages_of_run_and_version_name_each_other(
    two_versions: Versions, tracker: Tracker
) -> None:
    version = tracker.client.get_model_version("tiny", "1")
    assert f"/runs/{version.run_id})" in version.description
    assert two_versions.prepared.dataset_id in version.description
    tags = tracker.client.get_run(version.run_id).data.tags
    assert tags["orpo.model_version"] == "tiny/1"
    assert "(#/models/tiny/versions/1)" in tags["mlflow.note.content"]
