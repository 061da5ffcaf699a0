"""Everything that needs the models: scores of pairs, drift, answers; kept part by part."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import polars as pl

from orpo_pipeline.data.prepared_files import EVAL, TOKEN_COLUMNS, read_pairs
from orpo_pipeline.data.tokens.chat_template import ChatFormat, load_chat_format
from orpo_pipeline.evaluation.answers.answering import QUANTITIES, answer_all, side_by_side
from orpo_pipeline.evaluation.drift.neutral import neutral_nll
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


@dataclass(frozen=True)
class Measuring:
    """What is measured with what; what is kept already is not measured again."""

    models: Models
    job: EvaluateJob
    index: pl.DataFrame
    """See `held_out.read_index`."""
    parts: Parts
    progress: Progress

    def measure(self) -> Measured:
        """All of it, of all models."""
        chat = load_chat_format(self.job.prepared.path / "tokenizer", template=None)
        pairs = self._pairs()
        drift = self.parts.keep("drift", self._drift)
        neutral = self._neutral(chat)
        answers, table = self._answers(chat)
        return Measured(pairs, drift, neutral, answers, table)

    def _pairs(self) -> pl.DataFrame:
        rows = self._token_rows(self.index.height)
        columns = [self.index]
        for name in self.models.names:
            chunks = [
                self.parts.keep(
                    f"pairs-{name}-{start // CHUNK:05d}", partial(self._chunk, name, rows, start)
                )
                for start in range(0, rows.height, CHUNK)
            ]
            frame = add_odds(pl.concat(chunks), self.job.config.training.orpo_lambda)
            columns.append(frame.select(pl.all().name.prefix(f"{name}_")))
        return pl.concat(columns, how="horizontal")

    def _token_rows(self, most: int) -> pl.DataFrame:
        return read_pairs(self.job.prepared.path, EVAL, TOKEN_COLUMNS, most=most)

    def _chunk(self, name: str, rows: pl.DataFrame, start: int) -> pl.DataFrame:
        def report(done: int) -> None:
            self.progress(f"pairs scored by the {name} model", start + done, rows.height)

        pairs = tokenized(rows.slice(start, CHUNK))
        with self.models.as_(name) as model:
            scores = score_chunk(model, pairs, self.job, report)
        frame = pl.DataFrame([asdict(score) for score in scores])
        _check_finite(frame, name)
        return frame

    def _drift(self) -> pl.DataFrame:
        from orpo_pipeline.evaluation.drift.divergence import answer_divergence

        settings = self.job.config.evaluation
        head = self.index.head(settings.drift_pairs)
        pairs = tokenized(self._token_rows(head.height))
        found = answer_divergence(
            self.models,
            pairs,
            settings.batch_size or BATCH,
            lambda done: self.progress("pairs measured for drift", done, len(pairs)),
        )
        tokens = pl.Series("tokens", [len(pair.chosen) for pair in pairs], dtype=pl.Int64)
        sums = [pl.Series(f"{name}_kl", values, dtype=pl.Float64) for name, values in found.items()]
        return head.select("row_id", "group").with_columns(tokens, *sums)

    def _neutral(self, chat: ChatFormat) -> pl.DataFrame:
        columns: list[pl.DataFrame] = []
        for name in self.models.names:
            frame = self.parts.keep(f"neutral-{name}", partial(self._neutral_of, name, chat))
            columns.append(frame if not columns else frame.drop("tokens"))
        return pl.concat(columns, how="horizontal").with_row_index("group")

    def _neutral_of(self, name: str, chat: ChatFormat) -> pl.DataFrame:
        self.progress(f"neutral text read by the {name} model", 0, 0)
        with self.models.as_(name) as model:
            found = neutral_nll(model, chat.tokenizer)
        return pl.DataFrame(found, schema=[f"{name}_nll", "tokens"], orient="row")

    def _answers(self, chat: ChatFormat) -> tuple[pl.DataFrame, list[dict[str, str]]]:
        rows = prompts_to_answer(self.job, self.index)
        answers = {
            name: self.parts.keep(f"answers-{name}", partial(self._answers_of, name, chat, rows))
            for name in self.models.names
        }
        first = next(iter(answers.values()))
        groups = first.select(rows["group"].gather(first["number"]), "decoding")
        quantities = [
            frame.select(pl.col(QUANTITIES).name.prefix(f"{name}_"))
            for name, frame in answers.items()
        ]
        return pl.concat([groups, *quantities], how="horizontal"), side_by_side(rows, answers)

    def _answers_of(self, name: str, chat: ChatFormat, rows: pl.DataFrame) -> pl.DataFrame:
        def reporter(decoding: str) -> Callable[[int], None]:
            what = f"answers of the {name} model, {decoding}"
            return lambda done: self.progress(what, done, rows.height)

        with self.models.as_(name) as model:
            return answer_all(model, chat, rows, self.job.config.evaluation, reporter)


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
