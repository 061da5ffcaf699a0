"""One measured training step in a process of its own: JOB.json in, RESULT.json out
(measuring.run_job).

A Llama of random weights and pairs of given lengths, through the product's own loading, plan and
engine. Two optimizer steps, so that the second holds the optimizer's states beside everything else.
Resident memory is read where the model is loaded, and at its highest, by the kernel's own count.
"""

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
from process_memory import peak, reset_peak, resident

from orpo_pipeline.base_model import embedded_gguf, model_shape
from orpo_pipeline.data.prepared_files import EVAL, TOKEN_COLUMNS, TRAIN, shard_name
from orpo_pipeline.planning.plan import plan_training, predict_memory
from orpo_pipeline.training.engine import EngineRun, find_engine
from orpo_pipeline.training.qlora import load_trainable
from schemas.config import RunConfig
from schemas.hardware import Probe
from schemas.plan import ModelShape
from schemas.results import BaseModelRecord
from schemas.tokens import Longest

Result = dict[str, Any]
FIRST_ID = 3  # of ordinary tokens

PROBE = Probe(
    kind="cpu",
    name="a CPU with bfloat16",
    ram=64 * 2**30,
    cpu_cores=2,
    cpu_isa=frozenset({"avx2", "amx_bf16"}),
    bitsandbytes="0.50.2",
)
"""The plan's view of the machine: the measurement must not depend on how large this one is."""


def measure(job: Result) -> Result:
    """Bytes: the parts of the prediction, what the process held at most, and before the model."""
    from transformers import AutoTokenizer, set_seed

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base = make_model(folder / "model", job["model"])
        pairs = make_pairs(folder / "pairs", job)
        config = RunConfig.model_validate(job["config"])
        prompt, chosen, rejected = job["pair"]
        longest = Longest(prompt + max(chosen, rejected), prompt + chosen + rejected)
        plan = plan_training(config, PROBE, base.shape, longest)
        estimate = predict_memory(config, plan, base.shape, longest)
        _import_all()
        runtime = resident()
        set_seed(0)
        model = load_trainable(config, base, plan)
        held = reset_peak()
        gguf = embedded_gguf()
        find_engine(plan.engine.value)(
            EngineRun(
                model=model,
                tokenizer=AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name),
                pairs=pairs,
                training=config.training,
                plan=plan,
                work=folder / "work",
                on_step=lambda *_: None,
                should_stop=lambda: False,
            )
        )
        return {
            "predicted": asdict(estimate),
            "total": estimate.total,
            "peak": peak(),
            "held": held,
            "runtime": runtime,
            "plan": {name: choice.value for name, choice in plan.choices().items()},
        }


def make_model(folder: Path, sizes: Result) -> BaseModelRecord:
    """A Llama of random weights, saved as a base model in bfloat16."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**sizes)).to(torch.bfloat16).save_pretrained(folder)
    weights = folder / "model.safetensors"
    shape: ModelShape = model_shape(folder / "config.json", [weights])
    return BaseModelRecord(path=folder, name="random", revision="0", shape=shape)


def make_pairs(folder: Path, job: Result) -> Path:
    """Prepared pairs, all of the same lengths, as the prepare stage writes them."""
    import numpy as np

    rows = 4 * job["config"]["training"]["batch_size"]
    draw = np.random.default_rng(0)
    columns: Result = {}
    for name, length in zip(TOKEN_COLUMNS, job["pair"], strict=True):
        ids = draw.integers(FIRST_ID, job["model"]["vocab_size"], (rows, length), dtype="int32")
        columns[name] = pl.Series(ids.tolist(), dtype=pl.List(pl.Int32))
    shard = folder / "shards" / shard_name(0)
    shard.mkdir(parents=True)
    pl.DataFrame(columns).write_parquet(shard / "rows.parquet")
    index: Result = {"row_id": [f"{n:064x}" for n in range(rows)], "shard": [0] * rows}
    index["position"] = list(range(rows))
    for split in (TRAIN, EVAL):
        pl.DataFrame(index).write_parquet(folder / f"{split}.parquet")
    return folder


def _import_all() -> None:
    """What a training imports counts as runtime, whenever it is imported."""
    import bitsandbytes
    import peft
    import transformers
    import trl.experimental.orpo  # noqa: F401

    assert bitsandbytes and peft and transformers.Trainer


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(measure(asked)), encoding="utf-8")
