"""Cancelled over Prefect's API, as its page does; and a Prefect server that is away for minutes.

The tests share one `up` and stand in their order.
"""

import signal
import time

import psutil
import pytest
from faults import SAVE_STEPS, Site, find_stage, kill
from servers import REPOSITORY, living, start_up, wait_for

from orpo_pipeline.training.checkpoints import newest_step
from tasks import prefect_api
from tasks.process_group import find_processes

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

STAGE_SECONDS = 240
CANCEL_SECONDS = 10
AWAY_SECONDS = 200
"""A run's client with Prefect's own settings gives up after 146 s at the latest."""


def cancel(site: Site, run: str) -> None:
    body = {"state": {"type": "CANCELLING"}}
    prefect_api.call(site.up.api, "POST", f"/flow_runs/{run}/set_state", body)


@pytest.mark.parametrize("stage", ["prepare", "train", "evaluate"])
def test_a_cancel_in_a_stage_ends_all_of_it(site: Site, stage: str) -> None:
    name = f"cancelled-in-{stage}"
    run = site.start(name, **({"max_steps": 100_000} if stage == "train" else {}))
    processes = wait_for(lambda: find_stage(site, run, stage), STAGE_SECONDS)
    cancelled = time.monotonic()
    cancel(site, run)
    wait_for(lambda: not living(processes), 60)
    took = time.monotonic() - cancelled
    # Only then Prefect imports the flow once more, in another process, to look for hooks.
    site.wait_until(run, "CANCELLED", 60)
    print(f"{stage}: ended after {took:.1f} s, Cancelled {time.monotonic() - cancelled:.1f} s")
    assert took < CANCEL_SECONDS
    wait_for(lambda: not site.processes(run), 10)
    assert "Resuming" not in site.states(run)
    statuses = [found.info.status for found in site.mlflow_runs(name)]
    assert statuses == ([] if stage == "prepare" else ["KILLED"])
    if stage == "train":
        (work,) = site.up.home.glob("training/*")
        assert newest_step(work) >= SAVE_STEPS


def test_a_server_that_is_away_for_minutes_stops_nothing(site: Site) -> None:
    """`up` is stopped meanwhile, so that it does not start the server again at once."""
    run = site.start("away")
    processes = wait_for(lambda: find_stage(site, run, "train"), STAGE_SECONDS)
    site.up.process.send_signal(signal.SIGSTOP)
    kill(site.server("prefect"))
    time.sleep(AWAY_SECONDS)  # what is tested is the length of the absence
    assert living(processes[:1]), "the flow did not wait for its server"
    site.up.process.send_signal(signal.SIGCONT)
    site.wait_until(run, "COMPLETED", 800)
    # Once more if the lease of its concurrency slot, which it renews every 225 s, has lapsed.
    assert site.states(run).count("Running") <= 2
    print("away:", site.states(run))


def test_a_cancel_that_nobody_could_carry_out_is_carried_out_at_the_next_start(site: Site) -> None:
    run = site.start("unheard", max_steps=100_000)
    wait_for(lambda: find_stage(site, run, "train"), STAGE_SECONDS)
    site.up.process.send_signal(signal.SIGSTOP)
    kill(site.server("worker"))
    cancel(site, run)
    everything = find_processes(site.up.home, lambda _: True)
    everything.insert(0, psutil.Process(site.up.process.pid))
    for process in everything:
        kill(process)
    site.up.process.wait()
    wait_for(lambda: not living(everything), 10)

    site.up = start_up(site.up.home.parent, REPOSITORY, ports=site.up.ports)
    assert "1 flow runs that were to be cancelled, cancelled." in site.up.output
    assert site.run(run)["state_type"] == "CANCELLED"
    assert site.processes(run) == []
    (found,) = wait_for(
        lambda: [r for r in site.mlflow_runs("unheard") if r.info.status != "RUNNING"], 60
    )
    assert found.info.status == "KILLED"
