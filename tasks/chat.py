"""The models of a chat: the base model in memory once, versions' adapters brought when named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from orpo_pipeline.base_model import resolve_base_model
from orpo_pipeline.data.tokens.chat_template import load_chat_format
from orpo_pipeline.evaluation.generation import stop_token_ids
from orpo_pipeline.inference.answers import Voice
from orpo_pipeline.inference.loading import BASE, LoadedModels, load_base, load_tokenizer
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.serving import ServingSettings
from tasks.tracking_models import registry
from tasks.versions import fetch_version, find_version

Notify = Callable[[str], None]


class ChatModels:
    """Finds by `base`, alias or version number who is to answer, and loads what is missing.

    Args:
        config: names the registered model, and the base model where no version is named first.
        scratch: an empty folder for the versions' files; the caller removes it.
        notify: gets a sentence before each slow step.
    """

    def __init__(self, config: RunConfig, home: Path, scratch: Path, notify: Notify) -> None:
        self.config, self.home, self.scratch, self.notify = config, home, scratch, notify
        self.loaded: LoadedModels | None = None
        self.tokenizers: dict[str, tuple[Any, tuple[int, ...]]] = {}

    def load(self, names: list[str]) -> list[str]:
        """Who answers to each name: `base` or a version number.

        Versions come before the base model, which then takes their template and precision.
        """
        numbers = {name: self._load_version(name) for name in names if name != BASE}
        if BASE in names and self.loaded is None:
            self._load_base_alone()
        return [numbers.get(name, BASE) for name in names]

    def voice(self, who: str) -> Voice:
        """The model with the tokenizer of who answers; use it inside `speaking_as`."""
        assert self.loaded is not None
        first = next(iter(self.tokenizers.values()))
        tokenizer, stops = self.tokenizers.get(who, first)
        return Voice(self.loaded.model, tokenizer, stops)

    def speaking_as(self, who: str) -> Any:
        """The model answers as `who` while the block runs."""
        assert self.loaded is not None
        return self.loaded.speaking_as(who)

    def _load_version(self, name: str) -> str:
        with registry(self.config.registry, self.home) as tracker:
            version = find_version(tracker, name)
            if self.loaded is not None and version.number in self.loaded.adapters:
                return version.number
            self.notify(f"fetching {version.label}")
            folder, settings = fetch_version(tracker, version, self.scratch)
        loaded = self.loaded
        if loaded is None or not (loaded.adapters or loaded.settings.memory == settings.memory):
            # A base model that was loaded alone may be in another precision than versions have.
            self.tokenizers.clear()
            self.notify(f"loading {settings.base_name}")
            base = load_base(settings, self.home, self.notify)
            loaded = self.loaded = LoadedModels(settings, base)
        loaded.add(version.number, folder, settings)
        self.tokenizers[version.number] = load_tokenizer(folder), settings.stop_token_ids
        return version.number

    def _load_base_alone(self) -> None:
        """The configured base model, in bf16, with its own template."""
        base = resolve_base_model(self.config.model, self.home, self.notify)
        chat = load_chat_format(base.path, self.config.chat.template)
        settings = ServingSettings(
            base_model=str(base.path),
            base_is_local=True,
            base_name=base.name,
            base_revision=base.revision,
            stop_token_ids=tuple(stop_token_ids(chat)),
            dtype="bfloat16",
            quantization="none",
        )
        self.notify(f"loading {base.name}")
        self.loaded = LoadedModels(settings, load_base(settings, self.home, self.notify))
        self.tokenizers[BASE] = chat.tokenizer, settings.stop_token_ids


def require_different(names: list[str], who: list[str]) -> None:
    """Raise UserError when two of the names are one model.

    Args:
        names: as somebody typed them.
        who: the same as `base` or version numbers; the names again where that is not known yet.
    """
    if len(set(who)) < len(who):
        raise UserError(
            f"Two of {', '.join(names)} are the same model.",
            "different models to compare.",
            "Name each once, for example --compare base,champion.",
        )
