"""Does the device really compute what the plan wants of it, and how fast?

`python -m orpo_pipeline.planning.trial CONFIG` (a `RunConfig` as JSON) prints a `Trial` as JSON, in
a process of its own: a broken build of bitsandbytes may end it, and asking a GPU opens a context.
"""

import sys

from orpo_pipeline.planning.duration import measure_flops
from orpo_pipeline.planning.hardware import probe_hardware
from orpo_pipeline.planning.plan import check_requests
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.hardware import Probe
from schemas.record import Record

FEATURES = 256
ROWS = 8
# 4-bit NormalFloat is off by a tenth on normally distributed weights; a broken kernel by far more.
LARGEST_ERROR = 0.2


class Trial(Record):
    """What was seen, and what was computed on the device that the configuration gets."""

    probe: Probe
    device: str | None = None
    """None: the configuration asks for something impossible, and nothing was computed."""
    nf4_error: float | None = None
    """Norm of the difference to the unquantised product, as a share of it; None: it failed."""
    nf4_failure: str = ""
    flops: float = 0.0
    """Operations a second of a matrix product."""

    @property
    def nf4_works(self) -> bool:
        return self.nf4_error is not None and self.nf4_error < LARGEST_ERROR


def try_device(config: RunConfig) -> Trial:
    """A product with NF4 weights beside the same without, and a timed one."""
    probe = probe_hardware()
    try:
        device, dtype, _ = check_requests(config, probe)
    except UserError:
        return Trial(probe=probe)
    where = (str(device.value), str(dtype.value))
    error, failure = None, ""
    try:
        error = nf4_error(*where)
    except (ImportError, OSError, RuntimeError, AttributeError, ValueError) as raised:
        failure = " ".join(f"{type(raised).__name__}: {raised}".split())[:300]
    return Trial(
        probe=probe,
        device=where[0],
        nf4_error=error,
        nf4_failure=failure,
        flops=measure_flops(*where),
    )


def nf4_error(device: str, dtype: str) -> float:
    """How far a double-quantised NF4 layer is off."""
    import torch
    from bitsandbytes.nn import Linear4bit

    torch.manual_seed(0)
    compute = getattr(torch, dtype)
    plain = torch.nn.Linear(FEATURES, FEATURES, bias=False)
    layer = Linear4bit(
        FEATURES,
        FEATURES,
        bias=False,
        compute_dtype=compute,
        compress_statistics=True,
        quant_type="nf4",
    )
    layer.load_state_dict(plain.state_dict())
    inputs = torch.randn(ROWS, FEATURES)
    with torch.inference_mode():
        exact = plain(inputs)
        found = layer.to(device)(inputs.to(device, compute)).float().cpu()
    return float((found - exact).norm() / exact.norm())


if __name__ == "__main__":
    print(try_device(RunConfig.model_validate_json(sys.argv[1])).model_dump_json())
