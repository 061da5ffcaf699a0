"""How far bfloat16 moves a model's log-probs, by the packed pass and by whole sequences.

python benchmarks/bfloat16_rounding.py --source FILE

Both score the same pairs with the same NF4 weights, in float32 (where they agree) and in bfloat16.
`whole sequences` is the reference: prompt + answer at a time, as TRL computes them.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from orpo_pipeline.data.preparation import prepare
from orpo_pipeline.data.prepared_files import TRAIN, read_pairs
from orpo_pipeline.evaluation.packed_scoring import score_packed
from orpo_pipeline.evaluation.scoring import PairScore, score_pairs
from orpo_pipeline.planning.hardware import probe_hardware
from orpo_pipeline.planning.plan import plan_training
from orpo_pipeline.training.qlora import load_base
from schemas.config import RunConfig
from schemas.tokens import TokenizedPair

TOKEN_BUDGET = 1024
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", type=Path, required=True, help="A file of pairs.")
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--max-length", type=int, default=128)
    given = parser.parse_args()
    config = RunConfig.model_validate(
        {
            "data": {"source": str(given.source), "max_quarantined_share": 1.0},
            "chat": {"max_length": given.max_length},
        }
    )
    with tempfile.TemporaryDirectory() as home:
        prepared = prepare(config, Path(home), lambda *_: None)
        columns = ("prompt_ids", "chosen_ids", "rejected_ids")
        rows = read_pairs(prepared.path, TRAIN, columns, most=given.pairs)
        pairs = [TokenizedPair(*ids) for ids in rows.select(columns).iter_rows()]
        scores: dict[tuple[str, str], np.ndarray] = {}
        for dtype in ("float32", "bfloat16"):
            precise = config.model_copy(
                update={"model": config.model.model_copy(update={"dtype": dtype})}
            )
            shape, longest = prepared.base_model.shape, prepared.longest
            plan = plan_training(precise, probe_hardware(), shape, longest)
            model = load_base(prepared.base_model, plan)
            scores["whole sequences", dtype] = _means(score_pairs(model, pairs, BATCH))
            scores["packed", dtype] = _means(score_packed(model, pairs, TOKEN_BUDGET))
    for way in ("whole sequences", "packed"):
        moved = scores[way, "bfloat16"] - scores[way, "float32"]
        print(f"{way}: bfloat16 - float32 {moved.mean():+.4f} nats a token (sd {moved.std():.4f})")
    apart = scores["packed", "float32"] - scores["whole sequences", "float32"]
    print(f"in float32 both agree to {np.abs(apart).max():.1e}")


def _means(scores: list[PairScore]) -> np.ndarray:
    """Mean log-prob per token of prompt + chosen, (N,)."""
    return np.array([score.prompt_chosen_logp / score.prompt_chosen_tokens for score in scores])


if __name__ == "__main__":
    main()
