"""MLflow runs that say RUNNING although their process is gone, over the server's REST interface.

Nothing else would end them: MLflow has no heartbeat. Importing MLflow takes seconds and memory that
a supervisor should not need.
"""

import time
from collections.abc import Iterator
from typing import Any

from tasks.prefect_api import call
from tasks.recovery.owner import OWNER_TAG, is_gone

API = "/api/2.0/mlflow"
PAGE = 1000
RUNNING = f"attributes.status = 'RUNNING' AND tags.`{OWNER_TAG}` != ''"


def close_abandoned(server: str, timeout: float = 60) -> int:
    """Record the open runs of processes that are gone as KILLED; returns how many.

    A training that continues reopens its run.
    """
    experiments = _pages(server, "experiments", {}, timeout)
    ids = [experiment["experiment_id"] for experiment in experiments]
    wanted = {"experiment_ids": ids, "filter": RUNNING}
    abandoned = [run for run in _pages(server, "runs", wanted, timeout) if is_gone(_owner(run))]
    for run in abandoned:
        end = {"status": "KILLED", "end_time": int(time.time() * 1000)}
        body = {"run_id": run["info"]["run_id"], **end}
        call(server, "POST", f"{API}/runs/update", body, timeout)
    return len(abandoned)


def _pages(
    server: str, what: str, wanted: dict[str, Any], timeout: float
) -> Iterator[dict[str, Any]]:
    token = ""
    while True:
        body = {**wanted, "max_results": PAGE, "page_token": token}
        page = call(server, "POST", f"{API}/{what}/search", body, timeout)
        yield from page.get(what, [])
        token = page.get("next_page_token", "")
        if not token:
            return


def _owner(run: dict[str, Any]) -> str:
    return next(str(tag["value"]) for tag in run["data"]["tags"] if tag["key"] == OWNER_TAG)
