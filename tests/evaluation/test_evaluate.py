"""The evaluate stage: figures by hand, base and candidate by the same code, answers that end."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from orpo_pipeline.data.prepared_files import read_pairs
from orpo_pipeline.data.tokens.chat_template import load_chat_format
from orpo_pipeline.evaluation.evaluate import evaluate, evaluation_folder
from orpo_pipeline.evaluation.generation import answer_prompts
from orpo_pipeline.evaluation.measuring import add_odds
from orpo_pipeline.evaluation.scoring import PairScore, score_pairs
from orpo_pipeline.evaluation.statistics.pair_figures import FORMULAS
from orpo_pipeline.stages import is_complete, seal
from orpo_pipeline.training.qlora import attach_saved_adapter, load_base
from schemas.errors import PipelineError
from schemas.jobs import EvaluateJob, TrainJob
from schemas.results import PreparedData
from schemas.tokens import TokenizedPair

MakeJob = Callable[..., TrainJob]


def vars_of(score: PairScore) -> dict[str, Any]:
    return {name: getattr(score, name) for name in PairScore.__slots__}


def test_add_odds_by_hand() -> None:
    # Chosen: 2 tokens of mean probability 0.8, odds 4; rejected: 1 token of 0.5, odds 1.
    # Margin log 4 - log 1 = 1.386294; odds-ratio loss log 1.25 = 0.223144.
    # NLL over 4 tokens of sum -6: 1.5; with lambda 0.5: 1.5 + 0.111572 = 1.611572.
    score = PairScore(2 * math.log(0.8), 2, math.log(0.5), 1, -6.0, 4)
    frame = add_odds(pl.DataFrame([vars_of(score)]), orpo_lambda=0.5)
    assert frame["log_odds_margin"].item() == pytest.approx(1.386294, abs=1e-6)
    assert frame["orpo_loss"].item() == pytest.approx(1.611572, abs=1e-6)


def quiet(*_: object) -> None:
    return None


def naive_scores(job: EvaluateJob, model: Any) -> list[PairScore]:
    """One pair a forward pass, in the order of eval.parquet."""
    ids = read_pairs(job.prepared.path, "eval").select("prompt_ids", "chosen_ids", "rejected_ids")
    return score_pairs(model, [TokenizedPair(*row) for row in ids.iter_rows()], batch_size=1)


def test_both_models_are_scored_as_if_alone(evaluate_job: Callable[..., EvaluateJob]) -> None:
    job = evaluate_job()
    seen: list[tuple[str, int, int]] = []
    report = evaluate(job, lambda *progress: seen.append(progress))

    bare = load_base(job.prepared.base_model, job.plan)
    alone = {"base": naive_scores(job, bare)}
    alone["candidate"] = naive_scores(job, attach_saved_adapter(bare, job.adapter.path))
    scores = pl.read_parquet(report.path / "pairs.parquet")
    rows = read_pairs(job.prepared.path, "eval")
    assert scores["row_id"].to_list() == rows["row_id"].to_list()
    for name, expected in alone.items():
        for part in ("chosen_logp", "rejected_logp", "prompt_chosen_logp"):
            values = [getattr(score, part) for score in expected]
            assert scores[f"{name}_{part}"].to_list() == pytest.approx(values, rel=1e-5)
        for part in ("chosen_tokens", "rejected_tokens", "prompt_chosen_tokens"):
            values = [getattr(score, part) for score in expected]
            assert scores[f"{name}_{part}"].to_list() == values
    assert report.base != report.candidate
    assert report.pairs == job.prepared.eval_pairs
    for figure in report.base.figures.keys() & FORMULAS:
        assert report.candidate.figures[figure].n == report.base.figures[figure].n
    pairs = job.prepared.eval_pairs
    assert ("pairs scored by the base model", pairs, pairs) in seen
    assert ("pairs scored by the candidate model", pairs, pairs) in seen


def test_report_is_complete_and_reused(evaluate_job: Callable[..., EvaluateJob]) -> None:
    job = evaluate_job()
    report = evaluate(job, quiet)
    where = (job.config, job.prepared, job.plan, job.adapter, job.home)
    assert report.path == evaluation_folder(*where)
    assert is_complete(report.path)
    answers = json.loads((report.path / "generations.json").read_text())
    assert report.generations == 2
    assert [row["decoding"] for row in answers] == ["greedy", "greedy", "sample 1", "sample 1"]
    assert list(answers[0]) == ["prompt", "decoding", "base", "candidate", "chosen in the data"]
    assert answers[0]["prompt"].endswith("?")
    assert answers[0]["chosen in the data"].startswith("It is ")

    again = evaluate(job, lambda *_: pytest.fail("it was evaluated again"))
    assert again == report.model_copy(update={"reused": True})


def test_other_groups_of_the_same_rows_are_another_evaluation(
    evaluate_job: Callable[..., EvaluateJob], tmp_path: Path
) -> None:
    job = evaluate_job()
    copy = shutil.copytree(job.prepared.path, tmp_path / "prepared")
    same = job.prepared.model_copy(update={"path": copy})

    def folder(prepared: PreparedData) -> Path:
        return evaluation_folder(job.config, prepared, job.plan, job.adapter, job.home)

    assert folder(same) == folder(job.prepared)
    rows = pl.read_parquet(copy / "eval.parquet", glob=False)
    rows.with_columns(group=pl.col("group") + 1).write_parquet(copy / "eval.parquet")
    seal(copy)
    assert folder(same) != folder(job.prepared)


def test_max_pairs_takes_the_first_by_row_id(evaluate_job: Callable[..., EvaluateJob]) -> None:
    whole = evaluate_job(evaluation={"generations": 0})
    few = evaluate_job(evaluation={"generations": 0, "max_pairs": 3, "batch_size": 2})
    folders = [
        evaluation_folder(job.config, job.prepared, job.plan, job.adapter, job.home)
        for job in (whole, few)
    ]
    assert folders[0] != folders[1]
    report = evaluate(few, quiet)
    assert (report.pairs, report.generations) == (3, 0)
    rows = read_pairs(few.prepared.path, "eval")
    scored = pl.read_parquet(report.path / "pairs.parquet")
    assert scored["row_id"].to_list() == sorted(rows["row_id"])[:3]


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (math.nan, "candidate adapter cannot be used: .* holds NaN or infinite weights"),
        (1e30, "candidate model's log-probs of 2 of 2"),  # finite, and its products overflow
    ],
)
def test_a_broken_adapter_is_no_result(
    evaluate_job: Callable[..., EvaluateJob], weight: float, words: str
) -> None:
    job = evaluate_job(weight=weight, evaluation={"generations": 0, "max_pairs": 2})
    with pytest.raises(PipelineError, match=words):
        evaluate(job, quiet)
    assert not (job.home / "evaluations").exists()


def test_answers_do_not_depend_on_their_neighbours(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    chat = load_chat_format(tiny_model, None)
    prompts = [[1, 500, 600, 700, 800, 900], [1, 40], [1, 7, 8, 9]]
    together = answer_prompts(model, chat, prompts, max_new_tokens=5)
    assert together == [answer_prompts(model, chat, [prompt], 5)[0] for prompt in prompts]


def test_answers_end_with_the_turn_or_the_text(tiny_model: Path) -> None:
    """A named template may end turns with another token than the tokenizer's end of text."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    with torch.no_grad():  # every logit is 0: the greedy token is always the first, id 0
        model.model.norm.weight.zero_()
    chat = load_chat_format(tiny_model, None)
    assert chat.end_of_turn == chat.tokenizer.eos_token_id != 0
    passes: list[int] = []
    model.register_forward_hook(lambda *_: passes.append(1))

    answer_prompts(model, chat, [[1, 40]], max_new_tokens=6)
    assert len(passes) == 6
    passes.clear()
    answer_prompts(model, replace(chat, end_of_turn=0), [[1, 40]], max_new_tokens=6)
    assert len(passes) == 1
