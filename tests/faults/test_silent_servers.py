"""Servers that live and answer nothing: each is started again, and nobody has to look."""

from contextlib import suppress

import psutil
import pytest
from faults import Site
from servers import wait_for

from tasks import prefect_api
from tasks.recovery.silence import LOOK_SECONDS, SERVER_LOOKS, WORKER_LOOKS

pytestmark = [pytest.mark.timeout(1200), pytest.mark.slow]


@pytest.mark.parametrize("name", ["prefect", "mlflow", "worker"])
def test_one_that_hangs_is_started_again(site: Site, name: str) -> None:
    stopped = site.server(name)
    for process in [stopped, *stopped.children(recursive=True)]:
        process.suspend()

    def another_runs() -> bool:
        with suppress(psutil.NoSuchProcess):  # until it is started again
            return site.server(name).pid != stopped.pid
        return False

    says = f"`{name}` gives no sign of life; its process is killed."
    looks = WORKER_LOOKS if name == "worker" else SERVER_LOOKS
    wait_for(lambda: says in site.up.output, looks * LOOK_SECONDS + 90)
    wait_for(another_runs, 120)
    wait_for(lambda: prefect_api.answers(f"{site.up.api}/health"), 120)
    wait_for(lambda: prefect_api.answers(f"{site.up.mlflow_url}/health"), 120)
    run = site.start(f"after-{name}", max_steps=2)
    site.wait_until(run, "COMPLETED")
