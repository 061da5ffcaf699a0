"""A state folder with registered versions whose weights nobody loads: quick to make."""

import json
from dataclasses import dataclass
from pathlib import Path

from rows import pair_row, write_rows

from orpo_pipeline.data.preparation import prepare
from orpo_pipeline.stages import file_sha256, new_stage
from schemas.config import RunConfig
from schemas.promotion import FixedPair
from schemas.results import PreparedData
from schemas.serving import ServingSettings
from tasks.home import mlflow_store
from tasks.tracking import Tracker
from tasks.versions import SERVING

WEIGHTS = "adapter_model.safetensors"
TEMPLATE = "chat_template.jinja"
SERVING_TEXT = ServingSettings(
    base_model="base",
    base_is_local=True,
    base_name="base",
    base_revision="r",
    stop_token_ids=(1,),
    dtype="float32",
    quantization="none",
).model_dump_json()


@dataclass(frozen=True)
class Site:
    """A state folder with versions, and the prepared data of the oldest and of the others."""

    home: Path
    config: RunConfig
    old: PreparedData
    new: PreparedData

    def tracker(self) -> Tracker:
        return Tracker(self.config.registry, self.home)

    def register(self, number: int, prepared: PreparedData, **more_tags: str) -> str:
        """A version with weights that nobody loads, its adapter and its evaluation."""
        tracker, adapter = self.tracker(), f"adapter-{number}"
        for folder in (f"adapters/{adapter}", f"evaluations/evaluation-{number}"):
            with new_stage(self.home / folder) as temporary:
                (temporary / WEIGHTS).write_bytes(bytes(10_000))
        run_id = tracker.open_run(adapter)
        tracker.client.set_tag(run_id, "orpo.recorded", f"evaluation-{number}")
        tracker.client.set_tag(run_id, "orpo.prepared_id", prepared.prepared_id)
        tracker.ensure_model("tiny")
        files = {WEIGHTS: self.home / "adapters" / adapter / WEIGHTS}
        texts = {
            SERVING: SERVING_TEXT,
            "README.md": "# Card",
            "adapter_config.json": json.dumps(adapter_config(self.config)),
            TEMPLATE: (prepared.path / "tokenizer" / TEMPLATE).read_text(),
        }
        uri, model_id = tracker.log_model(run_id, files, texts, ("torch",))
        tags = {
            "orpo.adapter_id": adapter,
            "orpo.prepared_id": prepared.prepared_id,
            "orpo.adapter_sha256": file_sha256(files[WEIGHTS]),
            "orpo.base_model": prepared.base_model.name,
            "orpo.base_revision": prepared.base_model.revision,
            **more_tags,
        }
        made = tracker.client.create_model_version(
            "tiny", uri, run_id=run_id, model_id=model_id, tags=tags
        )
        pair = a_pair().model_dump_json()
        tracker.client.log_text(run_id, pair, "promotion/fixed_pair.json")
        tracker.finish_run(run_id)
        return str(made.version)


def a_pair() -> FixedPair:
    logps = {"chosen_logp": -1.0, "rejected_logp": -2.0, "tolerance": 0.1}
    ids = {"prompt_ids": (1,), "chosen_ids": (2,), "rejected_ids": (3,)}
    return FixedPair.model_validate({"prompt": (), **ids, **logps})


def adapter_config(config: RunConfig) -> dict[str, object]:
    """What PEFT writes of the LoRA settings."""
    lora = config.lora
    return {
        "r": lora.r,
        "lora_alpha": lora.alpha,
        "target_modules": list(lora.target_modules),
        "use_dora": lora.use_dora,
        "use_rslora": lora.use_rslora,
    }


def make_site(folder: Path, tiny_model: Path, old: range, new: range) -> Site:
    """Prepared data of old and of new rows; no version yet."""
    home, source = folder / "home", folder / "pairs.jsonl"
    config = RunConfig.model_validate(
        {
            "data": {"source": str(source), "eval_fraction": 0.3},
            "chat": {"max_length": 128},
            "model": {"base_model": str(tiny_model)},
            "registry": {"model_name": "tiny", "tracking_uri": mlflow_store(home)},
            "retention": {"keep_versions": 1, "keep_looks": 1, "unfinished_days": 0},
        }
    )
    made = []
    for numbers in (old, new):
        write_rows(source, [pair_row(number) for number in numbers])
        made.append(prepare(config, home, lambda *_: None))
    return Site(home, config, *made)
