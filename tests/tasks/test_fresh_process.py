"""A registered version in a fresh process gives the log-probs of the process that trained it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from engines import build_model, run_engine

from orpo_pipeline.data.prepared_files import EVAL, read_pairs
from orpo_pipeline.evaluation.evaluate import evaluate
from orpo_pipeline.evaluation.scoring import score_pairs
from schemas.jobs import EvaluateJob, TrainJob
from schemas.results import TrainedAdapter
from schemas.tokens import TokenizedPair
from tasks.home import mlflow_store, service_environment
from tasks.registry import register_version
from tasks.tracking import Tracker

FRESH_PROCESS = """
import json, sys
import mlflow, torch
uri, model_uri, pairs = sys.argv[1], sys.argv[2], json.load(open(sys.argv[3]))
mlflow.set_tracking_uri(uri); mlflow.set_registry_uri(uri)
model = mlflow.pyfunc.load_model(model_uri).unwrap_python_model().model
found = []
for prompt, answer in pairs:
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    logps = logits.float().log_softmax(-1)
    found.append(logps.gather(-1, torch.tensor(answer)[:, None]).sum().item())
# A version needs nothing of this project.
assert not {"orpo_pipeline", "schemas", "tasks", "flows"} & set(sys.modules)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_log_probs_survive_registration(train_job: Callable[..., TrainJob], tmp_path: Path) -> None:
    registry = {"model_name": "tiny", "tracking_uri": mlflow_store(tmp_path / "home")}
    job = train_job(training={"learning_rate": 1e-2}, registry=registry)
    model = build_model(job)
    run_engine(job, model, tmp_path / "work")
    model.eval()
    rows = read_pairs(job.prepared.path, EVAL).select("prompt_ids", "chosen_ids", "rejected_ids")
    pairs = [TokenizedPair(*ids) for ids in rows.iter_rows()]
    trained = [score.chosen_logp for score in score_pairs(model, pairs, batch_size=4)]
    with model.disable_adapter():
        untrained = [score.chosen_logp for score in score_pairs(model, pairs, batch_size=4)]

    tracker, version = register(job, model)
    tracker.client.set_registered_model_alias("tiny", "champion", version)
    found = in_fresh_process(tracker, "models:/tiny@champion", pairs, tmp_path)
    assert found == pytest.approx(trained, abs=1e-4)
    assert found != pytest.approx(untrained, abs=1e-2)  # the adapter is really in it


def register(job: TrainJob, model: object) -> tuple[Tracker, str]:
    folder = job.home / "adapters" / job.adapter_id
    model.save_pretrained(folder)  # type: ignore[attr-defined] -- peft has no types
    shutil.copytree(job.prepared.path / "tokenizer", folder, dirs_exist_ok=True)
    (folder / "metrics.jsonl").touch()
    adapter = TrainedAdapter(path=folder, adapter_id=job.adapter_id, steps=4, seconds=1.0)
    same = {"config": job.config, "home": job.home, "prepared": job.prepared, "plan": job.plan}
    report = evaluate(EvaluateJob(**same, adapter=adapter), lambda *_: None)
    tracker = Tracker(job.config.registry, job.home)
    run_id = tracker.open_run(job.adapter_id)
    version, _ = register_version(tracker, run_id, job.prepared, job.plan, adapter, report)
    return tracker, version


def in_fresh_process(
    tracker: Tracker, model_uri: str, pairs: list[TokenizedPair], folder: Path
) -> list[float]:
    """Sums of the chosen answers' log-probs, without network."""
    given = folder / "pairs.json"
    given.write_text(json.dumps([[list(pair.prompt), list(pair.chosen)] for pair in pairs]))
    script = folder / "fresh.py"
    script.write_text(FRESH_PROCESS)
    outside = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    finished = subprocess.run(
        [sys.executable, "-P", str(script), tracker.uri, model_uri, str(given)],
        env={**outside, **service_environment(tracker.home), "HF_HUB_OFFLINE": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert finished.returncode == 0, finished.stderr
    found: list[float] = json.loads(finished.stdout.strip().splitlines()[-1])
    return found
