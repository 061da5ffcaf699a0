"""A rank of a distributed training, for torchrun: `train_on_ranks.py JOB.json OUTPUT_FOLDER`.

Every rank writes its figures and its adapter; the trainer's checkpoints go to OUTPUT_FOLDER/work.
"""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import AutoTokenizer

from orpo_pipeline.training.engine import EngineRun
from orpo_pipeline.training.packed.engine import train_packed
from orpo_pipeline.training.qlora import load_trainable
from schemas.jobs import TrainJob


def main(job_file: Path, output: Path) -> None:
    job = TrainJob.model_validate_json(job_file.read_text(encoding="utf-8"))
    torch.distributed.init_process_group("gloo")
    if job.plan.sharding.value:
        # As on several GPUs, where accelerate refuses shares that it would have to wrap.
        Accelerator.multi_device = property(lambda _: True)
    torch.manual_seed(7)
    model = load_trainable(job.config, job.prepared.base_model, job.plan)
    points: list[tuple[int, int, dict[str, float]]] = []
    train_packed(
        EngineRun(
            model=model,
            tokenizer=AutoTokenizer.from_pretrained(job.prepared.path / "tokenizer"),
            pairs=job.prepared.path,
            training=job.config.training,
            plan=job.plan,
            work=output / "work",
            on_step=lambda *point: points.append(point),
            should_stop=lambda: False,
        )
    )
    rank = os.environ["RANK"]
    adapter = {n: p.detach() for n, p in model.named_parameters() if "lora_" in n}
    save_file(adapter, output / f"adapter-{rank}.safetensors")
    shares = {
        name: list(weight.to_local().shape)
        for name, weight in model.named_parameters()
        if isinstance(weight, DTensor)
    }
    found = {"ranks": torch.distributed.get_world_size(), "points": points, "shares": shares}
    (output / f"points-{rank}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
