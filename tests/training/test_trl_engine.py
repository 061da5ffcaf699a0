"""The reference engine: TRL sees our ids, its loss is ours, every planned choice takes steps."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import build_model, run_engine
from rows import pair_row, write_rows

from orpo_pipeline.data.prepared_files import read_pairs
from orpo_pipeline.evaluation.scoring import token_logps
from orpo_pipeline.training.checkpoints import newest_step
from orpo_pipeline.training.loss import log_odds, odds_ratio_loss
from orpo_pipeline.training.non_finite import check_finite
from orpo_pipeline.training.trl_engine import trainer_arguments, trl_dataset
from schemas.errors import PipelineError
from schemas.jobs import TrainJob
from schemas.tokens import TokenizedPair

MakeJob = Callable[..., TrainJob]


@pytest.fixture
def train_job(train_job: MakeJob) -> MakeJob:
    """Jobs of this engine, two pairs a forward pass."""

    def make(*home: str, training: dict[str, Any] | None = None, **sections: Any) -> TrainJob:
        asked = {"engine": "trl", "micro_batch_size": 2, **(training or {})}
        return train_job(*home, training=asked, **sections)

    return make


def tokenized_pairs(job: TrainJob) -> list[TokenizedPair]:
    frame = read_pairs(job.prepared.path, "train")
    ids = frame.select("prompt_ids", "chosen_ids", "rejected_ids")
    return [TokenizedPair(*row) for row in ids.iter_rows()]


def record_inputs(model: Any) -> list[list[list[int]]]:
    """A list that gets the unpadded sequences of every forward pass from now on."""
    seen: list[list[list[int]]] = []

    def look(_: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        masks = options["attention_mask"].bool()
        seen.append([ids[m].tolist() for ids, m in zip(args[0], masks, strict=True)])

    model.register_forward_pre_hook(look, with_kwargs=True)
    return seen


def test_rows_are_our_ids_and_labels(train_job: MakeJob) -> None:
    job = train_job()
    pairs = tokenized_pairs(job)
    rows = trl_dataset(job.prepared.path)
    assert len(rows) == len(pairs) == job.prepared.train_pairs
    for row, pair in zip(rows, pairs, strict=True):
        for side, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            assert row[f"{side}_input_ids"] == pair.prompt + answer
            assert row[f"{side}_labels"] == [-100] * len(pair.prompt) + answer
            assert row[f"{side}_attention_mask"] == [1] * len(pair.prompt + answer)


def test_the_model_reads_every_pair_once_an_epoch(train_job: MakeJob, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "few.jsonl", [pair_row(number) for number in range(20)])
    job = train_job(training={"max_steps": None, "epochs": 1}, data={"source": str(source)})
    model = build_model(job)
    seen = record_inputs(model)
    points = run_engine(job, model, tmp_path / "work")

    read = []
    for sequences in seen:  # chosen answers first, rejected ones in the same order behind
        half = len(sequences) // 2
        read += list(zip(sequences[:half], sequences[half:], strict=True))
    expected = [(p.prompt + p.chosen, p.prompt + p.rejected) for p in tokenized_pairs(job)]
    assert sorted(read) == sorted(expected)
    assert read != expected  # shuffled
    steps = math.ceil(len(expected) / job.config.training.batch_size)
    assert [(step, total) for step, total, _ in points] == [(s + 1, steps) for s in range(steps)]


def reference_step(
    model: Any, batches: list[list[list[int]]], answers: dict[tuple[int, ...], int], weight: float
) -> dict[str, torch.Tensor]:
    """One optimizer step's figures by scoring and loss; `answers`: sequence -> answer tokens."""
    totals: dict[str, list[torch.Tensor]] = {"nll": [], "odds": [], "margin": [], "chosen": []}
    for sequences in batches:
        half = len(sequences) // 2
        logps = token_logps(model, sequences)
        means = torch.stack(
            [
                logp[-answers[tuple(sequence)] :].mean()
                for logp, sequence in zip(logps, sequences, strict=True)
            ]
        )
        chosen, rejected = means[:half], means[half:]
        totals["nll"].append(-torch.cat(logps[:half]).mean())  # by tokens, prompt + chosen
        totals["odds"].append(odds_ratio_loss(chosen, rejected).mean())  # by pairs
        totals["margin"].append((log_odds(chosen) - log_odds(rejected)).mean())
        totals["chosen"].append(chosen.mean())
    figures = {name: torch.stack(values).mean() for name, values in totals.items()}
    figures["loss"] = figures["nll"] + weight * figures["odds"]
    return figures


@pytest.mark.parametrize("orpo_lambda", [0.0, 0.7])
def test_loss_and_gradient_of_a_step_are_ours(
    train_job: MakeJob, tmp_path: Path, orpo_lambda: float
) -> None:
    job = train_job(training={"max_steps": 1, "batch_size": 6, "orpo_lambda": orpo_lambda})
    assert job.plan.dtype.value == "float32"
    model = build_model(job, moved=True)
    seen = record_inputs(model)
    ((_, _, values),) = run_engine(job, model, tmp_path / "work")

    answers = {}
    for pair in tokenized_pairs(job):
        answers[tuple(pair.prompt + pair.chosen)] = len(pair.chosen)
        answers[tuple(pair.prompt + pair.rejected)] = len(pair.rejected)
    assert len(seen) == 3  # 6 pairs, 2 a forward pass
    ours = build_model(job, moved=True)
    expected = reference_step(ours, seen, answers, orpo_lambda)
    expected["loss"].backward()
    norm = torch.stack([p.grad.norm() for p in ours.parameters() if p.grad is not None]).norm()

    def close(value: torch.Tensor) -> Any:
        return pytest.approx(value.item(), abs=1e-5)

    assert values["train/loss"] == close(expected["loss"])
    assert values["train/nll"] == close(expected["nll"])
    assert values["train/log_sigmoid_odds_ratio"] == close(-expected["odds"])
    assert values["train/log_odds_margin"] == close(expected["margin"])
    assert values["train/logp_chosen"] == close(expected["chosen"])
    assert values["optimizer/gradient_norm"] == pytest.approx(norm.item(), rel=1e-4)


def test_dropout_is_applied_when_asked_for_and_absent_otherwise(
    train_job: MakeJob, tmp_path: Path
) -> None:
    losses = []
    for dropout in (0.0, 0.5):
        job = train_job(training={"max_steps": 1}, lora={"dropout": dropout})
        model = build_model(job, moved=True)
        active = [m for m in model.modules() if isinstance(m, torch.nn.Dropout)]
        assert {m.p for m in active} == ({dropout} if dropout else set())
        ((_, _, values),) = run_engine(job, model, tmp_path / f"work-{dropout}")
        assert {m.p for m in active} == ({dropout} if dropout else set())
        losses.append(values["train/loss"])
    assert abs(losses[0] - losses[1]) > 1e-4


def test_loss_falls_and_the_margin_rises(train_job: MakeJob, tmp_path: Path) -> None:
    steps = {"max_steps": 20, "batch_size": 2, "save_steps": 100}
    job = train_job(training={**steps, "learning_rate": 1e-2, "orpo_lambda": 0.5})
    points = run_engine(job, build_model(job), tmp_path / "work")
    assert [step for step, _, _ in points] == list(range(1, 21))

    def values(name: str, part: slice) -> list[float]:
        return [point[name] for _, _, point in points[part]]

    first, last = slice(0, 5), slice(15, 20)
    assert max(values("train/loss", last)) < min(values("train/loss", first)) - 0.2
    assert sum(values("train/log_odds_margin", last)) > sum(values("train/log_odds_margin", first))


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
        pytest.param({"lora": {"use_dora": True}}, id="dora"),
        pytest.param({"lora": {"use_rslora": True, "r": 64}}, id="rslora"),
        pytest.param({"training": {"gradient_checkpointing": "on"}}, id="checkpointing"),
        pytest.param(
            {
                "model": {"quantization": "nf4"},
                "training": {"gradient_checkpointing": "on"},
                "lora": {"dropout": 0.1, "use_dora": True},
            },
            id="together",
        ),
        pytest.param({"training": {"lr_scheduler": "inverse_sqrt", "warmup": 1}}, id="inverse"),
        pytest.param({"training": {"lr_scheduler": "constant_with_warmup"}}, id="constant"),
    ],
)
def test_every_choice_takes_steps(
    train_job: MakeJob, tmp_path: Path, sections: dict[str, dict[str, Any]]
) -> None:
    short = {"max_steps": 2, "batch_size": 2, "learning_rate": 1e-3, "save_steps": 100}
    job = train_job(**{**sections, "training": {**short, **sections.get("training", {})}})
    model = build_model(job)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    points = run_engine(job, model, tmp_path / "work")

    assert [step for step, _, _ in points] == [1, 2]
    check_finite(2, points[-1][2])
    moved = {
        name for name, p in model.named_parameters() if not torch.equal(p.detach(), before[name])
    }
    adapter = {name for name in before if "lora_" in name}
    assert moved <= adapter
    assert {name for name in adapter if "lora_B" in name} <= moved


def test_eight_bit_states_are_eight_bit(train_job: MakeJob, tmp_path: Path) -> None:
    job = train_job(training={"optimizer": "adamw_8bit", "max_steps": 1}, lora={"r": 64})
    run_engine(job, build_model(job), tmp_path / "work")
    saved = torch.load(tmp_path / "work/checkpoint-1/optimizer.pt", weights_only=True)
    states = [s["__bnb_optimizer_quant_state__"]["state1"] for s in saved["state"].values()]
    assert {state.dtype for state in states if state.numel() >= 4096} == {torch.uint8}


def test_checkpointing_changes_no_number(train_job: MakeJob, tmp_path: Path) -> None:
    results = []
    for setting in ("off", "on"):
        job = train_job(
            training={
                "gradient_checkpointing": setting,
                "max_steps": 2,
                "batch_size": 2,
                "learning_rate": 1e-3,
            },
            lora={"dropout": 0.2},
        )
        model = build_model(job)
        points = run_engine(job, model, tmp_path / setting)
        assert model.is_gradient_checkpointing == (setting == "on")
        results.append([values["train/loss"] for _, _, values in points])
    assert results[0] == pytest.approx(results[1], abs=1e-6)


def test_non_finite_loss_stops_training(train_job: MakeJob, tmp_path: Path) -> None:
    broken = {"learning_rate": 1e30, "warmup": 0, "save_steps": 1, "eval_pairs": 0}
    job = train_job(training=broken)
    with pytest.raises(PipelineError, match=r"non-finite at step 2.*learning_rate"):
        run_engine(job, build_model(job), tmp_path / "work")
    assert newest_step(tmp_path / "work") == 1


def test_check_finite_names_figures_and_step() -> None:
    check_finite(3, {"train/loss": 1.0})
    values = {"train/loss": math.nan, "train/nll": 1.0, "optimizer/gradient_norm": math.inf}
    with pytest.raises(PipelineError, match=r"train/loss, optimizer/gradient_norm .* step 7"):
        check_finite(7, values)


def test_arguments_say_what_the_configuration_says(train_job: MakeJob, tmp_path: Path) -> None:
    rate = {"learning_rate": 2e-4, "lr_scheduler": "cosine", "warmup": 0.25, "orpo_lambda": 0.3}
    size = {"max_steps": 40, "batch_size": 6, "micro_batch_size": 3, "save_steps": 7}
    job = train_job(
        training={**rate, **size, "weight_decay": 0.01, "max_grad_norm": 0.5, "seed": 5}
    )
    found = trainer_arguments(job.config.training, job.plan, tmp_path)
    assert found.beta == 0.3
    assert found.learning_rate == 2e-4
    assert found.lr_scheduler_type == "cosine"
    assert found.get_warmup_steps(40) == 10
    assert (found.max_steps, found.save_steps) == (40, 7)
    assert (found.per_device_train_batch_size, found.gradient_accumulation_steps) == (3, 2)
    assert found.train_batch_size == 3  # one device: no hidden multiplication
    assert (found.weight_decay, found.max_grad_norm) == (0.01, 0.5)
    assert (found.seed, found.data_seed) == (5, 5)
    assert (found.bf16, found.fp16, found.disable_dropout) == (False, False, False)
    assert found.optim == "adamw_torch"
    assert found.report_to == []


def test_warmup_from_one_is_a_number_of_steps(train_job: MakeJob, tmp_path: Path) -> None:
    job = train_job(training={"warmup": 3})
    assert trainer_arguments(job.config.training, job.plan, tmp_path).get_warmup_steps(40) == 3
