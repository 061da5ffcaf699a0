"""A few held-out pairs, measured while training goes on: the loss that overfitting shows in."""

from typing import Any

import polars as pl
import torch

from orpo_pipeline.data.prepared_files import EVAL, TOKEN_COLUMNS, read_pairs
from orpo_pipeline.training.engine import EngineRun
from orpo_pipeline.training.loss import FIGURES, StepSize, share_of_step
from schemas.tokens import TokenizedPair

PAIRS_AT_ONCE = 2
"""Of the reference engine's model, which pads them."""


class HeldOutPairs:
    """The first `training.eval_pairs` of the evaluation split, by row id: the same every time.

    Their figures are those of a training step of all of them together: FIGURES, by the same loss.
    Nothing is drawn at random and no weight changes, so training goes on as without.
    """

    def __init__(self, run: EngineRun) -> None:
        rows = read_pairs(run.pairs, EVAL, TOKEN_COLUMNS, most=run.training.eval_pairs)
        self.run = run
        self.pairs = rows.select(TOKEN_COLUMNS)

    def __len__(self) -> int:
        return self.pairs.height

    @torch.no_grad()
    def measure(self, autocast: Any) -> dict[str, float]:
        """Figures of the model as it is; in the engine's own context, inside `autocast`."""
        model = self.run.model
        model.eval()
        with autocast:
            packed = self.run.plan.engine.value == "packed"
            sums, counts, size = _sum_packed(self) if packed else _sum_padded(self)
        model.train()
        _, figures = share_of_step(sums, counts, size, self.run.training.orpo_lambda)
        return dict(zip(FIGURES, figures.tolist(), strict=True))


Sums = tuple[torch.Tensor, torch.Tensor, StepSize]
"""(B, 3) log-probs of prompt, chosen, rejected; (B, 3) their tokens; of all B pairs."""


def _sum_packed(held_out: HeldOutPairs) -> Sums:
    from orpo_pipeline.training.packed.forward import sum_logps
    from orpo_pipeline.training.packed.steps import StepCollator
    from orpo_pipeline.training.packed.tokens import PairTokens

    run = held_out.run
    collate = StepCollator(
        PairTokens(held_out.pairs),
        budget=run.plan.forward_pass.value,
        prompt_targets=run.training.nll_scope == "prompt_and_response",
    )
    step = collate(range(len(held_out)))
    device = run.plan.device.value
    sums = torch.cat([sum_logps(run.model, batch.to(device)) for batch in step.batches])
    counts = [count for batch in step.batches for count in batch.counts]
    return sums, torch.tensor(counts, device=device), step.size


def _sum_padded(held_out: HeldOutPairs) -> Sums:
    """By the reference; `nll_scope: response` is the packed engine's alone."""
    from orpo_pipeline.evaluation.scoring import score_pairs

    pairs = [TokenizedPair(*ids) for ids in held_out.pairs.iter_rows()]
    scores = pl.DataFrame(score_pairs(held_out.run.model, pairs, PAIRS_AT_ONCE))
    parts = [
        scores.select(
            pl.col(f"prompt_chosen_{what}") - pl.col(f"chosen_{what}"),
            f"chosen_{what}",
            f"rejected_{what}",
        )
        for what in ("logp", "tokens")
    ]
    sums, counts = (torch.tensor(part.rows()) for part in parts)
    return sums.float(), counts, StepSize(int(counts[:, :2].sum()), len(pairs))
