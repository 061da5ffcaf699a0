"""One `up` for a module's faults, on the real flow and a tiny model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import Site, the_one_adapter, write_pairs
from servers import REPOSITORY, end, start_up


@pytest.fixture(scope="module")
def site(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("faults")
    site = Site(start_up(folder, REPOSITORY), write_pairs(folder), tiny_model)
    yield site
    end(site.up)


@pytest.fixture(scope="module")
def undisturbed(site: Site) -> str:
    """SHA-256 of the adapter of a run that nothing happens to."""
    run = site.start("undisturbed")
    site.wait_until(run, "COMPLETED")
    return the_one_adapter(site, "undisturbed")
