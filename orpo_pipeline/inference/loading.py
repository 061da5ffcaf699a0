"""A base model in memory once, and the adapters of several versions on it."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from orpo_pipeline.adapter_files import check_lora
from orpo_pipeline.base_model import EMBEDDED_SHA256, resolve_base_model
from orpo_pipeline.nf4 import compute_as_in_training, nf4_config
from schemas.config import ModelConfig
from schemas.errors import EnvironmentFault, UserError
from schemas.serving import ServingSettings

BASE_VARIABLE = "ORPO_BASE_MODEL"
BASE = "base"

Notify = Callable[[str], None]


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bars and no advice of the libraries while weights load."""
    from transformers.utils import logging as transformers_logging

    bars, verbosity = (
        transformers_logging.is_progress_bar_enabled(),
        transformers_logging.get_verbosity(),
    )
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of PEFT's use of transformers
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def find_base(settings: ServingSettings, home: Path, notify: Notify) -> tuple[str, str | None]:
    """What `from_pretrained` takes for the version's base model: folder or hub id, and revision.

    Raises EnvironmentFault when the base model comes from a folder that is not here.
    """
    named = os.environ.get(BASE_VARIABLE)
    for folder in (named, settings.base_model):
        if folder and Path(folder).is_dir():
            return folder, None
    if named or settings.base_is_local:
        if not named and settings.base_revision == EMBEDDED_SHA256:
            return str(resolve_base_model(ModelConfig(), home, notify).path), None
        raise EnvironmentFault(
            f"The base model {settings.base_name} (revision {settings.base_revision[:12]}) is not "
            f"at {named or settings.base_model}.",
            "the folder with the weights that the version was trained on.",
            f"Set {BASE_VARIABLE} to a folder with these weights.",
        )
    return settings.base_model, settings.base_revision


def load_base(settings: ServingSettings, home: Path, notify: Notify) -> Any:
    """The version's base model as it was evaluated: same dtype, same quantisation.

    Raises EnvironmentFault when it is not here and cannot be fetched.
    """
    import torch
    from transformers import AutoModelForCausalLM

    address, revision = find_base(settings, home, notify)
    dtype = getattr(torch, settings.dtype)
    try:
        with quiet_loading():
            model = AutoModelForCausalLM.from_pretrained(
                address,
                revision=revision,
                dtype=dtype,
                quantization_config=nf4_config(dtype) if settings.quantization == "nf4" else None,
                device_map={"": "cuda" if torch.cuda.is_available() else "cpu"},
                trust_remote_code=False,
                use_safetensors=True,
            )
    except OSError as error:
        raise EnvironmentFault(
            f"The base model {settings.base_name} cannot be loaded from {address}: {error}",
            f"its weights at revision {settings.base_revision}, in the hub cache or reachable.",
            f"Set {BASE_VARIABLE} to a folder with these weights, or give access to the hub.",
        ) from error
    return compute_as_in_training(model.requires_grad_(False)).eval()


def load_tokenizer(folder: str | Path, revision: str | None = None) -> Any:
    """The tokenizer of a version or a base model. Raises UserError without a chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision, trust_remote_code=False)
    if not tokenizer.chat_template:
        raise UserError(
            f"The tokenizer of {folder} has no chat template.",
            "a template that turns a conversation into text.",
            "Name a registered version, which has the template that it was trained with.",
        )
    return tokenizer


class LoadedModels:
    """One base model and any number of adapters on it, by the name of their version."""

    def __init__(self, settings: ServingSettings, base: Any) -> None:
        self.settings = settings
        self.model = base
        self.adapters: set[str] = set()

    def add(self, version: str, folder: Path, settings: ServingSettings) -> None:
        """Load a version's adapter. Raises UserError for one that is not of this base model."""
        from peft import PeftModel

        if settings.memory != self.settings.memory:
            loaded, other = (
                f"{s.base_name} (revision {s.base_revision[:12]}, {s.dtype}, {s.quantization})"
                for s in (self.settings, settings)
            )
            raise UserError(
                f"Version {version} is an adapter of {other}; {loaded} is loaded.",
                "versions of one base model, in one precision.",
                "Leave, and begin a chat with the other one.",
            )
        check_lora(folder, f"registered (version {version})")
        name = _adapter_name(version)
        try:
            with quiet_loading():
                if not self.adapters:
                    self.model = PeftModel.from_pretrained(self.model, folder, adapter_name=name)
                else:
                    self.model.load_adapter(folder, adapter_name=name)
        except (RuntimeError, ValueError) as error:  # shapes or layers of another model
            raise UserError(
                f"The adapter of version {version} does not load: {str(error)[:300]}",
                f"an undamaged adapter of {settings.base_name}.",
                "Train and register it again, or choose another version.",
            ) from error
        self.model.eval()
        self.adapters.add(version)

    def speaking_as(self, version: str) -> AbstractContextManager[Any]:
        """The model answers as this version, or as the base model, while the block runs."""
        if version != BASE:
            self.model.set_adapter(_adapter_name(version))
        elif self.adapters:
            disabled: AbstractContextManager[Any] = self.model.disable_adapter()
            return disabled
        return nullcontext()


def _adapter_name(version: str) -> str:
    return f"version_{version}"  # torch's module names take no dot, and a number alone misleads
