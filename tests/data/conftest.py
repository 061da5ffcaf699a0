"""Tokenizers: the embedded model's, and small ones that have just a template's tokens."""

from collections.abc import Callable
from pathlib import Path

import pytest

from orpo_pipeline.data.chat_template import ChatFormat, load_chat_format

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
