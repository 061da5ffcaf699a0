"""The same faults where Prefect and MLflow keep their records in PostgreSQL; and its own death."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import (
    LATIN_SQUARE,
    STAGE_SECONDS,
    Site,
    find_stage,
    kill_in_every_stage,
    nothing_is_left,
    the_one_adapter,
    write_pairs,
)
from postgresql import VARIABLE, Cluster, cluster, make_databases, programs
from servers import REPOSITORY, end, start_up, wait_for

INSTALLED = programs()
AWAY_SECONDS = 60

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.slow,
    pytest.mark.skipif(INSTALLED is None, reason="PostgreSQL is not installed"),
]


@pytest.fixture(scope="module")
def database() -> Iterator[Cluster]:
    assert INSTALLED is not None
    with cluster(INSTALLED) as made:
        yield made


@pytest.fixture(scope="module")
def site(
    database: Cluster, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("faults")
    environment = {VARIABLE: make_databases(database.url, "orpo")}
    site = Site(start_up(folder, REPOSITORY, environment), write_pairs(folder), tiny_model)
    yield site
    end(site.up)


@pytest.mark.parametrize("row", [0, 3])
def test_killed_in_every_stage(site: Site, undisturbed: str, row: int) -> None:
    kill_in_every_stage(site, f"row-{row}", LATIN_SQUARE[row], undisturbed)


def test_a_database_killed_in_the_training_and_back_after_a_minute(
    site: Site, undisturbed: str, database: Cluster
) -> None:
    run = site.start("database")
    wait_for(lambda: find_stage(site, run, "train"), STAGE_SECONDS)
    database.kill()
    time.sleep(AWAY_SECONDS)
    database.start()
    site.wait_until(run, "COMPLETED")
    assert the_one_adapter(site, "database") == undisturbed
    nothing_is_left(site, run)
