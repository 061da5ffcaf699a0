"""The packed engine on a tiny model: TRL's losses, every choice, and resuming bit for bit."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import Points, build_model, run_engine

from orpo_pipeline.training.checkpoints import newest_step
from orpo_pipeline.training.non_finite import check_finite
from orpo_pipeline.training.packed.forward import causal_lm_of
from schemas.errors import PipelineError
from schemas.jobs import TrainJob

MakeJob = Callable[..., TrainJob]

SHORT = {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-3, "save_steps": 100}


@dataclass(frozen=True)
class Trained:
    """A model behind a training, and what was reported."""

    model: Any
    points: Points

    @property
    def losses(self) -> list[float]:
        return [values["train/loss"] for _, _, values in self.points]

    def adapter(self) -> dict[str, torch.Tensor]:
        return {n: p.detach() for n, p in self.model.named_parameters() if "lora_" in n}


Train = Callable[..., Trained]


@pytest.fixture
def train_job(train_job: MakeJob, few_rows: Path) -> MakeJob:
    """Jobs of this engine on nine pairs of some 60 tokens: with a budget of 150, two a pass."""

    def make(**sections: Any) -> TrainJob:
        training = {**SHORT, "engine": "packed", "token_budget": 150}
        sections["training"] = {**training, **sections.get("training", {})}
        return train_job(data={"source": str(few_rows)}, **sections)

    return make


@pytest.fixture
def train(
    tmp_path: Path,
) -> Train:
    """`train(job, "work")`: a new model trained in the folder of that name, or trained on there.

    `moved`: with an adapter as if trained before; `stop_after`: a number of steps.
    """

    def make(
        job: TrainJob, work: str, moved: bool = False, stop_after: int | None = None
    ) -> Trained:
        model = build_model(job, moved=moved)
        return Trained(model, run_engine(job, model, tmp_path / work, stop_after=stop_after))

    return make


def assert_bit_equal(found: Trained, expected: Trained) -> None:
    weights = found.adapter()
    for name, value in expected.adapter().items():
        assert torch.equal(value, weights[name]), name


def test_figures_are_those_of_the_reference_engine(train_job: MakeJob, train: Train) -> None:
    """Each step is one pass of TRL, which averages over passes."""
    pairs = train_job().prepared.train_pairs
    steps = {"max_steps": 3, "batch_size": pairs, "orpo_lambda": 0.5, "learning_rate": 1e-2}
    by_trl = {"engine": "trl", "token_budget": None, "micro_batch_size": pairs}
    found = train(train_job(training=steps), "packed", moved=True)
    expected = train(train_job(training={**steps, **by_trl}), "trl", moved=True)

    assert found.losses[2] < found.losses[0] - 0.01  # it has learned, so the steps count
    for (step, total, values), (other, _, reference) in zip(
        found.points, expected.points, strict=True
    ):
        assert (step, total) == (other, 3)
        assert values.keys() == reference.keys()
        # fp32: 1e-5 by the sums' orders, more behind steps of AdamW, which divides small
        # gradients by small gradients.
        assert values == pytest.approx(reference, rel=1e-4, abs=1e-5)


def test_steps_do_not_depend_on_the_token_budget(train_job: MakeJob, train: Train) -> None:
    found = {
        budget: train(
            train_job(training={"token_budget": budget, "max_steps": 3}), str(budget), moved=True
        ).losses
        for budget in (1, 150, 10_000)
    }
    # As above; a budget of 1 computes every pair alone.
    assert found[1] == pytest.approx(found[10_000], rel=1e-5)
    assert found[150] == pytest.approx(found[10_000], rel=1e-5)


@pytest.mark.parametrize(
    "sections",
    [
        pytest.param({"training": {"optimizer": "adamw"}}, id="adamw"),
        # Tensors below 4,096 values keep 32-bit states: rank 64 makes them large enough.
        pytest.param({"training": {"optimizer": "adamw_8bit"}, "lora": {"r": 64}}, id="8bit"),
        pytest.param(
            {"training": {"optimizer": "paged_adamw_8bit"}, "lora": {"r": 64}}, id="paged"
        ),
        pytest.param({"model": {"quantization": "nf4"}}, id="nf4"),
        pytest.param({"model": {"quantization": "nf4", "dtype": "bfloat16"}}, id="nf4-bf16"),
        pytest.param({"model": {"dtype": "bfloat16"}}, id="bf16"),
        pytest.param({"lora": {"use_dora": True}}, id="dora"),
        pytest.param({"lora": {"use_rslora": True, "r": 64}}, id="rslora"),
        pytest.param({"training": {"nll_scope": "response"}}, id="response"),
        pytest.param(
            {
                "model": {"quantization": "nf4", "dtype": "bfloat16"},
                "training": {"gradient_checkpointing": "on", "optimizer": "paged_adamw_8bit"},
                "lora": {"dropout": 0.1, "use_dora": True},
            },
            id="together",
        ),
    ],
)
def test_every_choice_takes_steps(
    train_job: MakeJob,
    train: Train,
    sections: dict[str, dict[str, Any]],
) -> None:
    job = train_job(**sections)
    before = dict(build_model(job).named_parameters())
    trained = train(job, "work")

    assert [step for step, _, _ in trained.points] == [1, 2]
    for step, _, values in trained.points:
        check_finite(step, values)
        assert values["optimizer/gradient_norm"] > 0
    after = dict(trained.model.named_parameters())
    moved = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    adapter = {name for name in before if "lora_" in name}
    assert moved <= adapter
    assert {name for name in adapter if "lora_B" in name} <= moved


@pytest.mark.parametrize(
    ("chosen", "bound"),
    [
        # bf16 keeps 8 bits: 2^-9 of a value a rounding; of logits near 0 less.
        pytest.param({"dtype": "bfloat16"}, 2e-3, marks=pytest.mark.slow),
        # 4 bits of each weight of a model whose logits are near 0.
        pytest.param({"quantization": "nf4"}, 5e-3, marks=pytest.mark.slow),
        ({"quantization": "nf4", "dtype": "bfloat16"}, 7e-3),
    ],
    ids=["bf16", "nf4", "nf4-bf16"],
)
def test_narrow_weights_stay_near_fp32(
    train_job: MakeJob, train: Train, chosen: dict[str, str], bound: float
) -> None:
    """Relative to the loss, over three steps of training."""
    steps = {"max_steps": 3}
    exact = train(train_job(model={"dtype": "float32"}, training=steps), "exact", moved=True)
    narrow = train(train_job(model=chosen, training=steps), "narrow", moved=True)
    assert narrow.losses != exact.losses
    assert narrow.losses == pytest.approx(exact.losses, rel=bound)


def test_dropout_is_applied_when_asked_for_and_absent_otherwise(
    train_job: MakeJob, train: Train
) -> None:
    losses = {}
    for name, dropout in (("none", 0.0), ("again", 0.0), ("half", 0.5)):
        job = train_job(training={"max_steps": 1}, lora={"dropout": dropout})
        trained = train(job, name, moved=True)
        active = [m for m in trained.model.modules() if isinstance(m, torch.nn.Dropout)]
        assert {m.p for m in active} == ({dropout} if dropout else set())
        (losses[name],) = trained.losses
    assert losses["none"] == losses["again"]
    assert abs(losses["none"] - losses["half"]) > 1e-4


def test_checkpointing_changes_no_bit(train_job: MakeJob, train: Train) -> None:
    off, on = (
        train(
            train_job(training={"gradient_checkpointing": setting}, lora={"dropout": 0.2}), setting
        )
        for setting in ("off", "on")
    )
    assert (off.model.is_activation_checkpointing, on.model.is_activation_checkpointing) == (0, 1)
    assert off.points == on.points
    assert_bit_equal(on, off)


@pytest.mark.parametrize("step", [3, 4])  # at the end of an epoch, and within one
def test_stopped_and_resumed_equals_undisturbed(
    train_job: MakeJob, train: Train, tmp_path: Path, step: int
) -> None:
    """With dropout, a decaying rate, several passes a step, and epochs of 4, 4 and 1 pairs."""
    job = train_job(training={"max_steps": 7, "token_budget": 100}, lora={"dropout": 0.1})
    assert job.prepared.train_pairs == 9
    expected = train(job, "undisturbed")

    stopped = train(job, "work", stop_after=step)
    assert newest_step(tmp_path / "work") == len(stopped.points) == step
    resumed = train(job, "work")
    assert stopped.points + resumed.points == expected.points
    assert_bit_equal(resumed, expected)


def test_a_finished_training_is_loaded_not_continued(train_job: MakeJob, train: Train) -> None:
    job = train_job()
    trained = train(job, "work")
    again = train(job, "work")
    assert again.points == []
    assert_bit_equal(again, trained)


def test_the_attention_of_before_comes_back(train_job: MakeJob, train: Train) -> None:
    job = train_job(training={"max_steps": 1})
    model = train(job, "work").model
    assert causal_lm_of(model).config._attn_implementation == job.plan.attention.value
    ids = torch.tensor([[1, 9, 200, 31]])
    assert model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.isfinite().all()


def test_a_non_finite_loss_stops_training(
    train_job: MakeJob,
    tmp_path: Path,
) -> None:
    broken = {"learning_rate": 1e30, "warmup": 0, "save_steps": 1, "max_steps": 4, "eval_pairs": 0}
    job = train_job(training=broken)
    model = build_model(job)
    with pytest.raises(PipelineError, match=r"non-finite at step 2.*learning_rate"):
        run_engine(job, model, tmp_path / "work")
    assert newest_step(tmp_path / "work") == 1
    assert causal_lm_of(model).config._attn_implementation == job.plan.attention.value
