"""Pruning against a real registry: which versions stay, and what one that is pruned still says."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prepared import frame
from promoting import intended
from registries import make_registry
from rows import pair_row, write_rows
from seen import seen, watermark
from sites import WEIGHTS, Site, make_site

from orpo_pipeline.data.preparation import prepare
from orpo_pipeline.retention.use import InUse, in_use
from orpo_pipeline.retraining.watermark import commit_watermark
from orpo_pipeline.stages import is_complete
from schemas.config import RegistryConfig, RunConfig
from schemas.errors import UserError
from schemas.retention import PruneResult
from schemas.retention_config import RetentionConfig
from tasks.home import mlflow_store
from tasks.promotion import commit
from tasks.promotion_history import append
from tasks.promotion_requests import promote_by_hand
from tasks.registry import version_of
from tasks.retention.pruning import prune_home
from tasks.retention.versions import delete_weights, sort_versions
from tasks.row_deletion import versions_that_used
from tasks.tracking import Tracker
from tasks.version_tags import PRUNED_TAG
from tasks.versions import fetch_version, find_version


def versions_with_adapters(home: Path) -> Tracker:
    """Eight versions of `tiny`: 1 is the champion, 2 the challenger."""
    made = make_registry(home)
    tracker = made.tracker()
    for number in range(1, 9):
        if number > 4:
            source = f"runs:/{made.run_id}/adapter"
            tracker.client.create_model_version("tiny", source, run_id=made.run_id)
        tag = f"adapter-{number}"
        tracker.client.set_model_version_tag("tiny", str(number), "orpo.adapter_id", tag)
    return tracker


def test_aliases_the_newest_the_last_training_and_a_promotion_under_way_stay(
    tmp_path: Path,
) -> None:
    tracker = versions_with_adapters(tmp_path)
    run_id = tracker.open_run("adapter-1")
    commit(tracker, intended(tracker, run_id, "1", "2"))  # 2 is the champion, 1 previous
    tracker.client.set_registered_model_alias("tiny", "legal-has-read-it", "3")
    append(tracker, intended(tracker, run_id, "2", "4"))
    commit_watermark(tmp_path, watermark([seen("a")], model_name="tiny", version="5"))
    found = sort_versions(tracker, RetentionConfig(keep_versions=2))
    assert sorted(version.number for version in found.kept) == ["1", "2", "3", "4", "5", "7", "8"]
    assert [version.number for version in found.others] == ["6"]
    found = sort_versions(tracker, RetentionConfig())
    assert found.others == ()


@pytest.fixture(scope="module")
def site(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Version 1 of sixty rows, versions 2 and 3 of sixty others; 3 is the champion."""
    site = make_site(tmp_path_factory.mktemp("pruning"), tiny_model, range(60), range(200, 260))
    for number, prepared in enumerate((site.old, site.new, site.new), start=1):
        assert site.register(number, prepared) == str(number)
    site.tracker().client.set_registered_model_alias("tiny", "champion", "3")
    return site


def pruned(site: Site, **retention: Any) -> PruneResult:
    values = {**site.config.retention.model_dump(), **retention}
    config = site.config.model_copy(update={"retention": RetentionConfig.model_validate(values)})
    return prune_home(config, site.home)


def adapters(site: Site) -> set[str]:
    return {folder.name for folder in (site.home / "adapters").iterdir()}


def test_a_dry_run_and_a_run_at_work_remove_nothing(site: Site) -> None:
    before = sorted(site.home.rglob("*"))
    would = prune_home(site.config, site.home, dry_run=True)
    assert {removal.kind: removal.count for removal in would.removed} == {
        "adapters": 2,
        "evaluations": 2,
        "prepared data": 1,
        "checked blocks": 2,
    }
    with in_use(site.home), pytest.raises(InUse):
        prune_home(site.config, site.home)
    assert set(before) <= {*site.home.rglob("*")}


def test_a_store_without_our_model_prunes_nothing(site: Site, tmp_path: Path) -> None:
    commit_watermark(site.home, watermark([seen("a")], model_name="tiny", version="3"))
    elsewhere = {"tracking_uri": mlflow_store(tmp_path), "model_name": "tiny"}
    config = site.config.model_copy(update={"registry": RegistryConfig.model_validate(elsewhere)})
    before = adapters(site)
    with pytest.raises(UserError, match="has no such model"):
        prune_home(config, site.home)
    assert adapters(site) == before
    shutil.rmtree(site.home / "watermarks")


def test_by_default_versions_stay_whole_and_their_rows_known(site: Site, tmp_path: Path) -> None:
    config, home, old = site.config, site.home, site.old.path
    row_id = frame(site.old, "train")["row_id"][0]
    before = versions_that_used(config.registry, home, {row_id})
    result = pruned(site)
    assert result.pruned_versions == () and result.bytes > 0
    assert adapters(site) == {"adapter-3"}
    assert not old.exists() and is_complete(site.new.path)
    assert versions_that_used(config.registry, home, {row_id}) == before
    assert [(use.version, use.trained) for use in before] == [("1", 1)]
    tracker = site.tracker()
    folder, _ = fetch_version(tracker, find_version(tracker, "1"), tmp_path)
    assert (folder / WEIGHTS).is_file()
    assert pruned(site).removed == ()  # nothing is left to do


def test_a_promotion_that_came_between_tag_and_deletion_saves_the_version(site: Site) -> None:
    tracker = site.tracker()
    settings = RetentionConfig(keep_versions=1)
    versions = sort_versions(tracker, settings)
    assert [version.number for version in versions.others] == ["2", "1"]

    class Meanwhile:
        """The client, and a user who gives version 1 an alias as soon as it is tagged."""

        def __getattr__(self, name: str) -> Any:
            return getattr(client, name)

        def set_model_version_tag(self, name: str, number: str, key: str, value: str) -> None:
            client.set_model_version_tag(name, number, key, value)
            client.set_registered_model_alias(name, "wanted", "1")

    client, tracker.client = tracker.client, Meanwhile()  # type: ignore[assignment]
    only = replace(versions, others=versions.others[1:])
    assert list(delete_weights(tracker, only, settings)) == []
    assert PRUNED_TAG not in find_version(site.tracker(), "1").tags
    client.delete_registered_model_alias("tiny", "wanted")


def test_deleted_weights_are_said_by_a_tag_and_nothing_promotes_them(
    site: Site, tmp_path: Path
) -> None:
    tracker = site.tracker()
    # As a prune that was killed between tag and deletion leaves it.
    tracker.client.set_model_version_tag("tiny", "1", PRUNED_TAG, "from now on, on a day")
    result = pruned(site, registered_adapters="delete")
    assert sorted(result.pruned_versions) == ["tiny/1", "tiny/2"]
    assert pruned(site, registered_adapters="delete").pruned_versions == ()
    gone = find_version(site.tracker(), "2")
    assert gone.tags[PRUNED_TAG].endswith("as retention.keep_versions is 1")
    with pytest.raises(UserError, match=r"The weights of tiny version 2 were deleted: on 20"):
        promote_by_hand(site.config.registry, site.home, "2", "because")
    with pytest.raises(UserError, match="were deleted"):
        fetch_version(tracker, gone, tmp_path)
    kept_files, _ = fetch_version(tracker, find_version(tracker, "3"), tmp_path)
    assert (kept_files / WEIGHTS).is_file()
    left = tracker.download_adapter("2", tmp_path)
    assert not (left / WEIGHTS).exists() and (left / "README.md").is_file()


def test_the_same_training_is_registered_anew_where_the_weights_were_deleted(site: Site) -> None:
    assert version_of(site.tracker(), "adapter-3") == "3"
    assert version_of(site.tracker(), "adapter-2") is None
    assert site.register(2, site.new) == "4"
    assert version_of(site.tracker(), "adapter-2") == "4"


def test_what_an_unfinished_training_was_prepared_from_stays(site: Site) -> None:
    tracker = site.tracker()
    write_rows(Path(site.config.data.source), [pair_row(number) for number in range(60)])
    again = prepare(site.config, site.home, lambda *_: None)
    assert again.prepared_id == site.old.prepared_id
    run_id = tracker.open_run("unfinished")
    tracker.client.set_tag(run_id, "orpo.prepared_id", again.prepared_id)
    (site.home / "training" / "unfinished" / "checkpoint-2").mkdir(parents=True)
    os.utime(again.path / "manifest.json", (1e9, 1e9))  # not the newest look
    pruned(site, unfinished_days=1)
    assert is_complete(again.path)
    pruned(site, unfinished_days=0)
    assert not again.path.exists() and not (site.home / "training" / "unfinished").exists()


def test_a_config_of_another_model_prunes_all_models_of_the_store(site: Site) -> None:
    registry = site.config.registry.model_copy(update={"model_name": "another"})
    config: RunConfig = site.config.model_copy(update={"registry": registry})
    prune_home(config, site.home)
    assert adapters(site) == {"adapter-2", "adapter-3"}  # the newest, and the champion
