"""kill -9 of every process in every stage, with real servers; nobody does anything afterwards.

Five victims in five stages are 25 cells. They are five runs: in each one every stage sees one kill
and every victim dies once (a Latin square). The tests share one `up` and stand in their order.
"""

import os
import signal
from pathlib import Path

import psutil
import pytest
from faults import (
    STAGES,
    STEPS,
    VICTIMS,
    Site,
    adapter_hash,
    find_stage,
    frozen,
    kill,
)
from servers import REPOSITORY, living, start_up, wait_for

from tasks import prefect_api
from tasks.process_group import find_processes

pytestmark = [pytest.mark.timeout(1800), pytest.mark.slow]

STAGE_SECONDS = 240
LATIN_SQUARE = [
    {stage: VICTIMS[(row + column) % 5] for column, stage in enumerate(STAGES)} for row in range(5)
]


@pytest.fixture(scope="module")
def undisturbed(site: Site) -> str:
    """SHA-256 of the adapter of a run that nothing happens to."""
    run = site.start("undisturbed")
    site.wait_until(run, "COMPLETED")
    return the_one_adapter(site, "undisturbed")


def the_one_adapter(site: Site, name: str) -> str:
    """Hash of the adapter of the experiment's only run, which holds all that it must, once."""
    (found,) = site.mlflow_runs(name)
    assert found.info.status == "FINISHED"
    client = site.client()
    points = client.get_metric_history(found.info.run_id, "train/loss")
    assert sorted(point.step for point in points) == list(range(1, STEPS + 1))
    (version,) = client.search_model_versions(f"name = '{name}'")
    assert version.run_id == found.info.run_id
    assert client.get_model_version_by_alias(name, "champion").version == version.version
    return adapter_hash(site, found)


def nothing_is_left(site: Site, run: str) -> None:
    """No process, no open run, task or slot, and no half-written stage."""
    assert wait_for(lambda: not site.processes(run), 60)
    assert {state for states in site.task_states(run).values() for state in states} <= {
        *("Completed", "Cached", "Crashed", "Failed"),
    }
    limits = prefect_api.call(site.up.api, "POST", "/v2/concurrency_limits/filter", {})
    assert [limit for limit in limits if limit["active_slots"]] == []
    for room in ("prepared", "adapters", "evaluations"):
        assert [path.name for path in site.up.home.glob(f"{room}/.*")] == []


def victim_of(site: Site, name: str, processes: list[psutil.Process]) -> psutil.Process:
    if name == "flow":
        return processes[0]
    return processes[1] if name == "child" else site.server(name)


@pytest.mark.parametrize("row", range(5))
def test_killed_in_every_stage(site: Site, undisturbed: str, row: int) -> None:
    name = f"row-{row}"
    run = site.start(name)
    finished: dict[Path, int] = {}
    for stage, victim in LATIN_SQUARE[row].items():
        if (stage, victim) == ("register", "child"):
            continue  # it runs in the flow's own process
        processes = wait_for(lambda stage=stage: find_stage(site, run, stage), STAGE_SECONDS)
        finished |= {p: t for p, t in site.manifests().items() if p not in finished}
        with frozen(processes):
            print(f"{stage}: kill -9 of {victim}")
            kill(victim_of(site, victim, processes))
    site.wait_until(run, "COMPLETED")
    assert the_one_adapter(site, name) == undisturbed
    now = site.manifests()
    assert finished == {path: now[path] for path in finished}
    nothing_is_left(site, run)
    assert site.states(run).count("Resuming") == 2  # for the flow and for the worker


def test_everything_killed_at_once(site: Site, undisturbed: str) -> None:
    """As a power cut does it; then `up` is started, and nothing else is done."""
    run = site.start("power-cut")
    wait_for(lambda: find_stage(site, run, "train"), STAGE_SECONDS)
    finished = site.manifests()
    everything = [
        psutil.Process(site.up.process.pid),
        *find_processes(site.up.home, lambda _: True),
    ]
    for process in everything:
        process.send_signal(signal.SIGSTOP)  # so that none sees the death of another
    half_written = site.up.home / "prepared" / ".cut-off.1.0123abcd"
    half_written.mkdir()
    os.utime(half_written, (0, 0))
    for process in everything:
        kill(process)
    site.up.process.wait()
    wait_for(lambda: not living(everything), 10)

    site.up = start_up(site.up.home.parent, REPOSITORY, ports=site.up.ports)
    assert "1 flow runs that were cut off, going on." in site.up.output
    assert "1 half-written stages, removed." in site.up.output
    site.wait_until(run, "COMPLETED")
    assert the_one_adapter(site, "power-cut") == undisturbed
    now = site.manifests()
    assert finished == {path: now[path] for path in finished}
    nothing_is_left(site, run)
