"""How fast preparation is, what it takes, and how that compares with TRL 1.16.

python benchmarks/preparation.py                         # all three parts (make bench-preparation)
python benchmarks/preparation.py trl --rows 4000 --rounds 3
python benchmarks/preparation.py trl --source FILE       # other rows, in a form that TRL reads
python benchmarks/preparation.py gate
python benchmarks/preparation.py size --sizes 10000,100000,1000000

Every measured run is a process of its own, with a state folder of its own. The base model is a
tiny one with SmolLM2's tokenizer and template. Runs of the two sides alternate. The ratios stand
last. Nothing else should run on the machine meanwhile.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import against_trl
import growth
from measuring import ONE_THREAD, Result, machine, run_job, show_table

PARTS = ("trl", "gate", "size")
WARM_ROWS = 200
GATE_PARTS = ("parsing", "dialect", "rules", "identity", "signatures", "format")


def main() -> None:
    given = _arguments()
    parts = given.parts or list(PARTS)
    work = Path(tempfile.mkdtemp(prefix="bench-", dir=given.work))
    try:
        common = _common(work)
        rows = given.source or _generated(work / "rows.jsonl", given.rows, given.seed)
        results: Result = {"machine": machine()}
        if "trl" in parts:
            results["trl"] = against_trl.compare_with_trl(rows, common, work, given.rounds)
        if "gate" in parts:
            results["gate"] = _gate(rows, common)
        if "size" in parts:
            results["size"] = growth.prepare_sizes(
                given.sizes, common, work, given.seed, given.compare_all
            )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if given.output:
        given.output.write_text(json.dumps(results, indent=1), encoding="utf-8")
    _show(results)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=PARTS, help="Default: all.")
    parser.add_argument("--rows", type=int, default=4000, help="Generated rows for trl and gate.")
    parser.add_argument("--source", type=Path, help="A file of rows for trl and gate instead.")
    parser.add_argument("--rounds", type=int, default=3, help="Runs of each variant.")
    parser.add_argument(
        "--sizes",
        type=lambda text: [int(size) for size in text.split(",")],
        default=[10_000, 100_000],
        help="Numbers of rows, with commas. A million takes 12 GB of disk meanwhile.",
    )
    parser.add_argument(
        "--compare-all",
        action="store_true",
        help=f"Compare with preparing afresh beyond {growth.COMPARED_UP_TO:,} rows, too.",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="Where the temporary folder is made.")
    parser.add_argument("--output", type=Path, help="The numbers as JSON.")
    return parser.parse_args()


def _common(work: Path) -> dict[str, str]:
    """What every run has: the model's folder, and rows to begin with."""
    model = work / "model"
    run_job({"kind": "model", "folder": str(model)})
    warm = _generated(work / "warm.jsonl", WARM_ROWS, seed=0)
    return {"model": str(model), "warm": str(warm)}


def _generated(path: Path, rows: int, seed: int) -> Path:
    run_job({"kind": "rows", "source": str(path), "rows": rows, "seed": seed, "readable": True})
    return path


def _gate(rows: Path, common: dict[str, str]) -> Result:
    job = {**common, "kind": "gate", "source": str(rows), "max_length": against_trl.MAX_LENGTH}
    variants = {"with the tokenizer's threads": {}, "one thread": ONE_THREAD}
    return {name: run_job(job, environment) for name, environment in variants.items()}


def _show(results: Result) -> None:
    show_table("Machine", ("", ""), list(results["machine"].items()))
    if "size" in results:
        growth.show(results["size"])
    if "trl" in results:
        against_trl.show(results["trl"])
    if "gate" in results:
        _show_gate(results["gate"])
    if "trl" in results:
        against_trl.show_ratios(results["trl"])


def _show_gate(result: Result) -> None:
    rows = []
    for name, one in result.items():
        seconds = [one["seconds"][part] for part in GATE_PARTS]
        others = [one["gate"], one["tokenisation"], one["rest"]]
        rows.append(
            (
                name,
                *(f"{value / one['rows'] * 1e6:,.0f}" for value in (*seconds, *others)),
                f"{one['gate'] / one['tokenisation']:.2f}",
            )
        )
    header = ("", *GATE_PARTS, "gate", "tokenisation", "storing etc.", "gate / tokenisation")
    show_table("The gate beside the tokenisation, microseconds a row, 1 process", header, rows)


if __name__ == "__main__":
    main()
