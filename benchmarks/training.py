"""How fast a training step is, what it takes, and how that compares with TRL 1.16.

python benchmarks/training.py                            # make bench-training
python benchmarks/training.py --source FILE --rows 400   # other pairs
python benchmarks/training.py --steps 4 --rounds 3
python benchmarks/training.py --source FILE --shape 1b --batch-size 2 --steps 1 --rounds 1
python benchmarks/training.py --source FILE --shape 7b --batch-size 1 --steps 1 --rounds 1

Ways to train the same pairs in the same order, in the same precision, with the same LoRA:
`article`: TRL as ORPO tutorials configure it (2 pairs a pass, 4 passes a step, gradient
checkpointing, LoRA dropout modules). `tuned` and `tuned-sdpa`: TRL with the least work (1 pair a
pass, so that hardly anything is padded; no checkpointing; no dropout modules), by either of its
attentions: which is faster depends on the dtype. `packed`: ours, as planned. `recomputed`: ours
with gradient checkpointing. Runs alternate, each in a process of its own. The ratios stand last.
Nothing else should run on the machine meanwhile.

`--shape` takes a model with random weights (random_model.py). That of 7 billion parameters needs
15 GB on the disk, and is trained in as little memory as each engine can: activations computed
again, no weight kept dequantised. Its steps take minutes, so none is run to warm up.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from measuring import Result, machine, median, run_job, show_table
from random_model import SHAPES

JOBS = Path(__file__).with_name("training_jobs.py")
TUNED: Result = {
    "training": {"engine": "trl", "micro_batch_size": 1, "gradient_checkpointing": "off"}
}
WAYS: dict[str, Result] = {
    "article": {
        "training": {"engine": "trl", "micro_batch_size": 2, "gradient_checkpointing": "on"},
        "lora": {"dropout": 0.05},
    },
    "tuned": {**TUNED, "model": {"attention": "eager"}},
    "tuned-sdpa": {**TUNED, "model": {"attention": "sdpa"}},
    "recomputed": {"training": {"engine": "packed", "gradient_checkpointing": "on"}},
    "packed": {"training": {"engine": "packed"}},
}
LEAN = {
    "training": {"gradient_checkpointing": "on"},
    "model": {"dequantised_cache": "off"},
}
MIB = 2**20


def main() -> None:
    given = _arguments()
    work = Path(tempfile.mkdtemp(prefix="bench-", dir=given.work))
    home = given.home or work / "home"
    try:
        source = given.source or _generated(work / "rows.jsonl", given.rows)
        config = _config(source, given)
        if given.shape:
            folder = str(work / given.shape)
            model = {"kind": "model", "shape": given.shape, "home": str(home), "folder": folder}
            run_job(model, jobs=JOBS, watched=False)
            config["model"]["base_model"] = folder
        results: Result = {"machine": machine()}
        results["data"] = _run("prepare", config, home)
        warm = _warm_steps(given)
        results["flops"] = {
            name: 0.0 if given.no_flops else _run("flops", merged(config, way), home, warm)["flops"]
            for name, way in _ways(given).items()
        }
        rounds: dict[str, list[Result]] = {name: [] for name in _ways(given)}
        ceilings = []
        for _ in range(given.rounds):
            for name, way in _ways(given).items():
                job = merged(config, way)
                rounds[name].append(_run("train", job, home, warm))
                results["rounds"] = rounds
                if given.output:  # after each run: one that fails later loses nothing
                    given.output.write_text(json.dumps(results, indent=1), encoding="utf-8")
            dtype = rounds["packed"][-1]["plan"]["dtype"]
            ceilings.append(run_job({"kind": "ceiling", "dtype": dtype}, jobs=JOBS, watched=False))
        results["ceilings"] = ceilings
        if given.output:
            given.output.write_text(json.dumps(results, indent=1), encoding="utf-8")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    _show(results)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", type=Path, help="A file of pairs instead of generated ones.")
    parser.add_argument("--rows", type=int, default=200, help="Generated pairs.")
    parser.add_argument("--base-model", default="embedded")
    parser.add_argument("--shape", choices=SHAPES, help="Random weights instead of --base-model.")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=8, help="Pairs of an optimizer step.")
    parser.add_argument("--steps", type=int, default=3, help="Measured steps of each run.")
    parser.add_argument("--rounds", type=int, default=3, help="Runs of each way.")
    parser.add_argument("--ways", default=",".join(WAYS), help="Which of them, with commas.")
    parser.add_argument("--no-flops", action="store_true", help="Count no operations.")
    parser.add_argument("--token-budget", type=int, help="Of the packed engine.")
    parser.add_argument("--home", type=Path, help="State folder to keep the prepared pairs in.")
    parser.add_argument("--work", type=Path, help="Where the temporary folder is made.")
    parser.add_argument("--output", type=Path, help="The numbers as JSON.")
    given = parser.parse_args()
    unknown = set(given.ways.split(",")) - set(WAYS)
    if unknown or "packed" not in given.ways.split(","):
        parser.error(f"--ways must name packed, and others of {', '.join(WAYS)} with commas")
    return given


def _ways(given: argparse.Namespace) -> dict[str, Result]:
    ways = {name: WAYS[name] for name in given.ways.split(",")}
    if given.token_budget:
        budget = {"training": {"token_budget": given.token_budget}}
        ours = [name for name, way in ways.items() if way["training"]["engine"] == "packed"]
        ways |= {name: merged(ways[name], budget) for name in ours}
    if "article" in ways and given.batch_size == 1:  # there are no two pairs for its pass
        ways["article"] = merged(ways["article"], {"training": {"micro_batch_size": 1}})
    return {name: merged(way, LEAN) if given.shape == "7b" else way for name, way in ways.items()}


def _generated(path: Path, rows: int) -> Path:
    run_job({"kind": "rows", "source": str(path), "rows": rows, "seed": 1, "readable": True})
    return path


def _config(source: Path, given: argparse.Namespace) -> Result:
    return {
        "data": {"source": str(source), "max_quarantined_share": 1.0},
        "chat": {"max_length": given.max_length},
        "model": {"base_model": given.base_model, "quantization": "nf4"},
        "training": {
            "batch_size": given.batch_size,
            "max_steps": given.steps + _warm_steps(given),
            "eval_pairs": 0,
        },
    }


def merged(config: Result, more: Result) -> Result:
    """Section by section."""
    return {**config, **{name: {**config.get(name, {}), **more[name]} for name in more}}


def _run(kind: str, config: Result, home: Path, warm_steps: int = 1) -> Result:
    job = {"kind": kind, "config": config, "home": str(home), "warm_steps": warm_steps}
    return run_job(job, jobs=JOBS, watched=False)


def _warm_steps(given: argparse.Namespace) -> int:
    return 0 if given.shape == "7b" else 1


def _show(results: Result) -> None:
    show_table("Machine", ("", ""), list(results["machine"].items()))
    prompt, chosen, rejected = results["data"]["tokens"]
    ceiling = median([one["per_cpu"] for one in results["ceilings"]])
    print(
        f"\n{results['data']['pairs']} pairs; tokens of a pair on average: prompt {prompt}, "
        f"chosen {chosen}, rejected {rejected}. A matrix product reached "
        f"{median([one['flops'] for one in results['ceilings']]) / 1e9:.0f} GFLOP/s, "
        f"{ceiling / 1e9:.0f} GFLOP in a CPU second."
    )
    figures = {name: _figures(name, results) for name in results["rounds"]}
    header = (
        "",
        "pairs/s",
        "CPU s/pair",
        "loaded MiB",
        "peak MiB",
        "GFLOP/pair",
        "of the product",
        "loss",
    )
    rows = [
        (
            name,
            f"{one['rate']:.3f}",
            f"{one['cpu']:.2f}",
            f"{one['loaded'] / MIB:,.0f}",
            f"{one['peak'] / MIB:,.0f}",
            f"{one['flops'] / 1e9:.0f}",
            f"{one['flops'] / one['cpu'] / ceiling:.0%}",
            f"{one['loss']:.4f}",
        )
        for name, one in figures.items()
    ]
    show_table("Median of the rounds; peak memory above the loaded model", header, rows)
    ours = figures["packed"]
    for name in figures:
        if name != "packed":
            other = figures[name]
            counted = other["flops"] > 0  # not with --no-flops
            print(
                f"packed / {name}: {ours['rate'] / other['rate']:.1f} x pairs/s, "
                f"{other['cpu'] / ours['cpu']:.1f} x pairs per CPU second, "
                f"{ours['peak'] / other['peak']:.2f} x memory"
                + (f", {ours['flops'] / other['flops']:.2f} x operations" if counted else "")
            )


def _figures(name: str, results: Result) -> dict[str, float]:
    rounds = results["rounds"][name]
    return {
        "rate": median([one["pairs"] / one["wall"] for one in rounds]),
        "cpu": median([one["cpu"] / one["pairs"] for one in rounds]),
        "loaded": median([one["loaded"] for one in rounds]),
        "peak": median([one["peak"] for one in rounds]),
        "flops": results["flops"][name],
        "loss": rounds[0]["losses"][0],
    }


if __name__ == "__main__":
    main()
