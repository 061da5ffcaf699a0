"""KL from the base model against a sum over the whole vocabulary."""

from collections.abc import Callable

import pytest
import torch

from orpo_pipeline.data.prepared_files import TOKEN_COLUMNS, read_pairs
from orpo_pipeline.evaluation.drift import divergence
from orpo_pipeline.evaluation.drift.divergence import answer_divergence
from orpo_pipeline.evaluation.drift.neutral import neutral_nll, neutral_paragraphs
from orpo_pipeline.evaluation.measuring import tokenized
from orpo_pipeline.evaluation.models import Models, load_models
from schemas.jobs import EvaluateJob
from schemas.tokens import TokenizedPair


def pairs_of(job: EvaluateJob, most: int) -> list[TokenizedPair]:
    return tokenized(read_pairs(job.prepared.path, "eval", TOKEN_COLUMNS, most=most))


@torch.no_grad()
def logps(models: Models, name: str, ids: list[int]) -> torch.Tensor:
    """(T, V) in double precision."""
    with models.as_(name) as model:
        logits = model(input_ids=torch.tensor([ids])).logits[0]
    return logits.double().log_softmax(-1)


@pytest.mark.parametrize("positions", [1, 5, 512])
def test_divergence_is_the_sum_over_the_vocabulary(
    evaluate_job: Callable[..., EvaluateJob], monkeypatch: pytest.MonkeyPatch, positions: int
) -> None:
    monkeypatch.setattr(divergence, "LOGIT_CHUNK", positions)
    job = evaluate_job()
    models, pairs = load_models(job), pairs_of(job, 5)
    seen: list[int] = []
    found = answer_divergence(models, pairs, batch_size=2, progress=seen.append)
    assert seen == [2, 4, 5]
    for number, pair in enumerate(pairs):
        ids = pair.prompt + pair.chosen
        # The positions that predict the chosen answer's tokens.
        where = slice(len(pair.prompt) - 1, len(ids) - 1)
        candidate, base = (logps(models, name, ids)[where] for name in ("candidate", "base"))
        expected = (candidate.exp() * (candidate - base)).sum().item()
        assert expected > 1e-3
        assert found["candidate"][number] == pytest.approx(expected, rel=1e-3)
        assert found["base"][number] == 0


def test_neutral_nll_is_that_of_the_whole_paragraph(
    evaluate_job: Callable[..., EvaluateJob],
) -> None:
    from transformers import AutoTokenizer

    job = evaluate_job()
    models = load_models(job)
    tokenizer = AutoTokenizer.from_pretrained(job.prepared.path / "tokenizer")
    with models.as_("candidate") as model:
        found = neutral_nll(model, tokenizer)
    paragraphs = neutral_paragraphs()
    assert len(found) == len(paragraphs) == 16
    ids = tokenizer(paragraphs[3])["input_ids"]
    expected = logps(models, "candidate", ids)[:-1].gather(-1, torch.tensor(ids[1:])[:, None])
    assert found[3] == (pytest.approx(-expected.sum().item(), rel=1e-5), len(ids) - 1)
