"""Tokenizers, and stages prepared with them."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from prepared import run
from rows import write_rows

from orpo_pipeline.data import checking, preparation
from orpo_pipeline.data.tokens.chat_template import ChatFormat, load_chat_format
from schemas.config import RunConfig
from schemas.results import PreparedData

MakeTokenizer = Callable[..., Path]


@pytest.fixture(scope="session")
def make_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> MakeTokenizer:
    """`make_tokenizer(bos_token="<s>", ...)`: a byte-level BPE without a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    def make(extra: tuple[str, ...] = (), **named: str) -> Path:
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=[*named.values(), *extra],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        bpe.train_from_iterator(["hello there"], trainer)
        folder = tmp_path_factory.mktemp("tokenizer")
        PreTrainedTokenizerFast(
            tokenizer_object=bpe, extra_special_tokens=list(extra), **named
        ).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def mistral_like(make_tokenizer: MakeTokenizer) -> Path:
    return make_tokenizer(unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def llama3_like(make_tokenizer: MakeTokenizer) -> Path:
    return make_tokenizer(
        ("<|start_header_id|>", "<|end_header_id|>"),
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
    )


@pytest.fixture(scope="session")
def smollm2(tiny_model: Path) -> ChatFormat:
    return load_chat_format(tiny_model, None)


@pytest.fixture(scope="session")
def named_formats(mistral_like: Path, llama3_like: Path, tiny_model: Path) -> dict[str, ChatFormat]:
    """Each named template with a tokenizer that has its tokens."""
    folders = {
        "chatml": tiny_model,
        "llama3": llama3_like,
        "mistral": mistral_like,
        "zephyr": mistral_like,
    }
    return {name: load_chat_format(folder, name) for name, folder in folders.items()}


@pytest.fixture(scope="session")
def load_once() -> Callable[[Path, str | None], ChatFormat]:
    """`load_chat_format` that reads a tokenizer once: every stage would take a second for it."""
    return cache(load_chat_format)


@pytest.fixture
def prepare_rows(
    tiny_config: Callable[..., RunConfig],
    tmp_path: Path,
    load_once: Callable[[Path, str | None], ChatFormat],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., PreparedData]:
    """Prepare these rows as one file; a row given as text is a line. The rest is DataConfig's."""
    monkeypatch.setattr(preparation, "load_chat_format", load_once)
    monkeypatch.setattr(checking, "load_chat_format", load_once)

    def make(
        rows: Sequence[Any] | None, name: str = "rows.jsonl", home: str = "home", **data: Any
    ) -> PreparedData:
        if rows is not None:
            data["source"] = str(write_rows(tmp_path / name, rows))
        chat = data.pop("chat", {})
        return run(tiny_config(data=data, chat=chat), tmp_path / home)

    return make
