"""All checks, in the order in which they build on each other."""

from collections.abc import Iterator
from pathlib import Path

from schemas.config import RunConfig
from schemas.errors import PipelineError
from schemas.findings import Finding, Level
from tasks.doctor.champion import check_champion
from tasks.doctor.data import check_credentials, check_data
from tasks.doctor.databases import check_database, databases
from tasks.doctor.evaluation import check_evaluation
from tasks.doctor.known import Known
from tasks.doctor.machine import check_clock, check_packages, check_python, describe_machine
from tasks.doctor.model import check_base_model
from tasks.doctor.services import check_servers
from tasks.doctor.state_folder import check_disk, check_leftovers, check_unfinished, check_writable
from tasks.doctor.stores import check_bucket, check_postgresql
from tasks.doctor.training import check_nf4, check_plan, disk_needs, predict_time
from tasks.home import mlflow_store
from tasks.probe import probe_in_child, try_in_child
from tasks.stores.database import configured_database
from tasks.tracking_store import tracking_uri


def examine(config: RunConfig, home: Path) -> Iterator[Finding]:
    """Everything that a run with this configuration needs; each line as soon as it is known."""
    yield check_python()
    yield from check_packages()
    yield check_clock(home)
    known = Known()
    yield from check_credentials(config)
    yield from check_data(config, known)
    yield check_base_model(config.model, home, known)
    yield from check_training(config, known)
    yield from check_evaluation(config)
    yield check_writable(home)
    yield check_disk(home, disk_needs(known))
    yield check_leftovers(home)
    yield from check_unfinished(home)
    yield from check_servers(config.registry, home)
    yield from check_recorded(config, home)


def check_training(config: RunConfig, known: Known) -> Iterator[Finding]:
    """The machine, the plan for it, and whether it really computes."""
    try:
        known.trial = try_in_child(config)
        here = known.trial.probe
    except PipelineError as error:
        yield Finding.of("trial", error)
        try:
            here = probe_in_child()  # which computes nothing
        except PipelineError as worse:
            yield Finding.of("device", worse)
            return
    yield from describe_machine(here)
    yield from check_plan(config, here, known)
    if known.trial is not None and known.trial.device is not None:
        yield check_nf4(known.trial, known)
        yield from predict_time(config, known)


def check_recorded(config: RunConfig, home: Path) -> Iterator[Finding]:
    """The databases and the bucket, and the champion where they can be read."""
    sound = True
    for finding in _stores(config, home):
        sound = sound and finding.level is Level.OK
        yield finding
    if sound:
        yield check_champion(config.registry, home)


def _stores(config: RunConfig, home: Path) -> Iterator[Finding]:
    postgresql = configured_database()
    if postgresql is not None:
        yield check_postgresql(postgresql)
    else:
        for database in databases(home):
            yield from check_database(database)
    if tracking_uri(config.registry, home) == mlflow_store(home):  # a server has its own bucket
        yield from check_bucket()
