"""One measured job in a process of its own: JOB.json in, RESULT.json out (see measuring.run_job).

Before the clock starts each job does a few rows the same way, so that neither side pays for
imports. Within the measured time lie, on both sides: loading the tokenizer, reading the file,
starting and ending processes. Ours has also: hashing the source, the gate, selection, publication.
"""

import json
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

WARM_ROWS = 60
Result = dict[str, Any]


@contextmanager
def _measured(result: Result) -> Iterator[None]:
    """Adds `wall` and `cpu` (seconds; of this process and of children that have ended)."""
    cpu, started = _cpu_seconds(), time.perf_counter()
    yield
    result["wall"] = time.perf_counter() - started
    result["cpu"] = _cpu_seconds() - cpu


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def make_model(job: Result) -> Result:
    """A Llama of random weights and two layers, with SmolLM2's tokenizer and template.

    Preparation hashes the weights; those of a real model would be a constant in every run.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from orpo_pipeline.base_model import embedded_gguf

    gguf = embedded_gguf()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.pad_token = "<|endoftext|>"
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(shape).save_pretrained(job["folder"])
    tokenizer.save_pretrained(job["folder"])
    return {}


def prepare_ours(job: Result) -> Result:
    """Our preparation; `events`: seconds since the start, what is done, how many rows."""
    from orpo_pipeline.data.preparation import prepare
    from schemas.config import RunConfig

    def config(source: Path, processes: int) -> RunConfig:
        data = {
            "source": str(source),
            "processes": processes,
            "max_quarantined_share": 1.0,
            "max_rule_share": {},
        }
        chat = {"max_length": job["max_length"]}
        model = {"base_model": job["model"]}
        return RunConfig.model_validate({"data": data, "chat": chat, "model": model})

    home = Path(job["home"])
    home.mkdir(parents=True, exist_ok=True)
    warm = home.with_name(f"{home.name}-warm")
    warm.mkdir(parents=True)
    prepare(config(Path(job["warm"]), 1), warm, lambda *_: None)
    shutil.rmtree(warm)
    events: list[tuple[float, str, int]] = []
    result: Result = {"events": events}
    with _measured(result):
        started = time.perf_counter()
        prepared = prepare(
            config(Path(job["source"]), job["processes"]),
            home,
            lambda what, done, total: events.append((time.perf_counter() - started, what, done)),
        )
    return result | {
        "rows": prepared.rows_in,
        "folder": str(prepared.path),
        "kept": prepared.train_pairs + prepared.eval_pairs,
        "duplicates": prepared.duplicates,
        "removed": prepared.quarantined,
        "reused": prepared.reused,
    }


def prepare_with_trl(job: Result) -> Result:
    """TRL's preparation. `ids`: a file for the token ids, written after the clock has stopped."""
    import datasets
    from accelerate import PartialState  # type: ignore[import-untyped]
    from transformers import AutoTokenizer
    from trl_maps import IDS, map_rows, read_file

    PartialState(cpu=True)  # as ORPOConfig makes it; TRL's warnings need it
    datasets.disable_caching()
    datasets.disable_progress_bars()
    cache, length = Path(job["cache"]), job["max_length"]
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    map_rows(read_file(Path(job["warm"]), cache / "warm"), tokenizer, length, None)
    result: Result = {}
    with _measured(result):
        tokenizer = AutoTokenizer.from_pretrained(job["model"])
        rows = read_file(Path(job["source"]), cache / "rows")
        # One process is None, TRL's default: with 1 datasets would start a process for it.
        rows = map_rows(rows, tokenizer, length, job["processes"] if job["processes"] > 1 else None)
    if job.get("ids"):
        rows.select_columns(list(IDS)).to_parquet(job["ids"])
    result["rows"] = len(rows)
    shutil.rmtree(cache)
    return result


def cost_of_the_gate(job: Result) -> Result:
    """Seconds in each part of checking rows."""
    from gate_cost import time_parts

    return time_parts(Path(job["source"]), Path(job["model"]), job["max_length"])


def write_rows(job: Result) -> Result:
    """Generated rows: the first `rows` in `source`, those beyond in `more`; and `warm`."""
    from preferences import write

    source = Path(job["source"])
    planted = write(source, job["rows"] + job.get("beyond", 0), job["seed"], job["readable"])
    if job.get("beyond"):
        _move_tail(source, Path(job["more"]), job["rows"])
    return {"planted": planted}


def _move_tail(source: Path, more: Path, rows: int) -> None:
    with source.open("r+b") as file:
        end = sum(len(line) for line in islice(file, rows))
        file.seek(end)
        with more.open("wb") as rest:
            shutil.copyfileobj(file, rest)
        file.truncate(end)


KINDS = {
    "model": make_model,
    "ours": prepare_ours,
    "trl": prepare_with_trl,
    "gate": cost_of_the_gate,
    "rows": write_rows,
}


def main() -> None:
    given, out = map(Path, sys.argv[1:3])
    job = json.loads(given.read_text(encoding="utf-8"))
    result = KINDS[job["kind"]](job)
    out.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":  # the processes that preparation starts import this module
    main()
