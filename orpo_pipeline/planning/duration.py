"""How long an epoch will take: an estimate from token counts and one timed matrix product.

`python -m orpo_pipeline.planning.duration DEVICE DTYPE` prints floating-point operations a second,
in a process of its own because asking torch about a GPU opens a CUDA context.
"""

import sys
import time

from schemas.plan import ModelShape, TrainingPlan

UTILISATION = {"packed": 0.7, "trl": 0.45}
"""Share of a matrix product's speed that a QLoRA step reaches, by the count of operations below.
On a CPU, packed steps reached 0.9 (HH-RLHF) and 0.5 (UltraFeedback) of it, TRL's 0.3 to 0.7
(docs/performance.md); no GPU has been measured."""

SIZE = 2048  # rows and columns of the product
SECONDS = 0.5  # of products, after the first


def seconds_per_epoch(tokens: float, plan: TrainingPlan, shape: ModelShape, flops: float) -> float:
    """`tokens`: all that the model reads in an epoch; `flops`: operations a second.

    A frozen weight costs 2 operations a token forward and 2 backward (its own gradient is not
    computed), and 2 more where activations are computed again.
    """
    per_token = (6 if plan.gradient_checkpointing.value else 4) * shape.parameters
    return tokens * per_token / (flops * UTILISATION[plan.engine.value])


def measure_flops(device: str, dtype: str) -> float:
    """Operations a second of a square matrix product."""
    import torch

    where = torch.device(device)
    left = torch.ones(SIZE, SIZE, device=where, dtype=getattr(torch, dtype))
    _synchronise(left @ left)
    products, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        _synchronise(left @ left)
        products += 1
    return products * 2 * SIZE**3 / (time.perf_counter() - started)


def _synchronise(result: object) -> None:
    result[0, 0].item()  # type: ignore[index]


if __name__ == "__main__":
    print(measure_flops(*sys.argv[1:]))
