"""The evaluate stage: base model, candidate and champion on the held-out pairs, by one code."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from orpo_pipeline.data.prepared_files import EVAL, read_pairs
from orpo_pipeline.data.tokens.chat_template import ChatFormat, load_chat_format
from orpo_pipeline.evaluation.models import Models, load_models
from orpo_pipeline.evaluation.statistics.report import build_report
from orpo_pipeline.stages import code_version, fingerprint, is_complete, new_stage
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.jobs import EvaluateJob
from schemas.plan import TrainingPlan
from schemas.results import Champion, EvaluationReport, PreparedData, TrainedAdapter
from schemas.tokens import TokenizedPair

RECORD = "record.json"
SCORES = "pairs.parquet"
GENERATIONS = "generations.json"

DECISIVE_CHOICES = (
    *("device", "dtype", "attention", "quantization", "engine", "forward_pass"),
    "dequantised_layers",
)
"""Choices of the plan that change a score, if only by rounding: outside of training bitsandbytes
has other kernels for NF4."""

Progress = Callable[[str, int, int], None]


def evaluation_folder(
    config: RunConfig,
    prepared: PreparedData,
    plan: TrainingPlan,
    adapter: TrainedAdapter,
    home: Path,
    champion: Champion | None = None,
) -> Path:
    """Folder of the evaluation of one adapter on one evaluation split, against one champion."""
    against = champion and champion.model_dump(include={"adapter_id", "version", "prepared_id"})
    inputs = {
        "adapter": adapter.adapter_id,
        "champion": against,
        "prepared": prepared.prepared_id,
        "evaluation": config.evaluation.model_dump(),
        "orpo_lambda": config.training.orpo_lambda,
        "plan": {name: plan.choices()[name].value for name in DECISIVE_CHOICES},
        "code": code_version("orpo_pipeline.evaluation.evaluate"),
    }
    return home / "evaluations" / fingerprint(inputs)


def load_evaluation(folder: Path) -> EvaluationReport | None:
    """The record of a complete stage, or None."""
    if not is_complete(folder):
        return None
    record = EvaluationReport.model_validate_json((folder / RECORD).read_text(encoding="utf-8"))
    return record.model_copy(update={"reused": True, "path": folder})


def evaluate(job: EvaluateJob, progress: Progress) -> EvaluationReport:
    """Score every held-out pair and answer a few prompts: base model, candidate and champion.

    Raises UserError when an adapter is unusable or a score is NaN or infinite.
    """
    where = (job.config, job.prepared, job.plan, job.adapter, job.home, job.champion)
    folder = evaluation_folder(*where)
    done = load_evaluation(folder)
    if done is not None:
        return done
    settings = job.config.evaluation
    rows = read_pairs(job.prepared.path, EVAL, most=settings.max_pairs)
    progress("loading the models", 0, 0)
    models = load_models(job)
    chat = load_chat_format(job.prepared.path / "tokenizer", template=None)
    scores = _score_all(models, rows, job, progress)
    prompts = rows.head(settings.generations)
    answers = _generate_all(models, chat, prompts, settings.max_new_tokens, progress)
    report = build_report(folder, job, scores, len(answers))
    with new_stage(folder) as temporary:
        scores.write_parquet(temporary / SCORES)
        text = json.dumps(answers, indent=1, ensure_ascii=False)
        (temporary / GENERATIONS).write_text(text, encoding="utf-8")
        (temporary / RECORD).write_text(report.model_dump_json(indent=1), encoding="utf-8")
    return report


def _score_all(
    models: Models, rows: pl.DataFrame, job: EvaluateJob, progress: Progress
) -> pl.DataFrame:
    """Scores of all models, one row a pair: MODEL_chosen_logp and so on, see `PairScore`."""
    from dataclasses import asdict

    pairs = [
        TokenizedPair(*ids)
        for ids in rows.select("prompt_ids", "chosen_ids", "rejected_ids").iter_rows()
    ]
    index = pl.read_parquet(job.prepared.path / f"{EVAL}.parquet").head(rows.height)
    columns = [index.select("row_id", "group", "source")]
    for name in models.names:

        def report(done: int, name: str = name) -> None:
            progress(f"pairs scored by the {name} model", done, len(pairs))

        with models.as_(name) as model:
            scores = _score(model, pairs, job, report)
        frame = pl.DataFrame([asdict(score) for score in scores])
        _check_finite(frame, name)
        frame = add_odds(frame, job.config.training.orpo_lambda)
        columns.append(frame.select(pl.all().name.prefix(f"{name}_")))
    return pl.concat(columns, how="horizontal")


def _score(
    model: Any, pairs: list[TokenizedPair], job: EvaluateJob, progress: Callable[[int], None]
) -> list[Any]:
    if job.plan.engine.value == "packed":
        from orpo_pipeline.evaluation.packed_scoring import score_packed

        budget, attention = job.plan.forward_pass.value, job.plan.attention.value
        return score_packed(model, pairs, budget, attention, progress)
    from orpo_pipeline.evaluation.scoring import score_pairs

    return score_pairs(model, pairs, job.config.evaluation.batch_size, progress)


def _check_finite(scores: pl.DataFrame, name: str) -> None:
    """NaN compares as the largest number in polars: a broken model would win its pairs."""
    finite = scores.select(pl.all_horizontal(pl.all().is_finite()).sum()).item()
    if finite < scores.height:
        raise UserError(
            f"The {name} model's log-probs of {scores.height - finite} of {scores.height} held-out "
            "pairs are not finite.",
            "finite log-probs; broken weights or a dtype that overflows give others.",
            "Set model.dtype to float32 or bfloat16; if it stays, lower training.learning_rate.",
        )


def add_odds(scores: pl.DataFrame, orpo_lambda: float) -> pl.DataFrame:
    """Add log_odds_margin and orpo_loss of each pair, by the formulas of `loss`."""
    import torch

    from orpo_pipeline.training.loss import log_odds, orpo_loss

    def mean(part: str) -> torch.Tensor:
        values = scores.select(pl.col(f"{part}_logp") / pl.col(f"{part}_tokens"))
        return torch.tensor(values.to_series().to_list(), dtype=torch.float64)

    chosen, rejected, nll = mean("chosen"), mean("rejected"), -mean("prompt_chosen")
    return scores.with_columns(
        log_odds_margin=pl.Series((log_odds(chosen) - log_odds(rejected)).tolist()),
        orpo_loss=pl.Series(orpo_loss(nll, chosen, rejected, orpo_lambda).tolist()),
    )


def _generate_all(
    models: Models, chat: ChatFormat, rows: pl.DataFrame, max_new_tokens: int, progress: Progress
) -> list[dict[str, str]]:
    """Greedy answers of all models, with the data's chosen answer beside them."""
    if rows.is_empty():
        return []
    from orpo_pipeline.evaluation.generation import answer_prompts

    answers = {}
    for name in models.names:
        progress(f"answers of the {name} model", 0, rows.height)
        with models.as_(name) as model:
            answers[name] = answer_prompts(
                model, chat, rows["prompt_ids"].to_list(), max_new_tokens
            )
    return [
        {
            "prompt": "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt),
            **{name: answers[name][number] for name in models.names},
            "chosen in the data": chosen[0]["content"],
        }
        for number, (prompt, chosen) in enumerate(zip(rows["prompt"], rows["chosen"], strict=True))
    ]
