"""Everything that needs the models: scores of pairs, drift, answers; kept part by part."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from orpo_pipeline.data.prepared_files import EVAL, TOKEN_COLUMNS, read_pairs
from orpo_pipeline.data.tokens.chat_template import load_chat_format
from orpo_pipeline.evaluation.answers.answering import answer_all, side_by_side
from orpo_pipeline.evaluation.generation import BATCH
from orpo_pipeline.evaluation.held_out import prompts_to_answer
from orpo_pipeline.evaluation.models import Models
from orpo_pipeline.evaluation.parts import Parts
from schemas.errors import UserError
from schemas.jobs import EvaluateJob
from schemas.tokens import TokenizedPair

CHUNK = 1024  # pairs of a part: what a killed evaluation loses at most

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Measured:
    """What the models gave; a column of a model has its name as prefix (`candidate_`)."""

    pairs: pl.DataFrame
    """One row a pair: row_id, group, source, new, sums and counts of log-probs."""
    drift: pl.DataFrame
    """One row a pair that KL was measured on: group, tokens, `_kl`."""
    neutral: pl.DataFrame
    """One row a neutral paragraph: group (its number), tokens, `_nll`."""
    answers: pl.DataFrame
    """One row an answer: group, decoding, and QUANTITIES of each model."""
    table: list[dict[str, str]]
    """The answers' texts side by side."""


def measure(
    models: Models, job: EvaluateJob, index: pl.DataFrame, parts: Parts, progress: Progress
) -> Measured:
    """Measure all models; what is kept already is not measured again."""
    pairs = _score_all(models, job, index, parts, progress)
    drift = _measure_drift(models, job, index, parts, progress)
    neutral = _measure_neutral(models, job, parts, progress)
    answers, table = _answer(models, job, index, parts, progress)
    return Measured(pairs, drift, neutral, answers, table)


def _score_all(
    models: Models, job: EvaluateJob, index: pl.DataFrame, parts: Parts, progress: Progress
) -> pl.DataFrame:
    rows = read_pairs(job.prepared.path, EVAL, TOKEN_COLUMNS, most=index.height)
    columns = [index]
    for name in models.names:
        chunks = []
        for start in range(0, rows.height, CHUNK):

            def report(done: int, name: str = name, start: int = start) -> None:
                progress(f"pairs scored by the {name} model", start + done, rows.height)

            def score(name: str = name, start: int = start, report: Any = report) -> pl.DataFrame:
                pairs = tokenized(rows.slice(start, CHUNK))
                with models.as_(name) as model:
                    scores = score_chunk(model, pairs, job, report)
                frame = pl.DataFrame([asdict(one) for one in scores])
                _check_finite(frame, name)
                return frame

            chunks.append(parts.keep(f"pairs-{name}-{start // CHUNK:05d}", score))
        frame = add_odds(pl.concat(chunks), job.config.training.orpo_lambda)
        columns.append(frame.select(pl.all().name.prefix(f"{name}_")))
    return pl.concat(columns, how="horizontal")


def tokenized(rows: pl.DataFrame) -> list[TokenizedPair]:
    """Python lists of the token ids of a few rows."""
    return [TokenizedPair(*ids) for ids in rows.select(TOKEN_COLUMNS).iter_rows()]


def score_chunk(
    model: Any, pairs: list[TokenizedPair], job: EvaluateJob, progress: Callable[[int], None]
) -> list[Any]:
    """`PairScore` of each pair, by the plan's engine."""
    most = job.config.evaluation.batch_size
    if job.plan.engine.value == "packed":
        from orpo_pipeline.evaluation.packed_scoring import score_packed

        budget, attention = job.plan.forward_pass.value, job.plan.attention.value
        return score_packed(model, pairs, budget, attention, most, progress)
    from orpo_pipeline.evaluation.scoring import score_pairs

    return score_pairs(model, pairs, most or job.plan.forward_pass.value, progress)


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


def _measure_drift(
    models: Models, job: EvaluateJob, index: pl.DataFrame, parts: Parts, progress: Progress
) -> pl.DataFrame:
    from orpo_pipeline.evaluation.drift.divergence import answer_divergence

    head = index.head(job.config.evaluation.drift_pairs)
    batch_size = job.config.evaluation.batch_size or BATCH

    def diverge() -> pl.DataFrame:
        pairs = tokenized(read_pairs(job.prepared.path, EVAL, TOKEN_COLUMNS, most=head.height))

        def report(done: int) -> None:
            progress("pairs measured for drift", done, len(pairs))

        found = answer_divergence(models, pairs, batch_size, report)
        tokens = pl.Series("tokens", [len(pair.chosen) for pair in pairs], dtype=pl.Int64)
        sums = [pl.Series(f"{name}_kl", values, dtype=pl.Float64) for name, values in found.items()]
        return head.select("row_id", "group").with_columns(tokens, *sums)

    return parts.keep("drift", diverge)


def _measure_neutral(
    models: Models, job: EvaluateJob, parts: Parts, progress: Progress
) -> pl.DataFrame:
    from orpo_pipeline.evaluation.drift.neutral import neutral_nll

    tokenizer = load_chat_format(job.prepared.path / "tokenizer", template=None).tokenizer
    columns: list[pl.DataFrame] = []
    for name in models.names:

        def read_text(name: str = name) -> pl.DataFrame:
            progress(f"neutral text read by the {name} model", 0, 0)
            with models.as_(name) as model:
                found = neutral_nll(model, tokenizer)
            return pl.DataFrame(found, schema=[f"{name}_nll", "tokens"], orient="row")

        frame = parts.keep(f"neutral-{name}", read_text)
        columns.append(frame if not columns else frame.drop("tokens"))
    return pl.concat(columns, how="horizontal").with_row_index("group")


def _answer(
    models: Models, job: EvaluateJob, index: pl.DataFrame, parts: Parts, progress: Progress
) -> tuple[pl.DataFrame, list[dict[str, str]]]:
    rows = prompts_to_answer(job, index)
    chat = load_chat_format(job.prepared.path / "tokenizer", template=None)
    answers: dict[str, pl.DataFrame] = {}
    for name in models.names:

        def reporter(decoding: str, name: str = name) -> Callable[[int], None]:
            what = f"answers of the {name} model, {decoding}"
            return lambda done: progress(what, done, rows.height)

        def answer(name: str = name, reporter: Any = reporter) -> pl.DataFrame:
            with models.as_(name) as model:
                return answer_all(model, chat, rows, job.config.evaluation, reporter)

        answers[name] = parts.keep(f"answers-{name}", answer)
    first = answers[models.names[0]].select("number", "decoding")
    groups = first.select(group=rows["group"].gather(first["number"]), decoding="decoding")
    quantities = [
        frame.drop("number", "decoding", "text").select(pl.all().name.prefix(f"{name}_"))
        for name, frame in answers.items()
    ]
    return pl.concat([groups, *quantities], how="horizontal"), side_by_side(rows, answers)
