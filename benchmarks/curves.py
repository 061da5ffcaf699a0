"""Pairs a CPU second and peak memory over the length of pairs and the pairs of a step.

python benchmarks/curves.py --source FILE --long-source FILE      # make bench-curves BENCH="..."
python benchmarks/curves.py --source FILE --long-source FILE --ways packed --steps 1

Lengths: --steps steps of 4 pairs of --long-source under several chat.max_length, after one that
warms up. Pairs of a step: the same 16 pairs of --source in steps of 2, 4, 8 and 16, after 16
others. The ways are those of training.py. Numbers go to --output after each run, the figure to
docs/images.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import Result, run_job
from training import MIB, WAYS, merged

JOBS = Path(__file__).with_name("training_jobs.py")
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "training-curves.png"
LENGTH, PAIRS = "tokens of a prompt and answer at most", "pairs of a step"
LENGTHS = (128, 256, 512, 1024)
SIZES = (2, 4, 8, 16)
SAME = max(SIZES)  # pairs that warm up, and pairs that are measured, whatever the step


@dataclass(frozen=True)
class Place:
    """One run of each way."""

    curve: str
    at: int
    """Where on the curve's axis."""
    source: Path
    max_length: int
    pairs: int
    """Of a step."""
    warm_steps: int
    steps: int
    """Measured ones."""


def main() -> None:
    given = _arguments()
    lengths = [Place(LENGTH, n, given.long_source, n, 4, 1, given.steps) for n in LENGTHS]
    sizes = [Place(PAIRS, n, given.source, 512, n, SAME // n, SAME // n) for n in SIZES]
    points: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="curves-") as home:
        for place in [*lengths, *sizes]:
            for way in given.ways.split(","):
                job = {
                    "kind": "train",
                    "config": merged(_config(place), WAYS[way]),
                    "home": home,
                    "warm_steps": place.warm_steps,
                }
                ran = run_job(job, jobs=JOBS, watched=False)
                rate, peak = ran["pairs"] / ran["cpu"], ran["peak"] / MIB
                where = {"curve": place.curve, "way": way, "at": place.at}
                points.append({**where, "rate": rate, "peak": peak})
                print(points[-1], flush=True)
                given.output.write_text(json.dumps(points, indent=1), encoding="utf-8")
    _draw(points, given.figure)


def _config(place: Place) -> Result:
    return {
        "data": {"source": str(place.source), "max_quarantined_share": 1.0},
        "chat": {"max_length": place.max_length},
        "model": {"base_model": "embedded", "quantization": "nf4"},
        "training": {
            "batch_size": place.pairs,
            "max_steps": place.warm_steps + place.steps,
            "eval_pairs": 0,
        },
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", type=Path, required=True, help="Pairs for the sizes of steps.")
    parser.add_argument("--long-source", type=Path, required=True, help="Pairs for the lengths.")
    parser.add_argument("--ways", default="packed,tuned-sdpa", help="Of training.py, with commas.")
    parser.add_argument("--steps", type=int, default=2, help="Measured steps of each length.")
    parser.add_argument("--output", type=Path, default=Path("curves.json"))
    parser.add_argument("--figure", type=Path, default=FIGURE)
    return parser.parse_args()


def _draw(points: list[Result], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    curves = list(dict.fromkeys(one["curve"] for one in points))
    plots: Any = figure.subplots(2, len(curves), sharex="col")
    for column, curve in enumerate(curves):
        for row, (name, label) in enumerate(
            (("rate", "pairs a CPU second"), ("peak", "MiB above the loaded model"))
        ):
            plot = plots[row, column]
            for way in dict.fromkeys(one["way"] for one in points):
                line = [one for one in points if (one["curve"], one["way"]) == (curve, way)]
                plot.plot([p["at"] for p in line], [p[name] for p in line], "o-", label=way)
            plot.set(ylabel=label, ylim=(0, None), xscale="log")
            plot.set_xticks([p["at"] for p in line], [str(p["at"]) for p in line])
            plot.minorticks_off()
            plot.legend()
        plots[1, column].set_xlabel(curve)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
