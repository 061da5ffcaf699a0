"""The ids that are put together from parts are those of the whole rendered text."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_pairs import make_pair

from orpo_pipeline.data.tokens.chat_template import ChatFormat, load_chat_format
from orpo_pipeline.data.tokens.tokenization import PairTokenizer, Tokenized
from schemas.config import ChatConfig
from schemas.pairs import Conversation, DefectCode, Message

FRAGMENTS = [
    *("<|im_end|>", "<|im_start|>", "<|endoftext|>", "</s>", "<s>", "<unk>", "<|eot_id|>"),
    *("<|im_", "end|>", "<|", "|>", "[INST]", " [/INST]", "<|user|>", "assistant\n", "system"),
    *(" ", "  ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "\u200b", "\ufeff", "\x00"),
    *("Hello", " there", "hello there", "'s", "I'm", "1", "12345", "3.14", ".", "...", "?!", "_"),
    *(
        "é",
        "e\u0301",
        "ﬁ",
        "\u0301",
        "\uff21",
        "ß",
        "İ",
        "你好",
        "日本語",
        "한국어",
        "שלום",
        "नमस्ते",
    ),
    *("👍", "👩\u200d👩\u200d👧", "🇩🇪", "👍🏽", "\ufe0f", "▁", "▁a", "Ġ", "Ċ", "<0x0A>", "{{ 1 }}"),
]
TEXTS = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=6)), max_size=8).map(
    "".join
)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    system = draw(st.lists(TEXTS, max_size=1))
    contents = draw(st.lists(TEXTS, min_size=1, max_size=5).filter(lambda texts: len(texts) % 2))
    roles = ["system"] * len(system) + [("user", "assistant")[i % 2] for i in range(len(contents))]
    return tuple(map(Message, roles, system + contents))


def metaspace_tokenizer(folder: Path, scheme: str) -> Path:
    """A BPE as sentencepiece makes them: "▁" for spaces, unknown characters as bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    control = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=control, show_progress=False)
    lines = ["hello there. I'm an assistant!\n\nHow  are you? <|user|> [INST]", "  a\n b", "\n\n1"]
    trained.train_from_iterator(lines * 9, trainer)
    data = json.loads(trained.to_str())
    vocabulary: dict[str, int] = data["model"]["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    data["model"]["byte_fallback"] = True
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def formats(
    named_formats: dict[str, ChatFormat],
    smollm2: ChatFormat,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, ChatFormat]:
    found = {**named_formats, "smollm2": smollm2}
    for scheme in ("first", "always", "never"):
        folder = metaspace_tokenizer(tmp_path_factory.mktemp("metaspace"), scheme)
        for template in ("zephyr", "mistral"):
            found[f"{scheme}-{template}"] = load_chat_format(folder, template)
    return found


@pytest.fixture(scope="session")
def pair_tokenizers(formats: dict[str, ChatFormat]) -> dict[str, PairTokenizer]:
    """One for all examples, so that what it remembers of one is there for the next."""
    return {
        name: PairTokenizer(chat, ChatConfig(max_length=10**6)) for name, chat in formats.items()
    }


METASPACE = [f"{s}-{t}" for s in ("first", "always", "never") for t in ("zephyr", "mistral")]
NAMES = ["smollm2", "chatml", "llama3", "mistral", "zephyr", *METASPACE]


def whole_ids(chat: ChatFormat, conversation: Conversation, generation: bool) -> list[int]:
    """What transformers makes of a whole conversation."""
    texts = "\0".join(message.content for message in conversation)
    ids: list[int] = chat.tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in conversation],
        tokenize=True,
        return_dict=False,
        add_generation_prompt=generation,
        sanitize_control_tokens=any(token in texts for token in chat.control_tokens),
    )
    return ids


def check(chat: ChatFormat, prompt: Conversation, answers: tuple[str, str], got: Tokenized) -> None:
    begin = whole_ids(chat, prompt, True)
    wholes = [whole_ids(chat, (*prompt, Message("assistant", text)), False) for text in answers]
    apart = [note.reason for note in got.notes if note.code is DefectCode.BOUNDARY_KEPT]
    if got.defect is not None:
        if got.defect.code is DefectCode.IDENTICAL_ANSWERS:
            assert wholes[0] == wholes[1]
        else:
            assert got.defect.code is DefectCode.PROMPT_NOT_PREFIX
            assert any(whole[: len(begin)] != begin for whole in wholes)
        return
    assert got.tokens is not None and got.tokens.prompt == begin
    sides = (("chosen", got.tokens.chosen), ("rejected", got.tokens.rejected))
    for (side, ids), whole in zip(sides, wholes, strict=True):
        assert ids[-1] == chat.end_of_turn
        if any(reason.startswith(side) for reason in apart):
            assert whole[: len(begin)] != begin
            end = len(whole) - whole[::-1].index(chat.end_of_turn)
            assert decode(chat, begin + ids) == decode(chat, whole[:end])
        else:
            assert begin + ids == whole[: len(begin + ids)]
            assert chat.end_of_turn not in whole[len(begin + ids) :]


def decode(chat: ChatFormat, ids: list[int]) -> str:
    return str(chat.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


@pytest.mark.parametrize("name", NAMES)
@given(prompt=conversations(), chosen=TEXTS, rejected=TEXTS)
@settings(max_examples=80, deadline=None)
def test_parts_and_whole(
    name: str,
    prompt: Conversation,
    chosen: str,
    rejected: str,
    formats: dict[str, ChatFormat],
    pair_tokenizers: dict[str, PairTokenizer],
) -> None:
    pair = make_pair(prompt, chosen, rejected)
    # The third of its batch, behind those that are compared with the whole in any case.
    *_, got = pair_tokenizers[name].tokenize([make_pair(), make_pair("Ho!"), pair])
    check(formats[name], prompt, (chosen, rejected), got)


@pytest.mark.parametrize("name", NAMES)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_the_backends_batch_gives_the_tokenizers_ids(
    name: str, texts: list[str], formats: dict[str, ChatFormat]
) -> None:
    tokenizer: Any = formats[name].tokenizer
    expected = tokenizer(texts, add_special_tokens=False)["input_ids"]
    fast = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    assert [encoding.ids for encoding in fast] == expected


@pytest.mark.parametrize("name", ["first-zephyr", "never-zephyr"])
def test_an_answer_apart_has_no_prefix_space(name: str, formats: dict[str, ChatFormat]) -> None:
    chat = formats[name]
    prompt = make_pair().prompt
    (got,) = PairTokenizer(chat, ChatConfig()).tokenize([make_pair(chosen="\nHello there")])
    check(chat, prompt, ("\nHello there", "Go away."), got)
    assert [note.code for note in got.notes] == [DefectCode.BOUNDARY_KEPT]
    assert got.tokens is not None
    (space,) = chat.tokenizer.convert_tokens_to_ids(["▁"])
    assert got.tokens.chosen[0] != space
    assert decode(chat, got.tokens.prompt + got.tokens.chosen).endswith(
        "<|assistant|>\n\nHello there</s>"
    )


@pytest.mark.parametrize("name", NAMES)
def test_where_texts_are_cut(name: str, formats: dict[str, ChatFormat]) -> None:
    chat = formats[name]
    tokenizer = PairTokenizer(chat, ChatConfig())
    (text,) = [chat.tokenizer.convert_ids_to_tokens(chat.end_of_turn)]
    # "first": only the sequence's own beginning gets a "▁", so a part by itself has one too many.
    assert tokenizer._may_cut_behind(text) is not name.startswith("first")


def test_not_behind_a_token_that_another_begins_with(make_tokenizer: Any) -> None:
    chat = load_chat_format(make_tokenizer(("</s>more",), eos_token="</s>"), "zephyr")
    assert not PairTokenizer(chat, ChatConfig())._may_cut_behind("</s>")


def test_not_behind_a_token_that_takes_the_blanks_behind_it(mistral_like: Path) -> None:
    from tokenizers import AddedToken

    chat = load_chat_format(mistral_like, "zephyr")
    chat.tokenizer.add_tokens([AddedToken("<stop>", rstrip=True, special=True)])
    tokenizer = PairTokenizer(chat, ChatConfig())
    assert not tokenizer._may_cut_behind("<stop>")
    assert tokenizer._may_cut_behind("</s>")
