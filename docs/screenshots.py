"""Take the pictures of docs/images with headless Chromium, against a running `make up`.

python docs/screenshots.py            # the newest run of the experiment orpo-demo
"""

import argparse
import json
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from tasks.home import mlflow_store, state_home
from tasks.servers_file import running_servers

IMAGES = Path(__file__).parent / "images"
CHROMIUM = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
# The pages draw after many small requests: the virtual clock must outlast them.
PATIENCE = ["--virtual-time-budget=30000", "--timeout=90000", "--hide-scrollbars"]


def take(url: str, name: str, size: str = "1440,1000") -> None:
    """One picture of one page."""
    with tempfile.TemporaryDirectory() as profile:
        picture = IMAGES / f"{name}.png"
        arguments = [f"--user-data-dir={profile}", f"--window-size={size}"]
        command = [*CHROMIUM, *QUIET, *PATIENCE, *arguments, f"--screenshot={picture}", url]
        subprocess.run(command, check=True, timeout=180, capture_output=True)
    print(picture)


def newest_flow_run(api: str) -> str:
    """Id of the newest completed flow run of the main job."""
    query = {
        "sort": "END_TIME_DESC",
        "limit": 1,
        "flows": {"name": {"any_": ["orpo-pipeline"]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }
    request = urllib.request.Request(
        f"{api}/flow_runs/filter",
        data=json.dumps(query).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(json.load(answer)[0]["id"])


def newest_run(experiment: str) -> tuple[str, Any]:
    """Experiment id and newest finished MLflow run."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=mlflow_store(state_home()))
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs(
        [found.experiment_id], "attributes.status = 'FINISHED'", max_results=1
    )
    return found.experiment_id, runs[0]


def main() -> None:
    """All pictures of docs/images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", default="orpo-demo")
    parser.add_argument("--model", default="orpo-demo")
    arguments = parser.parse_args()
    servers = running_servers(state_home())
    if servers is None:
        raise SystemExit("No servers run on this state folder: start `make up` first.")
    IMAGES.mkdir(exist_ok=True)
    mlflow, prefect = servers.mlflow_url, servers.prefect_api.removesuffix("/api")
    experiment_id, run = newest_run(arguments.experiment)
    page = f"{mlflow}/#/experiments/{experiment_id}/runs/{run.info.run_id}"
    take(page, "mlflow-run", "1440,1500")
    take(f"{page}/model-metrics", "mlflow-charts", "1440,1300")
    take(f"{page}/artifacts/figures/training_curves.png", "mlflow-figures")
    take(f"{page}/artifacts/generations.json", "mlflow-generations")
    take(f"{mlflow}/#/models/{arguments.model}", "mlflow-model")
    take(f"{mlflow}/#/models/{arguments.model}/versions/1", "mlflow-version")
    take(f"{prefect}/runs/flow-run/{newest_flow_run(servers.prefect_api)}", "prefect-run")


if __name__ == "__main__":
    main()
