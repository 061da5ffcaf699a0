"""Adapters from outside: what is damaged or more than a LoRA is named, not loaded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from orpo_pipeline.adapter_files import CONFIG, WEIGHTS, check_adapter
from schemas.errors import UserError
from schemas.plan import ModelShape
from schemas.results import BaseModelRecord

REVISION = "a" * 40
SETTINGS: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 2,
    "target_modules": ["q_proj"],
    "bias": "none",
    "revision": REVISION,
    "base_model_name_or_path": "tiny",
}
PREFIX = "base_model.model.layers.0.q_proj"


def weights() -> dict[str, torch.Tensor]:
    return {
        f"{PREFIX}.lora_A.weight": torch.ones(2, 8),
        f"{PREFIX}.lora_B.weight": torch.ones(6, 2),
    }


@pytest.fixture
def base(tmp_path: Path) -> BaseModelRecord:
    shape = ModelShape.model_construct()
    return BaseModelRecord.model_construct(
        path=tmp_path, name="tiny", revision=REVISION, shape=shape
    )


def write(folder: Path, settings: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    (folder / CONFIG).write_text(json.dumps(settings))
    save_file(tensors, folder / WEIGHTS)
    return folder


def test_a_whole_adapter_passes(tmp_path: Path, base: BaseModelRecord) -> None:
    check_adapter(write(tmp_path, SETTINGS, weights()), "candidate", base)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"revision": "b" * 40}, "for revision bbbbbbbbbbbb of tiny, not for tiny"),
        ({"peft_type": "IA3"}, "describes no LoRA"),
        ({"target_modules": "(a+)+$"}, "describes no LoRA on listed modules"),
        ({"r": 0}, "its rank is 0"),
        ({"modules_to_save": ["lm_head"]}, "also sets modules_to_save"),
        ({"bias": "all"}, "also sets bias"),
        ({"r": 3}, r"has the shape \(2, 8\), and the rank is 3"),
    ],
)
def test_settings_that_are_refused(
    tmp_path: Path, base: BaseModelRecord, settings: dict[str, Any], words: str
) -> None:
    folder = write(tmp_path, {**SETTINGS, **settings}, weights())
    with pytest.raises(UserError, match=words):
        check_adapter(folder, "champion (version 3)", base)


def cut(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-10])


def no_config(folder: Path) -> None:
    (folder / CONFIG).unlink()


def no_json(folder: Path) -> None:
    (folder / CONFIG).write_text("{")


def not_finite(folder: Path) -> None:
    tensors = weights()
    tensors[f"{PREFIX}.lora_B.weight"][0, 0] = torch.nan
    save_file(tensors, folder / WEIGHTS)


def half(folder: Path) -> None:
    tensors = weights()
    del tensors[f"{PREFIX}.lora_B.weight"]
    save_file(tensors, folder / WEIGHTS)


def another_head(folder: Path) -> None:
    save_file({**weights(), "base_model.model.lm_head.weight": torch.ones(4, 8)}, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "safetensors cannot be read"),
        (no_config, "json cannot be read"),
        (no_json, "json cannot be read"),
        (not_finite, "q_proj.lora_B.weight holds NaN or infinite weights"),
        (half, "q_proj. weights are missing"),
        (another_head, "lm_head.weight', which is no part of a LoRA"),
    ],
)
def test_files_that_are_refused(
    tmp_path: Path, base: BaseModelRecord, damage: Callable[[Path], None], words: str
) -> None:
    damage(write(tmp_path, SETTINGS, weights()))
    with pytest.raises(UserError, match=words) as caught:
        check_adapter(tmp_path, "candidate", base)
    assert caught.value.exit_code == 2
