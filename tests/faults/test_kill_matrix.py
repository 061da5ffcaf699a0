"""kill -9 of every process in every stage, with real servers; nobody does anything afterwards.

Five victims in five stages are 25 cells. They are five runs: in each one every stage sees one kill
and every victim dies once (a Latin square). The tests share one `up` and stand in their order.
"""

import os
import signal

import psutil
import pytest
from faults import (
    LATIN_SQUARE,
    STAGE_SECONDS,
    Site,
    find_stage,
    kill,
    kill_in_every_stage,
    nothing_is_left,
    the_one_adapter,
)
from servers import REPOSITORY, living, start_up, wait_for

from tasks.process_group import find_processes

pytestmark = [pytest.mark.timeout(1800), pytest.mark.slow]


@pytest.mark.parametrize("row", range(5))
def test_killed_in_every_stage(site: Site, undisturbed: str, row: int) -> None:
    kill_in_every_stage(site, f"row-{row}", LATIN_SQUARE[row], undisturbed)


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
