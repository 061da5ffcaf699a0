"""A pair that makes the loss NaN: named, and training stops before its step, or leaves it out.

The pair has a token of its own, whose embedding is NaN: only passes over that pair are not finite.
"""

import json
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import build_model, idle_run, run_engine
from rows import pair_row, write_rows

from orpo_pipeline.data.prepared_files import TRAIN, read_pairs
from orpo_pipeline.training.checkpoints import WRITING, newest_step
from orpo_pipeline.training.non_finite import (
    GRADIENT_NORM,
    LOSS,
    StepGuard,
    check_finite,
)
from orpo_pipeline.training.order import epoch_order
from orpo_pipeline.training.packed.forward import causal_lm_of
from orpo_pipeline.training.train import Interrupted, read_metrics, train
from orpo_pipeline.training.trainer_setup import _reporting
from schemas.errors import UserError
from schemas.jobs import TrainJob
from schemas.results import TrainedAdapter
from schemas.training_config import TrainingConfig

MakeJob = Callable[..., TrainJob]
WEIGHTS = "adapter_model.safetensors"
WORDS = ("apple", "bread", "cloud", "dream", "eagle", "flame", "grape")
WORDS += ("horse", "ivory", "jewel", "knife", "lemon", "mouse", "night")
STEPS: dict[str, Any] = {
    "max_steps": 3,
    "batch_size": 3,
    "save_steps": 1,
    "learning_rate": 1e-3,
    "eval_pairs": 0,
}
SKIP = {"on_non_finite": "skip"}


@pytest.fixture
def make_job(train_job: MakeJob, tmp_path: Path) -> MakeJob:
    """Jobs on some nine pairs, each with a word of its own."""
    rows = [
        pair_row(n, chosen=[{"role": "assistant", "content": f"It is {2 * n}, {word}."}])
        for n, word in enumerate(WORDS)
    ]
    source = write_rows(tmp_path / "words.jsonl", rows)

    def make(home: str = "home", training: dict[str, Any] | None = None, **more: Any) -> TrainJob:
        return train_job(
            home,
            data={"source": str(source)},
            training={**STEPS, "token_budget": 150, **(training or {})},
            lora={"dropout": 0.1, "r": 4},
            **more,
        )

    return make


def pair_of_step_2(job: TrainJob) -> tuple[str, int]:
    """Row id of a pair that the second step trains on, and a token that no other pair has."""
    pairs = read_pairs(job.prepared.path, TRAIN)
    number = epoch_order(pairs.height, job.config.training.seed, 0)[3]
    tokens = [{*row[0], *row[1], *row[2]} for row in pairs.select(r"^.*_ids$").iter_rows()]
    own = tokens[number].difference(*(t for n, t in enumerate(tokens) if n != number))
    return pairs["row_id"][int(number)], min(own)


def poison(model: Any, token: int) -> Any:
    """The embedding of a token becomes NaN; the output layer, with its own weights, stays."""
    causal_lm = causal_lm_of(model)
    head, embedding = causal_lm.get_output_embeddings(), causal_lm.get_input_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    with torch.no_grad():
        embedding.weight[token] = math.nan
    return model


@pytest.fixture
def poisoned_job(make_job: MakeJob, tmp_path: Path) -> tuple[MakeJob, str]:
    """Jobs whose model, a folder, fails on one pair of step 2; and the row id of that pair."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain = make_job()
    row_id, token = pair_of_step_2(plain)
    model = AutoModelForCausalLM.from_pretrained(plain.prepared.base_model.path)
    folder = tmp_path / "poisoned"
    poison(model, token)
    model.config.tie_word_embeddings = False
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(plain.prepared.base_model.path).save_pretrained(folder)

    def make(home: str = "home", **training: Any) -> TrainJob:
        model = {"base_model": str(folder), "quantization": "none"}
        return make_job(home, training=training, model=model)

    return make, row_id


def run(job: TrainJob) -> TrainedAdapter:
    return train(job, lambda *_: None, lambda: False)


def test_it_stops_and_then_goes_on_by_skipping_as_if_it_had_never_stopped(
    poisoned_job: tuple[MakeJob, str], caplog: pytest.LogCaptureFixture
) -> None:
    make, row_id = poisoned_job
    skipping = make("undisturbed", **SKIP)
    with caplog.at_level(logging.WARNING):
        undisturbed = run(skipping)
    assert row_id in caplog.text and "Step 2 is left out: 1 so far" in caplog.text
    assert undisturbed.skipped_steps == 1
    points = read_metrics(undisturbed.path / "metrics.jsonl")
    assert [point["values"]["train/skipped_steps"] for point in points] == [0, 1, 1]
    assert LOSS in points[0]["values"] and LOSS not in points[1]["values"]

    job = make("stopped")
    with pytest.raises(UserError) as caught:
        run(job)
    assert f"{LOSS}, {GRADIENT_NORM} became non-finite at step 2" in caught.value.found
    assert caught.value.found.endswith(f"Its rows: {row_id}.")
    work = job.home / "training" / job.adapter_id
    assert newest_step(work) == 1

    again = make("stopped", **SKIP)
    assert again.adapter_id == job.adapter_id  # so it goes on, in the same MLflow run
    with pytest.raises(Interrupted):  # once more behind the step that was left out
        steps: list[int] = []
        train(again, lambda step, *_: steps.append(step), lambda: True)
    assert steps == [2]
    state = json.loads((work / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["log_history"][-1]["skipped_steps"] == 1
    before, after = ((work / f"checkpoint-{n}" / WEIGHTS).read_bytes() for n in (1, 2))
    assert before == after
    resumed = run(again)
    assert (resumed.resumed_from, resumed.skipped_steps) == (2, 1)
    assert (resumed.path / WEIGHTS).read_bytes() == (undisturbed.path / WEIGHTS).read_bytes()
    continued = read_metrics(resumed.path / "metrics.jsonl")
    assert continued[1:] == points[1:]
    assert "train/skipped_steps" not in continued[0]["values"]  # it was to stop, then
    shutil.rmtree(resumed.path)


@pytest.mark.parametrize("engine", ["packed", "trl"])
def test_a_step_that_is_left_out_changes_nothing_in_either_engine(
    make_job: MakeJob, tmp_path: Path, engine: str
) -> None:
    size = {"packed": {"token_budget": 150}, "trl": {"micro_batch_size": 1, "token_budget": None}}
    job = make_job(training={**size[engine], "engine": engine, **SKIP})
    row_id, token = pair_of_step_2(job)
    model = poison(build_model(job), token)
    points = run_engine(job, model, tmp_path / "work")
    assert [values["train/skipped_steps"] for _, _, values in points] == [0, 1, 1]
    assert [LOSS in values for _, _, values in points] == [True, False, True]
    check_finite(3, points[2][2])
    # The moments of step 1 and 3 alone: torch counts an AdamW parameter's updates.
    optimizer = torch.load(tmp_path / "work/checkpoint-3/optimizer.pt", weights_only=True)
    assert {float(state["step"]) for state in optimizer["state"].values()} == {2.0}

    none_left = make_job(
        training={**size[engine], "engine": engine, **SKIP, "max_skipped_steps": 0}
    )
    with pytest.raises(UserError, match="Step 2 is non-finite, as 0 before it") as caught:
        run_engine(none_left, poison(build_model(job), token), tmp_path / "none")
    assert row_id in caught.value.found and "at most 0" in caught.value.expected
    assert newest_step(tmp_path / "none") == 1


def test_all_rows_of_the_step_are_named_when_only_the_gradient_is_not_finite(
    make_job: MakeJob,
) -> None:
    job = make_job()
    ids = read_pairs(job.prepared.path, TRAIN)["row_id"].to_list()
    guard = StepGuard(job.config.training, job.prepared.path)
    guard.see(torch.tensor([-3.0, -4.0]), [5, 0])
    guard.see(torch.tensor(1.5), [2])
    with pytest.raises(UserError) as caught:
        guard.must_skip(7, torch.tensor(math.inf), scaled=False)
    assert f"{GRADIENT_NORM} became non-finite at step 7" in caught.value.found
    assert all(ids[number] in caught.value.found for number in (0, 2, 5))
    # In float16 the loss scaler skips such a step, and that is ordinary.
    assert not guard.must_skip(8, torch.tensor(math.inf), scaled=True)


def test_a_finite_gradient_is_clipped_however_large(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(training={"max_grad_norm": 1e-6, "max_steps": 1})
    ((_, _, values),) = run_engine(job, build_model(job, moved=True), tmp_path / "work")
    assert values[GRADIENT_NORM] > 1e-3


def test_weights_that_are_not_finite_are_never_sealed(make_job: MakeJob, tmp_path: Path) -> None:
    """What the last update broke shows in the next loss only, behind the checkpoint."""
    from transformers import TrainerControl, TrainerState, TrainingArguments

    job = make_job(training={"max_steps": 1})
    model = build_model(job)
    run_engine(job, model, tmp_path)
    (tmp_path / "checkpoint-1").rename(tmp_path / WRITING / "checkpoint-1")
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    with torch.no_grad():
        trained[-1][-1, -1] = math.inf
    run = idle_run(job, tmp_path)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    reporting = _reporting(run, StepGuard(run.training, run.pairs))
    with pytest.raises(UserError, match="a weight became non-finite at step 1"):
        reporting.on_save(arguments, TrainerState(global_step=1), TrainerControl(), model=model)
    assert newest_step(tmp_path) == 0


def test_counting_goes_on_where_the_checkpoint_stopped() -> None:
    guard = StepGuard(TrainingConfig(), Path("unused"))
    guard.resume([{"loss": 1.0}, {"loss": 1.0, "skipped_steps": 2}, {"train_runtime": 3}])
    assert guard.skipped == 2
    guard.resume([{"loss": 1.0}])
    assert guard.skipped == 0
