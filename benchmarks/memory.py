"""The predicted peak of memory beside the measured one, on a CPU.

python benchmarks/memory.py                  # make bench-memory: all cases, some minutes alone
python benchmarks/memory.py --only wide      # those whose name has the word

Each case is a training of two optimizer steps in a process of its own: its highest resident memory
as the kernel counted it, beside what `predict_memory` says. The last line prints the largest error;
beyond 15 % the exit code is 1.
"""

import argparse
import json
import sys
from pathlib import Path

from measuring import Result, machine, run_job, show_table

JOBS = Path(__file__).with_name("memory_jobs.py")
MIB = 2**20
SMALL = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
"""SmolLM2-135M with 8 of its 30 layers."""

WIDE = {
    "vocab_size": 32_000,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}
PAIR = (256, 128, 128)  # tokens of prompt, chosen, rejected


def case(model: Result, batch: int, held: Result, training: Result) -> Result:
    """A job: `held` of the section model, `training` of the section training."""
    section = {"dtype": "bfloat16", "quantization": "nf4", "dequantised_cache": "off", **held}
    steps = {"max_steps": 2, "batch_size": batch, "eval_pairs": 0}
    checkpointing = {"gradient_checkpointing": "off"}
    return {
        "model": model,
        "pair": PAIR,
        "config": {"model": section, "training": {**steps, **checkpointing, **training}},
    }


MOST_ERROR = 0.15
FLOAT32 = {"dtype": "float32", "quantization": "none"}
ON = {"gradient_checkpointing": "on"}
PACKED, TRL = {"engine": "packed"}, {"engine": "trl"}
CASES = {
    "small packed 1024": case(SMALL, 2, {}, {**PACKED, "token_budget": 1024}),
    "small packed 2048": case(SMALL, 4, {}, {**PACKED, "token_budget": 2048}),
    "small packed 1024 checkpointing": case(SMALL, 2, {}, {**PACKED, **ON, "token_budget": 1024}),
    "small packed 1024 float32": case(SMALL, 2, FLOAT32, {**PACKED, "token_budget": 1024}),
    "small packed 1024 full": case(
        SMALL, 2, {"quantization": "none"}, {**PACKED, "method": "full", "token_budget": 1024}
    ),
    "small trl 1": case(SMALL, 2, {}, {**TRL, "micro_batch_size": 1}),
    "small trl 2 checkpointing": case(SMALL, 2, {}, {**TRL, **ON, "micro_batch_size": 2}),
    "wide packed 1024": case(WIDE, 2, {}, {**PACKED, "token_budget": 1024}),
    "wide packed 2048 checkpointing": case(WIDE, 4, {}, {**PACKED, **ON, "token_budget": 2048}),
    "wide trl 1": case(WIDE, 2, {}, {**TRL, "micro_batch_size": 1}),
    "SmolLM2 packed 1024": case(
        {**SMALL, "num_hidden_layers": 30}, 2, {}, {**PACKED, "token_budget": 1024}
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="Cases whose name has this.")
    parser.add_argument("--output", type=Path, help="The numbers as JSON.")
    given = parser.parse_args()
    results: Result = {"machine": machine()}
    errors = []
    rows = []
    for name in (name for name in CASES if given.only in name):
        found = results[name] = run_job(CASES[name], jobs=JOBS, watched=False)
        error = found["total"] / found["peak"] - 1
        errors.append(error)
        parts = [f"{size / MIB:,.0f}" for size in found["predicted"].values()]
        whole = (f"{found['total'] / MIB:,.0f}", f"{found['peak'] / MIB:,.0f}", f"{error:+.0%}")
        rows.append((name, *parts, *whole))
        print("  ".join(rows[-1]), flush=True)
        if given.output:
            given.output.write_text(json.dumps(results, indent=1), encoding="utf-8")
    show_table("Machine", ("", ""), list(results["machine"].items()))
    header = ("MiB", "weights", "trained", "activations", "working", "runtime")
    show_table("Predicted", (*header, "predicted", "measured", "error"), rows)
    largest = max(errors, key=abs)
    print(f"largest error {largest:+.0%}")
    if abs(largest) > MOST_ERROR:
        sys.exit(f"more than {MOST_ERROR:.0%}")


if __name__ == "__main__":
    main()
