"""One prune of a state folder and its registry; `orpo-pipeline prune` and the task call it."""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path

from orpo_pipeline.data.lineage import prepared_stages, stage_rows
from orpo_pipeline.data.row_lists import FACTS, keep_row_list
from orpo_pipeline.retention.removal import remove, rotate_log
from orpo_pipeline.retention.unused import DAY, Unused, find_unused, freed_bytes, newest_change
from orpo_pipeline.retention.use import not_in_use
from schemas.config import RunConfig
from schemas.retention import PruneResult, Removal
from schemas.retention_config import RetentionConfig
from tasks.retention.versions import (
    delete_weights,
    prepared_ids,
    require_its_store,
    results_folder,
    sort_versions,
    what_stays,
)
from tasks.tracking import Tracker
from tasks.tracking_models import registry
from tasks.version_tags import PRUNED_TAG

RESULTS = "results of Prefect's tasks"


def prune_home(config: RunConfig, home: Path, dry_run: bool = False) -> PruneResult:
    """Remove what nothing needs, or only say what that is.

    Raises InUse while a run is at work, UserError for a store without the models that were trained
    here, EnvironmentFault where the registry or the disk fails.
    """
    with (
        nullcontext() if dry_run else not_in_use(home),
        registry(config.registry, home) as tracker,
    ):
        return _prune(tracker, config.retention, dry_run)


def _prune(tracker: Tracker, config: RetentionConfig, dry_run: bool) -> PruneResult:
    home = tracker.home
    require_its_store(tracker)
    versions = sort_versions(tracker, config)
    unused = find_unused(home, what_stays(tracker, versions, config), config)
    unused += [Unused(RESULTS, folder) for folder in _old_results(home, config)]
    removed = tuple(_measure(unused))
    deletes = config.registered_adapters == "delete"
    if dry_run:
        left = [v for v in versions.others if deletes and PRUNED_TAG not in v.tags]
        return PruneResult(
            removed=removed, pruned_versions=tuple(f"{v.name}/{v.number}" for v in left)
        )
    _keep_row_lists(home, prepared_ids(versions), {one.folder for one in unused})
    for one in unused:
        remove(one.folder)
    pruned = tuple(delete_weights(tracker, versions, config)) if deletes else ()
    for log in sorted((home / "logs").glob("*.log")):
        rotate_log(log, config.log_megabytes * 2**20)
    return PruneResult(removed=removed, pruned_versions=pruned)


def _keep_row_lists(home: Path, registered: frozenset[str], going: set[Path]) -> None:
    """Before prepared data goes: the row ids of what some version was trained on."""
    for stage in prepared_stages(home):
        if stage.folder in going and stage.prepared_id in registered:
            facts = {name: getattr(stage, name) for name in FACTS}
            keep_row_list(home, stage_rows(stage.folder), facts)


def _old_results(home: Path, config: RetentionConfig) -> Iterator[Path]:
    """Of flow runs that nobody retries any more; this one's are younger than a day."""
    given_up = time.time() - max(config.unfinished_days, 1) * DAY
    results = sorted(results_folder(home).glob("*"))  # a folder or a file for each
    yield from (result for result in results if newest_change(result) <= given_up)


def _measure(unused: list[Unused]) -> Iterator[Removal]:
    """Counts and bytes by kind. Files with links in several kinds count where the last one goes."""
    before, folders = 0, []
    for kind, group in groupby(unused, key=lambda one: one.kind):
        own = [one.folder for one in group]
        folders += own
        freed = freed_bytes(folders)
        yield Removal(kind=kind, count=len(own), bytes=freed - before)
        before = freed
