"""What the task refuses before a training begins."""

from pathlib import Path

import pytest
from promoting import intended
from registries import make_registry

from orpo_pipeline.planning.overrides import refuse_what_cannot_be_registered
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.plan import ModelShape
from schemas.results import BaseModelRecord
from tasks.promotion import commit
from tasks.train import refuse_champion


def test_the_main_job_trains_adapters() -> None:
    refuse_what_cannot_be_registered(RunConfig())
    whole = RunConfig.model_validate({"training": {"method": "full"}})
    with pytest.raises(UserError, match="cannot evaluate or register a whole model"):
        refuse_what_cannot_be_registered(whole)
    head = RunConfig.model_validate({"lora": {"target_modules": ["q_proj", "lm_head"]}})
    with pytest.raises(UserError, match="target_modules names lm_head"):
        refuse_what_cannot_be_registered(head)


def test_a_deleted_alias_is_told_before_the_training(tmp_path: Path) -> None:
    shape = ModelShape(
        architecture="TinyForCausalLM", parameters=1, layers=1, hidden_size=1, vocab_size=1
    )
    base = BaseModelRecord(path=tmp_path, name="tiny", revision="0", shape=shape)
    store = make_registry(tmp_path)
    tracker = store.tracker()
    commit(tracker, intended(tracker, store.run_id, "1", "2"))
    client = tracker.client
    client.delete_registered_model_alias("tiny", "champion")
    with pytest.raises(UserError, match="Nobody has the alias champion of tiny"):
        refuse_champion(tracker, "adapter-9", base)
    client.delete_registered_model("tiny")  # somebody begins anew
    refuse_champion(tracker, "adapter-9", base)
