"""Both engines on the same batches of real pairs: do their curves lie on each other?

python benchmarks/long_run.py --source FILE                 # make long-run BENCH="--source FILE"
python benchmarks/long_run.py --source FILE --steps 100 --max-length 256
python benchmarks/long_run.py --draw-only                   # the figure from what there is

Each engine trains in a process of its own with one thread, both at the same time. A step is one
pass of TRL: its mean over the tokens of several passes is not the paper's. Every step's figures
are written at once to FOLDER/packed.jsonl and FOLDER/trl.jsonl; the figure shows the steps that
both have.
"""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from measuring import Result, run_job

JOBS = Path(__file__).with_name("training_jobs.py")
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "long-run.png"
ENGINES = ("packed", "trl")
SMOOTHED = 20  # steps of the moving mean


def main() -> None:
    given = _arguments()
    given.folder.mkdir(parents=True, exist_ok=True)
    if not given.draw_only:
        _train_both(given)
    curves = {engine: _read(given.folder / f"{engine}.jsonl") for engine in ENGINES}
    steps = min(len(curve) for curve in curves.values())
    packed, trl = ([one["train/loss"] for one in curves[name][:steps]] for name in ENGINES)
    apart = [abs(ours - theirs) for ours, theirs in zip(packed, trl, strict=True)]
    same = [
        ours["train/pair_accuracy"] == theirs["train/pair_accuracy"]
        for ours, theirs in zip(*(curves[name][:steps] for name in ENGINES), strict=True)
    ]
    print(
        f"{steps} steps: losses {sum(apart) / steps:.4f} apart on average, {max(apart):.4f} at "
        f"most, around {sum(trl) / steps:.3f}; the same accuracy in {sum(same)}. CPU seconds: "
        + ", ".join(f"{name} {curves[name][steps - 1]['cpu']:.0f}" for name in ENGINES)
    )
    _draw({name: curve[:steps] for name, curve in curves.items()}, given.figure)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", type=Path, help="A file of pairs.")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=2, help="Pairs of a step.")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--folder", type=Path, default=Path("long-run"), help="For the figures.")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    parser.add_argument("--draw-only", action="store_true")
    given = parser.parse_args()
    if not (given.source or given.draw_only):
        parser.error("--source or --draw-only is needed")
    return given


def _train_both(given: argparse.Namespace) -> None:
    home = str(given.folder.resolve() / "home")
    config: Result = {
        "data": {"source": str(given.source.resolve()), "max_quarantined_share": 1.0},
        "chat": {"max_length": given.max_length},
        "model": {"base_model": "embedded", "quantization": "nf4"},
        "training": {
            "batch_size": given.batch_size,
            "max_steps": given.steps,
            "learning_rate": given.learning_rate,
            "eval_pairs": 0,
        },
    }
    ways: dict[str, Result] = {
        "packed": {"engine": "packed"},
        "trl": {
            "engine": "trl",
            "micro_batch_size": given.batch_size,
            "gradient_checkpointing": "off",
        },
    }

    def train(engine: str) -> None:
        job = {
            "kind": "curve",
            "home": home,
            "config": {**config, "training": {**config["training"], **ways[engine]}},
            "curve": str(given.folder.resolve() / f"{engine}.jsonl"),
        }
        run_job(job, {"OMP_NUM_THREADS": "1"}, JOBS, watched=False)

    run_job({"kind": "prepare", "home": home, "config": config}, jobs=JOBS, watched=False)
    with ThreadPoolExecutor(len(ENGINES)) as pool:
        list(pool.map(train, ENGINES))


def _read(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _draw(curves: dict[str, list[dict[str, float]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    plots = figure.subplots(2, 1, sharex=True)
    for plot, name, label in zip(
        plots,
        ("train/loss", "train/pair_accuracy"),
        ("loss, nats", "pair accuracy"),
        strict=True,
    ):
        for (engine, curve), style in zip(curves.items(), ("-", "--"), strict=True):
            values = [one[name] for one in curve]
            means = [
                sum(values[max(0, n - SMOOTHED + 1) : n + 1]) / min(n + 1, SMOOTHED)
                for n in range(len(values))
            ]
            plot.plot(range(1, len(means) + 1), means, style, label=engine)
        plot.set_ylabel(f"{label}, mean of {SMOOTHED} steps")
        plot.legend()
    plots[1].set_xlabel("optimizer step")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
