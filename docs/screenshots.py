"""Look at every page that people see, in a real browser, and take the pictures of docs/images.

    make screenshots                       # against a running `make up`, after `make demo`
    python docs/screenshots.py --experiment NAME --model NAME

Each page must show the words that it is there for; the first that does not is named, with exit
code 1, and its picture lies in docs/images for a look.
"""

import argparse
import json
import sys
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.home import mlflow_store, state_home
from tasks.servers_file import ServersFile, running_servers

IMAGES = Path(__file__).parent / "images"
CHROMIUM = "/usr/bin/chromium"
PATIENCE = 90.0  # seconds until a page on a busy machine shows its words
SETTLING = 1500  # milliseconds for charts that grow into place


@dataclass(frozen=True, slots=True)
class View:
    """A page, the picture's name and size, and what has to be on it."""

    name: str
    url: str
    words: tuple[str, ...]
    click: str = ""
    """Text of a tab to open first."""
    width: int = 1440
    height: int = 1000


def views(servers: ServersFile, experiment: str, model: str) -> list[View]:
    """All pages of the champion's run and version, and a comparison with the newest other run."""
    assert servers.mlflow_url is not None and servers.prefect_api is not None
    experiment_id, runs = finished_runs(experiment)
    version, champion_run = champion(model)
    runs.sort(key=lambda run: run.info.run_id != champion_run)
    run = runs[0]
    mlflow, prefect = servers.mlflow_url, servers.prefect_api.removesuffix("/api")
    page = f"{mlflow}/#/experiments/{experiment_id}/runs/{run.info.run_id}"
    dataset = run.data.tags["orpo.dataset_id"]
    runs_page = f"{prefect}/runs/flow-run"
    flow_run = f"{runs_page}/{completed_runs(servers.prefect_api, 'orpo-pipeline')[0]['id']}"
    found = [
        View("mlflow-run", page, ("pairs/accuracy", "training.orpo_lambda", dataset), height=1700),
        View("mlflow-charts", f"{page}/model-metrics", ("drift", "kl"), height=1300),
        View(
            "mlflow-figures",
            f"{page}/artifacts/figures/training_curves.png",
            ("training_curves.png",),
        ),
        View("mlflow-gate", f"{page}/artifacts/gate.html", ("May this model replace",)),
        View("mlflow-data", f"{page}/artifacts/data/report.html", ("Preference data report",)),
        View("mlflow-generations", f"{page}/artifacts/generations.json", ("candidate", "base")),
        View("mlflow-model", f"{mlflow}/#/models/{model}", (model, "champion")),
        View(
            "mlflow-version",
            f"{mlflow}/#/models/{model}/versions/{version}",
            ("held-out pairs", "orpo.dataset_id"),
            height=1300,
        ),
        View("prefect-run", flow_run, ("Completed", "orpo-pipeline", "6 Task runs")),
        View("prefect-artifacts", flow_run, ("gate", "data-funnel"), click="Artifacts"),
    ]
    if len(runs) > 1:
        ids = urllib.parse.quote(json.dumps([r.info.run_id for r in runs[:2]]))
        experiments = urllib.parse.quote(json.dumps([experiment_id]))
        url = f"{mlflow}/#/compare-runs?runs={ids}&experiments={experiments}"
        found.append(View("mlflow-compare", url, ("pairs/accuracy", "Comparing 2 Runs")))
    return found


def retraining_views(servers: ServersFile) -> list[View]:
    """The newest retraining that trained, and the newest that found nothing to do."""
    assert servers.prefect_api is not None
    page = f"{servers.prefect_api.removesuffix('/api')}/runs/flow-run"
    newest: dict[str, str] = {}
    for run in completed_runs(servers.prefect_api, "orpo-retrain"):
        verdict = str(run["state"]["message"] or "").partition(":")[0]
        newest.setdefault(verdict, run["id"])
    tasks = {"trains": ("Completed", "train-", "promote-"), "skipped": ("Completed", "decide-")}
    return [
        View(f"retrain-{verdict}", f"{page}/{newest[verdict]}", words)
        for verdict, words in tasks.items()
        if verdict in newest
    ]


def finished_runs(experiment: str) -> tuple[str, list[Any]]:
    """Experiment id and its finished MLflow runs, newest first."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=mlflow_store(state_home()))
    found = client.get_experiment_by_name(experiment)
    if found is None:
        raise SystemExit(f"No experiment {experiment} in {state_home()}: `make demo` makes one.")
    return found.experiment_id, client.search_runs(
        [found.experiment_id], "attributes.status = 'FINISHED'"
    )


def champion(model: str) -> tuple[str, str]:
    """The champion's version and its run."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=mlflow_store(state_home()))
    found = client.get_model_version_by_alias(model, "champion")
    return str(found.version), str(found.run_id)


def completed_runs(api: str, flow: str) -> list[dict[str, Any]]:
    """Completed runs of a flow, newest first."""
    query = {
        "sort": "END_TIME_DESC",
        "flows": {"name": {"any_": [flow]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }
    request = urllib.request.Request(
        f"{api}/flow_runs/filter",
        data=json.dumps(query).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return found


def look(browser: Any, view: View) -> list[str]:
    """Open one page and take its picture; the words that it does not show."""
    page = browser.new_page(viewport={"width": view.width, "height": view.height})
    try:
        page.goto(view.url)
        if view.click:
            page.get_by_text(view.click, exact=True).first.click(timeout=1000 * PATIENCE)
        deadline = time.monotonic() + PATIENCE
        missing = list(view.words)
        while missing and time.monotonic() < deadline:
            page.wait_for_timeout(500)
            text = shown_text(page)
            missing = [word for word in missing if word not in text]
        page.wait_for_timeout(SETTLING)
        page.screenshot(path=IMAGES / f"{view.name}.png")
    finally:
        page.close()
    return missing


def shown_text(page: Any) -> str:
    """What can be read on a page and in the frames inside it."""
    from playwright.sync_api import Error

    texts = []
    for frame in page.frames:
        try:
            texts.append(frame.inner_text("body", timeout=1000))
        except Error:  # a frame that is being replaced
            continue
    return "\n".join(texts)


def main() -> int:
    """All pictures; 1 when a page does not show what it is there for."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--experiment", default="orpo-demo")
    parser.add_argument("--model", default="orpo-demo")
    parser.add_argument("--retraining", action="store_true", help="Those of orpo-retrain alone.")
    parser.add_argument("--chromium", default=CHROMIUM, help="Path of the browser.")
    arguments = parser.parse_args()
    servers = running_servers(state_home())
    if servers is None:
        raise SystemExit("No servers run on this state folder: start `make up` first.")
    IMAGES.mkdir(exist_ok=True)
    failed = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=arguments.chromium, args=["--no-sandbox"]
        )
        others = (
            [] if arguments.retraining else views(servers, arguments.experiment, arguments.model)
        )
        for view in [*others, *retraining_views(servers)]:
            missing = look(browser, view)
            failed += bool(missing)
            print(f"{view.name}: {'does not show ' + ', '.join(missing) if missing else 'ok'}")
        browser.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
