"""The judge stage: the candidate's answers against those of each reference model."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import polars as pl

from orpo_pipeline.evaluation.judge.asking import Answered, Asking
from orpo_pipeline.evaluation.judge.endpoint import Endpoint
from orpo_pipeline.evaluation.judge.questions import Question
from orpo_pipeline.evaluation.judge.verdict_store import open_verdicts
from orpo_pipeline.evaluation.judge.win_rates import Scored, score_orders, win_rates
from orpo_pipeline.stages import code_version, fingerprint, is_complete, new_stage
from schemas.errors import EnvironmentFault, UserError
from schemas.figures import Comparison
from schemas.judge_config import JudgeConfig
from schemas.judgement import Judgement, Verdict, WinRate
from schemas.results import EvaluationReport

RECORD = "record.json"
VERDICTS = "verdicts.parquet"
STORE = "verdicts.sqlite"

Reference = Literal["base", "champion"]
Progress = Callable[[str, int, int], None]


def read_key(config: JudgeConfig) -> str | None:
    """The key from the environment variable that the configuration names; None where it names none.

    Raises EnvironmentFault or UserError, without the key in its text.
    """
    name = config.key_variable
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise EnvironmentFault(
            f"The environment variable {name}, which evaluation.judge.key_variable names, is not "
            "set.",
            "the key of the judge's endpoint in it.",
            f"Set {name} where the run starts, or remove evaluation.judge.",
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UserError(
            f"The environment variable {name} holds characters that no key has.",
            "printable ASCII characters without spaces.",
            f"Set {name} to the key alone.",
        )
    return key


def judgement_folder(config: JudgeConfig, evaluation: Path, home: Path) -> Path:
    """Folder of one judge's verdicts on one evaluation. What only paces the asking is not in it."""
    pace = {"concurrency", "timeout", "retries", "key_variable"}
    inputs = {
        "evaluation": evaluation.name,
        "judge": config.model_dump(mode="json", exclude=pace),
        "code": code_version("orpo_pipeline.evaluation.judge.judge"),
    }
    return home / "judgements" / fingerprint(inputs)


def load_judgement(folder: Path) -> Judgement | None:
    """The record of a complete stage, or None."""
    if not is_complete(folder):
        return None
    record = Judgement.model_validate_json((folder / RECORD).read_text(encoding="utf-8"))
    return record.model_copy(update={"reused": True, "path": folder})


def ask_judge(
    config: JudgeConfig,
    key: str | None,
    questions: Mapping[Reference, Sequence[Question]],
    folder: Path,
    progress: Progress,
) -> Judgement:
    """Ask what was not asked before, and count.

    A judgement without a win rate is returned and not kept as a stage, so that the next run asks
    again for what failed. A failing endpoint is no error here: its figures are missing.

    Args:
        config: the judge.
        key: see `read_key`.
        questions: the same prompts for each reference model.
        folder: see `judgement_folder`; verdicts are kept beside it.
        progress: called with what is done, how many, of how many.
    """
    done = load_judgement(folder)
    if done is not None:
        return done
    asked = {name: few[: config.max_questions] for name, few in questions.items()}
    answered = asyncio.run(_ask(config, key, asked, folder.parent / STORE, progress))
    rates = tuple(_win_rate(name, asked[name], answered[name], config) for name in asked)
    every = [one for answers in answered.values() for one in answers]
    judgement = Judgement(
        path=folder,
        model=config.model,
        template=config.template,
        win_rates=rates,
        asked=sum(one.replies for one in every),
        prompt_tokens=sum(one.prompt_tokens for one in every),
        completion_tokens=sum(one.completion_tokens for one in every),
    )
    if all(rate.failed_share <= config.max_failed_share for rate in rates):
        with new_stage(folder) as temporary:
            verdicts_table(asked, answered).write_parquet(temporary / VERDICTS)
            (temporary / RECORD).write_text(judgement.model_dump_json(indent=1), encoding="utf-8")
    return judgement


async def _ask(
    config: JudgeConfig,
    key: str | None,
    questions: Mapping[Reference, Sequence[Question]],
    store_path: Path,
    progress: Progress,
) -> dict[Reference, list[Answered]]:
    answered = {}
    async with Endpoint(config, key) as endpoint:
        with open_verdicts(store_path) as store:
            for name, few in questions.items():

                def report(done: int, total: int, name: str = name) -> None:
                    progress(f"answers judged against the {name} model", done, total)

                answered[name] = await Asking(endpoint, store).ask_all(few, report)
    return answered


def _win_rate(
    against: Reference,
    questions: Sequence[Question],
    answered: Sequence[Answered],
    config: JudgeConfig,
) -> WinRate:
    scored = _scored(questions, answered)
    scores = Counter(one.score for one in scored)
    failures = Counter(given.failure for given in answered if given.failure is not None)
    counted = WinRate(
        against=against,
        questions=len(questions),
        judged=len(scored),
        wins=scores[1.0],
        ties=scores[0.5],
        losses=scores[0.0],
        identical=sum(q.candidate == q.reference for q in questions),
        orders_disagreed=sum(_disagree(given) for given in answered),
        first_shown_share=_first_shown_share(answered),
        failures=dict(sorted(failures.items())),
    )
    if not scored or counted.failed_share > config.max_failed_share:
        return counted
    estimates, differences = win_rates(scored)
    new = [one for one in scored if one.is_new]
    return counted.model_copy(
        update={
            "figures": estimates,
            "differences": differences,
            "new_differences": win_rates(new)[1] if new else {},
        }
    )


def _scored(questions: Sequence[Question], answered: Sequence[Answered]) -> list[Scored]:
    """The questions that have both verdicts."""
    return [
        Scored(
            score_orders(given.candidate_first, given.reference_first),
            len(question.candidate) - len(question.reference),
            question.group,
            question.is_new,
        )
        for question, given in zip(questions, answered, strict=True)
        if given.candidate_first is not None and given.reference_first is not None
    ]


def _disagree(given: Answered) -> bool:
    decided = {given.candidate_first, given.reference_first}
    return len(decided) == 1 and not decided & {Verdict.TIE, None}


def _first_shown_share(answered: Sequence[Answered]) -> float | None:
    verdicts = [v for given in answered for v in (given.candidate_first, given.reference_first)]
    first, second = verdicts.count(Verdict.FIRST), verdicts.count(Verdict.SECOND)
    return first / (first + second) if first + second else None


def verdicts_table(
    questions: Mapping[Reference, Sequence[Question]],
    answered: Mapping[Reference, Sequence[Answered]],
) -> pl.DataFrame:
    """One row a question and reference model: what was asked and what the judge said."""
    rows = [
        {
            "against": name,
            "prompt": question.prompt,
            "candidate": question.candidate,
            "reference": question.reference,
            "group": question.group,
            "candidate_first": given.candidate_first,
            "reference_first": given.reference_first,
            "failure": given.failure,
        }
        for name, few in questions.items()
        for question, given in zip(few, answered[name], strict=True)
    ]
    return pl.DataFrame(rows, schema=dict.fromkeys(rows[0], pl.String) if rows else None)


def with_judgement(evaluation: EvaluationReport, judgement: Judgement) -> EvaluationReport:
    """The report with the judge's figures among its comparisons; missing ones are an alarm."""
    rates = {rate.against: rate for rate in judgement.win_rates}
    comparisons = tuple(_joined(one, rates[one.against]) for one in evaluation.comparisons)
    missing = tuple(_why_missing(rate) for rate in rates.values() if not rate.differences)
    return evaluation.model_copy(
        update={
            "comparisons": comparisons,
            "alarms": (*evaluation.alarms, *missing),
            "judgement": judgement,
        }
    )


def _joined(comparison: Comparison, rate: WinRate) -> Comparison:
    differences = {"differences": {**comparison.differences, **rate.differences}}
    if comparison.new_pairs:
        new = {**comparison.new_differences, **rate.new_differences}
        differences["new_differences"] = new
    return comparison.model_copy(update=differences)


def _why_missing(rate: WinRate) -> str:
    whom = f"The judge's win rate against the {rate.against} is missing"
    failed = sum(rate.failures.values())
    if not failed:
        return f"{whom}: {rate.judged} questions are too few, or all of one prompt group."
    listed = ", ".join(f"{why}: {count}" for why, count in rate.failures.items())
    return f"{whom}: {failed} of {rate.questions} questions have no verdict ({listed})."
