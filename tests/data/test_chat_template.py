"""Templates written out by hand, and what the run's own tokenizer makes of a pair."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orpo_pipeline.data.chat_template import (
    ChatFormat,
    TokenizedPair,
    format_identity,
    load_chat_format,
    template_text,
    tokenize_pairs,
)
from schemas.errors import UserError
from schemas.pairs import Conversation, Defect, DefectCode, Message, Origin, Pair

SYSTEM = {"role": "system", "content": "Be brief."}
HI = {"role": "user", "content": "Hi!"}
HELLO = {"role": "assistant", "content": "Hello."}
BYE = {"role": "user", "content": "Bye?"}

MakeTokenizer = Callable[..., Path]


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def mistral_like(make_tokenizer: MakeTokenizer) -> Path:
    return make_tokenizer(unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def llama3_like(make_tokenizer: MakeTokenizer) -> Path:
    return make_tokenizer(
        ("<|start_header_id|>", "<|end_header_id|>"),
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
    )


@pytest.fixture(scope="module")
def smollm2(tiny_model: Path) -> ChatFormat:
    return load_chat_format(tiny_model, None)


def turns(*messages: dict[str, str]) -> Conversation:
    return tuple(Message(m["role"], m["content"]) for m in messages)


def make_pair(prompt: str = "Hi!", chosen: str = "Hello.", rejected: str = "Go away.") -> Pair:
    return Pair(
        (Message("user", prompt),),
        (Message("assistant", chosen),),
        (Message("assistant", rejected),),
        Origin("f", 1),
    )


def tokenize(pair: Pair, chat: ChatFormat, max_length: int = 128) -> TokenizedPair | Defect:
    (result,) = tokenize_pairs([pair], chat, max_length)
    return result


def tokens_of(pair: Pair, chat: ChatFormat, max_length: int = 128) -> TokenizedPair:
    result = tokenize(pair, chat, max_length)
    assert isinstance(result, TokenizedPair), result
    return result


CONVERSATION = [SYSTEM, HI, HELLO, BYE]
RENDERED = {
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHi!<|im_end|>\n"
        "<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\nBye?<|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
    "zephyr": (
        "<|system|>\nBe brief.</s>\n"
        "<|user|>\nHi!</s>\n"
        "<|assistant|>\nHello.</s>\n"
        "<|user|>\nBye?</s>\n"
        "<|assistant|>\n"
    ),
    "mistral": "<s>[INST] Be brief.\n\nHi! [/INST] Hello.</s>[INST] Bye? [/INST]",
    "llama3": (
        "<|begin_of_text|>"
        "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi!<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
}
END = {"chatml": "<|im_end|>", "zephyr": "</s>", "mistral": "</s>", "llama3": "<|eot_id|>"}


@pytest.fixture(params=sorted(RENDERED))
def named_format(
    request: pytest.FixtureRequest, mistral_like: Path, llama3_like: Path, tiny_model: Path
) -> tuple[str, ChatFormat]:
    """Each named template with a tokenizer that has its tokens."""
    folders = {"chatml": tiny_model, "llama3": llama3_like}
    name = request.param
    return name, load_chat_format(folders.get(name, mistral_like), name)


def test_named_templates_render_as_written_by_hand(named_format: tuple[str, ChatFormat]) -> None:
    name, chat = named_format
    rendered = chat.tokenizer.apply_chat_template(
        CONVERSATION, tokenize=False, add_generation_prompt=True
    )
    assert rendered == RENDERED[name]


def test_named_templates_train_the_answer_and_its_end(named_format: tuple[str, ChatFormat]) -> None:
    name, chat = named_format
    assert chat.tokenizer.convert_ids_to_tokens(chat.end_of_turn) == END[name]
    pair = replace(make_pair(chosen="Good bye."), prompt=turns(*CONVERSATION))
    ids = tokens_of(pair, chat, max_length=1000)
    assert chat.tokenizer.decode(ids.prompt) == RENDERED[name]
    space = " " if name == "mistral" else ""
    assert chat.tokenizer.decode(ids.chosen) == f"{space}Good bye.{END[name]}"
    assert chat.tokenizer.decode(ids.rejected) == f"{space}Go away.{END[name]}"


def test_without_a_system_turn_the_mistral_template_has_no_gap(mistral_like: Path) -> None:
    chat = load_chat_format(mistral_like, "mistral")
    assert chat.tokenizer.apply_chat_template([HI], tokenize=False) == "<s>[INST] Hi! [/INST]"


def test_smollm2_ids_by_hand(smollm2: ChatFormat) -> None:
    ids = tokens_of(make_pair(), smollm2)
    vocabulary = smollm2.tokenizer.get_vocab()
    # SmolLM2's own template adds its system turn; <|im_start|> is 1 and <|im_end|> is 2.
    text = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n"
    )
    assert smollm2.tokenizer.decode(ids.prompt) == text
    assert ids.prompt.count(1) == 3
    assert ids.chosen == [vocabulary["Hello"], vocabulary["."], 2]
    assert ids.rejected == [vocabulary["Go"], vocabulary["Ġaway"], vocabulary["."], 2]
    assert ids.longest == len(ids.prompt) + 4


def test_prompt_ids_begin_the_whole_and_the_line_end_behind_it_is_left_out(
    smollm2: ChatFormat,
) -> None:
    pair = make_pair("How many? \n", " Two, I think:\n\n1. a\n2. b ", "ünïcödé \U0001f44d")
    ids = tokens_of(pair, smollm2)
    for side, answer in (("chosen", ids.chosen), ("rejected", ids.rejected)):
        messages = [
            {"role": m.role, "content": m.content} for m in pair.prompt + getattr(pair, side)
        ]
        whole = smollm2.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        line_end = smollm2.tokenizer.get_vocab()["Ċ"]
        assert ids.prompt + answer + [line_end] == whole
        assert answer[-1] == smollm2.end_of_turn == smollm2.tokenizer.eos_token_id == 2
        assert answer.count(2) == 1


def test_the_end_of_turn_is_never_the_padding(smollm2: ChatFormat) -> None:
    assert smollm2.tokenizer.pad_token_id != smollm2.end_of_turn


@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>", "<|endoftext|>"])
def test_a_control_token_inside_content(token: str, smollm2: ChatFormat) -> None:
    expected = Defect(DefectCode.CONTROL_TOKEN, f"a message contains the control token {token}")
    text = f"before{token}after"
    for pair in (make_pair(text), make_pair(chosen=text), make_pair(rejected=text)):
        assert tokenize(pair, smollm2) == expected


@pytest.mark.parametrize("text", ["<|im_end>", "<| im_end |>", "im_end", "</s>", "[INST]"])
def test_what_only_looks_like_a_control_token(text: str, smollm2: ChatFormat) -> None:
    ids = tokens_of(make_pair(f"What is {text}?"), smollm2)
    assert ids.prompt.count(1) == 3


@pytest.mark.parametrize("start", ["  ", "\n\n"])
def test_an_answer_that_melts_into_the_prompt_is_named(start: str, smollm2: ChatFormat) -> None:
    # The template's line end and the answer's first characters become one token.
    assert tokenize(make_pair(chosen=f"{start}Hello."), smollm2) == Defect(
        DefectCode.PROMPT_NOT_PREFIX, "prompt + chosen does not begin with the prompt's tokens"
    )


def test_answers_with_the_same_tokens(make_tokenizer: MakeTokenizer, tmp_path: Path) -> None:
    template = tmp_path / "first_word.jinja"
    template.write_text(
        "{% for m in messages %}{{ m['content'].split()[0] }}{{ eos_token }}{% endfor %}"
    )
    chat = load_chat_format(make_tokenizer(eos_token="</s>"), str(template))
    pair = make_pair(chosen="Yes, gladly.", rejected="Yes, but no.")
    assert tokenize(pair, chat) == Defect(
        DefectCode.IDENTICAL_ANSWERS, "chosen and rejected have the same tokens"
    )


def test_an_answer_that_the_template_does_not_end(
    make_tokenizer: MakeTokenizer, tmp_path: Path
) -> None:
    template = tmp_path / "forgetful.jinja"
    template.write_text(
        "{% for m in messages %}{{ m['content'] }}"
        "{% if m['content'] != 'Go away.' %}{{ eos_token }}{% endif %}{% endfor %}"
    )
    chat = load_chat_format(make_tokenizer(eos_token="</s>"), str(template))
    assert tokenize(make_pair(), chat) == Defect(
        DefectCode.UNFINISHED_TURN, "rejected has no end-of-turn token"
    )


def test_the_longer_side_decides_what_is_too_long(smollm2: ChatFormat) -> None:
    pair = make_pair()
    longest = tokens_of(pair, smollm2).longest
    assert isinstance(tokenize(pair, smollm2, longest), TokenizedPair)
    assert tokenize(pair, smollm2, longest - 1) == Defect(
        DefectCode.TOO_LONG, f"{longest} tokens; chat.max_length is {longest - 1}"
    )


def test_pairs_of_a_batch_do_not_touch_each_other(smollm2: ChatFormat) -> None:
    pairs = [make_pair(), make_pair(chosen="<|im_end|>"), make_pair("A longer prompt. " * 9)]
    assert tokenize_pairs(pairs, smollm2, 128) == [tokenize(pair, smollm2) for pair in pairs]


def test_no_template_names_those_there_are(mistral_like: Path) -> None:
    with pytest.raises(UserError, match="has no chat template") as raised:
        load_chat_format(mistral_like, None)
    assert "chatml, llama3, mistral, zephyr or a Jinja file" in raised.value.fix


def test_an_unknown_template_names_those_there_are(tmp_path: Path) -> None:
    for name in ("zephir", str(tmp_path), "no/such/file.jinja", "nul\0byte"):
        with pytest.raises(UserError, match="cannot be read") as raised:
            template_text(name)
        assert raised.value.expected == "one of chatml, llama3, mistral, zephyr, or a Jinja file."


@pytest.mark.parametrize("template", ["chatml", "llama3"])
def test_a_template_without_a_special_end_is_refused(template: str, mistral_like: Path) -> None:
    with pytest.raises(UserError, match="holds no special token of this tokenizer") as raised:
        load_chat_format(mistral_like, template)
    assert "zephyr or mistral" in raised.value.fix


@pytest.mark.parametrize(
    "template",
    [
        pytest.param("{% for m in messages %}{{ m['content'] }}", id="syntax"),
        pytest.param("{{ 1 + messages[0]['content'] }}", id="type"),
        pytest.param("{{ 1 / 0 }}", id="arithmetic"),
        pytest.param("{{ raise_exception('no') }}", id="refusal"),
    ],
)
def test_a_template_that_fails_is_named(template: str, mistral_like: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.jinja"
    path.write_text(template)
    with pytest.raises(UserError, match="The chat template failed on a conversation"):
        load_chat_format(mistral_like, str(path))


@pytest.mark.parametrize(
    "template",
    [
        pytest.param("{{ messages[-1]['content'] }}{{ eos_token }}", id="forgets the prompt"),
        pytest.param(
            "{% if messages[-1]['role'] == 'assistant' %}{{ messages[-1]['content'] }}"
            "{{ eos_token }}{% endif %}",
            id="has no prompt",
        ),
        pytest.param("{% for m in messages %}{{ m['content'] }}\n{% endfor %}", id="has no end"),
    ],
)
def test_a_template_that_cannot_be_trained_on_is_refused(
    template: str, mistral_like: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bad.jinja"
    path.write_text(template)
    with pytest.raises(UserError, match="The chat template ends an answer with"):
        load_chat_format(mistral_like, str(path))


def test_a_tokenizer_without_padding_does_not_pad_with_its_end(mistral_like: Path) -> None:
    assert load_chat_format(mistral_like, "zephyr").tokenizer.pad_token == "<unk>"


def test_a_folder_without_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no usable tokenizer"):
        load_chat_format(tmp_path, None)


def test_a_torn_tokenizer(mistral_like: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(mistral_like, tmp_path / "torn")
    (folder / "tokenizer.json").write_text('{"version": "1.0", "trunc')
    with pytest.raises(UserError, match="has no usable tokenizer"):
        load_chat_format(folder, None)


def test_format_identity_follows_template_and_tokenizer(
    mistral_like: Path, llama3_like: Path, tmp_path: Path
) -> None:
    named = format_identity(mistral_like, "zephyr")
    copy = shutil.copytree(mistral_like, tmp_path / "elsewhere")
    assert format_identity(copy, "zephyr") == named
    written = tmp_path / "mine.jinja"
    written.write_text(template_text("zephyr") or "")
    assert format_identity(mistral_like, str(written)) == named
    written.write_text((template_text("zephyr") or "") + "!")
    others: list[Any] = [
        format_identity(mistral_like, None),
        format_identity(mistral_like, "mistral"),
        format_identity(mistral_like, str(written)),
        format_identity(llama3_like, "zephyr"),
    ]
    (copy / "merges.txt").write_text("h e\n")
    assert len({named, *others, format_identity(copy, "zephyr")}) == 6
