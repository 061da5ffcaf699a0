"""One measured training in a process of its own: JOB.json in, RESULT.json out (measuring.run_job).

The clock runs from the end of the last step that only warms up (the first, if the job does not say
otherwise) to the end of the last: loading the model is no part of it. Peak memory is the kernel's
high-water mark of the process over the steps, less what it held with the model loaded and the
adapter attached.
"""

import json
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from process_memory import peak, reset_peak
from random_model import write_random_model

from orpo_pipeline.base_model import resolve_base_model
from orpo_pipeline.data.preparation import prepare
from orpo_pipeline.data.prepared_files import TRAIN
from orpo_pipeline.planning.hardware import probe_hardware
from orpo_pipeline.planning.plan import plan_training
from orpo_pipeline.training.engine import EngineRun
from orpo_pipeline.training.packed.attention import packed_attention
from orpo_pipeline.training.packed.engine import packed_trainer
from orpo_pipeline.training.packed.forward import causal_lm_of
from orpo_pipeline.training.packed.tokens import read_tokens
from orpo_pipeline.training.qlora import attach_new_adapter, load_base
from orpo_pipeline.training.trl_engine import trainer_arguments, trl_trainer
from schemas.config import EMBEDDED, ModelConfig, RunConfig

Result = dict[str, Any]
SQUARE = 2048  # rows and columns of the product that measures the ceiling


def train(job: Result) -> Result:
    """Steps of one engine: wall and CPU seconds, memory, losses."""
    run, trainer = _prepare_run(job)
    moments: list[tuple[float, float, float]] = []

    def on_step(step: int, steps: int, values: dict[str, float]) -> None:
        moments.append((time.perf_counter(), time.process_time(), values["train/loss"]))

    held = reset_peak()
    begun = (time.perf_counter(), time.process_time(), 0.0)
    _train(replace(run, on_step=on_step), trainer)
    warm = job.get("warm_steps", 1)
    (started, cpu_started, _), (ended, cpu_ended, _) = [begun, *moments][warm], moments[-1]
    return {
        "loaded": held,
        "peak": peak() - held,
        "wall": ended - started,
        "cpu": cpu_ended - cpu_started,
        "pairs": (len(moments) - warm) * job["config"]["training"]["batch_size"],
        "losses": [loss for _, _, loss in moments],
        "plan": {name: choice.value for name, choice in run.plan.choices().items()},
    }


def count_flops(job: Result) -> Result:
    """Floating-point operations of matrix products and attention, a pair of the timed steps."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    aten = torch.ops.aten
    more = {
        aten.addmm_: _product_flops,
        aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_gradient_flops,
    }
    run, trainer = _prepare_run(job)
    counts = [0]
    with FlopCounterMode(display=False, custom_mapping=more) as counter:
        count = replace(run, on_step=lambda *_: counts.append(counter.get_total_flops()))
        _train(count, trainer)
    warm = job.get("warm_steps", 1)
    pairs = (len(counts) - 1 - warm) * job["config"]["training"]["batch_size"]
    return {"flops": (counts[-1] - counts[warm]) / pairs}


def write_curve(job: Result) -> Result:
    """Each step's figures and CPU seconds so far, a line of job["curve"] as soon as it is done."""
    run, trainer = _prepare_run(job)
    started = time.process_time()
    with Path(job["curve"]).open("w", encoding="utf-8", buffering=1) as lines:

        def on_step(step: int, steps: int, values: dict[str, float]) -> None:
            one = {"step": step, "cpu": time.process_time() - started, **values}
            lines.write(json.dumps(one) + "\n")

        _train(replace(run, on_step=on_step), trainer)
    return {}


def _product_flops(added: Any, left: Any, right: Any, **_: Any) -> int:
    """addmm_ on the shapes (n, m) + (n, k) @ (k, m)."""
    return int(2 * left[0] * left[1] * right[1])


def _attention_flops(query: Any, key: Any, *_: Any, **__: Any) -> int:
    """Two products of all queries with all keys; as in torch's own count, also what a causal mask
    hides."""
    batch, heads, queries, width = query
    return int(4 * batch * heads * queries * key[2] * width)


def _attention_gradient_flops(gradient: Any, query: Any, key: Any, *_: Any, **__: Any) -> int:
    """Five products where the forward pass has two."""
    return _attention_flops(query, key) * 5 // 2


def measure_ceiling(job: Result) -> Result:
    """Operations of a large matrix product in `dtype`: in a second, and in a CPU second."""
    import torch

    left = torch.randn(SQUARE, SQUARE, dtype=getattr(torch, job["dtype"]))
    left @ left
    started, cpu_started, products = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - started < 3:
        left @ left
        products += 1
    done = products * 2 * SQUARE**3
    return {
        "flops": done / (time.perf_counter() - started),
        "per_cpu": done / (time.process_time() - cpu_started),
    }


def write_model(job: Result) -> Result:
    """A model folder of a known shape with random weights."""
    base = resolve_base_model(ModelConfig(base_model=EMBEDDED), Path(job["home"]), lambda _: None)
    write_random_model(job["shape"], base.path, Path(job["folder"]))
    return {}


def prepare_pairs(job: Result) -> Result:
    """The data and base model that the other jobs use; mean tokens of a pair's parts."""
    config = RunConfig.model_validate(job["config"])
    prepared = prepare(config, Path(job["home"]), lambda *_: None)
    lengths = read_tokens(prepared.path, TRAIN).lengths().mean(axis=0)
    return {"pairs": prepared.train_pairs, "tokens": lengths.round(1).tolist()}


def _prepare_run(job: Result) -> tuple[EngineRun, Any]:
    from transformers import AutoTokenizer, set_seed

    config = RunConfig.model_validate(job["config"])
    prepared = prepare(config, Path(job["home"]), lambda *_: None)
    shape = prepared.base_model.shape
    plan = plan_training(config, probe_hardware(), shape, prepared.longest)
    set_seed(config.training.seed)
    loaded = load_base(prepared.base_model, plan)
    model = attach_new_adapter(loaded, config.lora, prepared.base_model, plan.engine.value)
    model.config.use_cache = False
    run = EngineRun(
        model=model,
        tokenizer=AutoTokenizer.from_pretrained(prepared.path / "tokenizer"),
        pairs=prepared.path,
        training=config.training,
        plan=plan,
        work=Path(tempfile.mkdtemp(prefix="steps-")),
        on_step=lambda *_: None,
        should_stop=lambda: False,
    )
    if plan.engine.value == "packed":
        return run, packed_trainer(run, read_tokens(prepared.path, TRAIN))
    arguments = trainer_arguments(config.training, plan, run.work)
    arguments.disable_dropout = True  # TRL's default, and what the article runs
    return run, trl_trainer(run, arguments)


def _train(run: EngineRun, trainer: Any) -> None:
    from orpo_pipeline.training.trainer_setup import run_trainer

    trainer.args.save_strategy = "no"
    with packed_attention(causal_lm_of(run.model)):
        if run.plan.engine.value != "packed":
            causal_lm_of(run.model).set_attn_implementation(run.plan.attention.value)
        run_trainer(trainer, run)
    shutil.rmtree(run.work, ignore_errors=True)


JOBS = {
    "train": train,
    "flops": count_flops,
    "curve": write_curve,
    "ceiling": measure_ceiling,
    "model": write_model,
    "prepare": prepare_pairs,
}

if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(JOBS[asked["kind"]](asked)), encoding="utf-8")
