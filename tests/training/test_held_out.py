"""Held-out figures while training: the same by both engines, and training goes on as without."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import build_model, idle_run, run_engine

from orpo_pipeline.training.checkpoints import newest_step
from orpo_pipeline.training.held_out import HeldOutPairs
from orpo_pipeline.training.packed.attention import packed_attention
from orpo_pipeline.training.packed.forward import causal_lm_of
from schemas.errors import UserError
from schemas.jobs import TrainJob

MakeJob = Callable[..., TrainJob]
STEPS: dict[str, Any] = {
    "max_steps": 3,
    "batch_size": 4,
    "save_steps": 2,
    "learning_rate": 1e-3,
    "orpo_lambda": 0.5,
}
FIGURES = ("loss", "nll", "pair_accuracy", "logp_chosen", "logp_rejected", "log_odds_margin")


def make_job(train_job: MakeJob, rows: Path, engine: str, eval_pairs: int) -> TrainJob:
    training = {**STEPS, "engine": engine, "eval_pairs": eval_pairs}
    return train_job(data={"source": str(rows)}, training=training, lora={"dropout": 0.1, "r": 4})


@pytest.mark.parametrize("engine", ["packed", "trl"])
def test_training_goes_on_as_without(
    train_job: MakeJob, few_rows: Path, tmp_path: Path, engine: str
) -> None:
    """With dropout: a random number drawn or a module left in eval mode would change a weight."""
    models, points = {}, {}
    for pairs in (0, 3):
        job = make_job(train_job, few_rows, engine, pairs)
        models[pairs] = build_model(job)
        points[pairs] = run_engine(job, models[pairs], tmp_path / str(pairs))
    for without, measured in zip(models[0].parameters(), models[3].parameters(), strict=True):
        assert torch.equal(without, measured)
    for (step, _, without), (_, _, measured) in zip(points[0], points[3], strict=True):
        own = {name: value for name, value in measured.items() if name.startswith("eval/")}
        assert {name: measured[name] for name in without} == without
        # At the checkpoint and at the end.
        assert bool(own) is (step in (2, 3))
        if own:
            assert {f"eval/{name}" for name in FIGURES} <= own.keys()
    assert points[3][1][2]["eval/loss"] > points[3][2][2]["eval/loss"]


def test_weights_that_broke_are_not_saved(
    train_job: MakeJob, few_rows: Path, tmp_path: Path
) -> None:
    """The step's own loss is of the weights before it, and still finite."""
    broken = {**STEPS, "learning_rate": 1e30, "warmup": 0, "save_steps": 1, "eval_pairs": 2}
    job = train_job(data={"source": str(few_rows)}, training=broken)
    with pytest.raises(UserError, match=r"eval/loss.* became non-finite at step 1"):
        run_engine(job, build_model(job), tmp_path)
    assert newest_step(tmp_path) == 0


def test_both_engines_measure_the_same(train_job: MakeJob, few_rows: Path, tmp_path: Path) -> None:
    job = make_job(train_job, few_rows, "packed", 4)
    model = build_model(job, moved=True)
    run = idle_run(job, tmp_path, model)
    with packed_attention(causal_lm_of(model)):
        packed = HeldOutPairs(run).measure(nullcontext())
    by_trl = make_job(train_job, few_rows, "trl", 4)
    held_out = HeldOutPairs(replace(run, plan=by_trl.plan))
    assert len(held_out) == 4
    assert held_out.measure(nullcontext()) == pytest.approx(packed, rel=1e-5, abs=1e-5)
    assert packed["loss"] == pytest.approx(
        packed["nll_loss"] - 0.5 * packed["log_odds_ratio"], rel=1e-6
    )
    assert model.training
