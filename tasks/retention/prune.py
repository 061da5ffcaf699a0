"""Task `prune`: the last of a retraining, after which the disk is as full as before it."""

import logging
from datetime import timedelta

from prefect import task

from orpo_pipeline.retention.use import InUse
from schemas.config import RunConfig
from schemas.retention import PruneResult
from tasks.home import state_home
from tasks.policies import stage_task
from tasks.retention.pruning import prune_home

log = logging.getLogger(__name__)


@task(**stage_task("prune", timedelta(hours=6), waits=()))
def prune(config: RunConfig) -> PruneResult | None:
    """Remove what neither a kept version nor unfinished work needs.

    None while another run is at work: the last one to end prunes.
    """
    try:
        return prune_home(config, state_home())
    except InUse as busy:
        log.info("%s", busy.found)
        return None
