"""How OpenMP threads should wait: spinning (libgomp's default) or sleeping, idle and busy machine.

python benchmarks/openmp_waiting.py            # A B A B, then the same beside a busy process
"""

import os
import statistics
import subprocess
import sys

PROGRAM = """
import time, torch
torch.manual_seed(0)
x = torch.randn(480, 576)
up = [torch.randn(576, 1536) for _ in range(8)]
down = [torch.randn(1536, 576) for _ in range(8)]
def layers():
    h = x
    for u, d in zip(up, down):
        a = h @ u
        h = (torch.nn.functional.silu(a) * a) @ d * 1e-3 + h
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-5)
for _ in range(5): layers()
started, count = time.monotonic(), 0
while time.monotonic() - started < 4:
    layers(); count += 1
print(count / (time.monotonic() - started))
"""
BUSY = "while True: pass"


def rate(policy: str | None) -> float:
    """Passes a second through eight layers of SmolLM2's size."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if policy:
        environment["OMP_WAIT_POLICY"] = policy
    command = [sys.executable, "-c", PROGRAM]
    return float(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)


def compare(label: str, rounds: int = 3) -> None:
    """A B A B ..., medians, and their ratio."""
    rates: dict[str | None, list[float]] = {None: [], "PASSIVE": []}
    for _ in range(rounds):
        for policy, values in rates.items():
            values.append(rate(policy))
    spinning, sleeping = (statistics.median(values) for values in rates.values())
    print(
        f"{label}: spinning {spinning:.1f}/s, sleeping {sleeping:.1f}/s, "
        f"ratio {sleeping / spinning:.2f}"
    )


def main() -> None:
    """Idle machine first, then with one busy process for each core."""
    compare("idle machine")
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(os.cpu_count() or 1)]
    try:
        compare("beside one busy process a core")
    finally:
        for process in busy:
            process.kill()


if __name__ == "__main__":
    main()
