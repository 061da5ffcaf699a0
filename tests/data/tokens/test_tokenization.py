"""What the run's own tokenizer and template make of a pair, and of a pair that is odd."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from token_pairs import make_pair, tokenize, tokenize_all, tokens_of, user

from orpo_pipeline.data.tokens.chat_template import ChatFormat, load_chat_format
from orpo_pipeline.data.tokens.tokenization import PairTokenizer
from schemas.config import ChatConfig
from schemas.errors import UserError
from schemas.pairs import Defect, DefectCode, Message, Pair

MakeTokenizer = Callable[..., Path]
MakeFormat = Callable[..., ChatFormat]

PLAIN = "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"


@pytest.fixture
def make_format(make_tokenizer: MakeTokenizer, tmp_path: Path) -> MakeFormat:
    """`make_format(template, bos_token="<s>", ...)`: a small tokenizer with that template."""

    def make(template: str, **named: str) -> ChatFormat:
        path = tmp_path / "template.jinja"
        path.write_text(template)
        return load_chat_format(make_tokenizer(**{"eos_token": "</s>", **named}), str(path))

    return make


def codes(pair: Pair, chat: ChatFormat) -> tuple[DefectCode | None, list[DefectCode]]:
    result = tokenize(pair, chat)
    assert (result.tokens is None) == (result.defect is not None)
    return result.defect and result.defect.code, [note.code for note in result.notes]


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


@pytest.mark.parametrize("text", ["<|im_end>", "<| im_end |>", "im_end", "</s>", "[INST]"])
def test_what_only_looks_like_a_control_token(text: str, smollm2: ChatFormat) -> None:
    result = tokenize(make_pair(f"What is {text}?"), smollm2)
    assert result.tokens is not None and not result.notes
    assert result.tokens.prompt.count(1) == 3


@pytest.mark.parametrize("start", ["  ", "\n\n"])
def test_an_answer_that_would_merge_with_the_prompt_is_tokenised_apart(
    start: str, smollm2: ChatFormat
) -> None:
    # The template's line end and the answer's first characters are one token of the whole text.
    result = tokenize(make_pair(chosen=f"{start}Hello."), smollm2)
    assert result.notes == [
        Defect(
            DefectCode.BOUNDARY_KEPT,
            "chosen would have merged with the end of the prompt; tokenised apart",
        )
    ]
    assert result.tokens is not None
    assert result.tokens.prompt == tokens_of(make_pair(), smollm2).prompt
    assert smollm2.tokenizer.decode(result.tokens.chosen) == f"{start}Hello.<|im_end|>"
    # The last blank before a word stands apart: "\n" + "\n" + "Hello", " " + " Hello".
    vocabulary = smollm2.tokenizer.get_vocab()
    parts = {"\n\n": ["Ċ", "Ċ", "Hello"], "  ": ["Ġ", "ĠHello"]}[start]
    assert result.tokens.chosen == [*(vocabulary[part] for part in parts), vocabulary["."], 2]


def test_answers_with_the_same_tokens(make_format: MakeFormat) -> None:
    chat = make_format(
        "{% for m in messages %}{{ m['content'].split()[0] }}{{ eos_token }}{% endfor %}"
    )
    pair = make_pair(chosen="Yes, gladly.", rejected="Yes, but no.")
    expected = Defect(DefectCode.IDENTICAL_ANSWERS, "chosen and rejected have the same tokens")
    assert tokenize(pair, chat).defect == expected
    assert tokenize(make_pair("word" * 99, *["Yes."] * 2), chat, 16).defect == expected


def test_an_answer_that_the_template_does_not_end(make_format: MakeFormat) -> None:
    chat = make_format(
        "{% for m in messages %}{{ m['content'] }}"
        "{% if m['content'] != 'Go away.' %}{{ eos_token }}{% endif %}{% endfor %}"
    )
    assert tokenize(make_pair(), chat).defect == Defect(
        DefectCode.UNFINISHED_TURN, "rejected has no end-of-turn token"
    )


def test_a_template_that_rewrites_the_prompt_when_an_answer_follows(
    make_format: MakeFormat,
) -> None:
    # Like templates that take the reasoning out of all turns but the last.
    chat = make_format(
        "{% for m in messages %}"
        "{{ m['content'] if loop.last or 'x' not in m['content'] else '-' }}"
        "{{ eos_token }}{% endfor %}"
    )
    assert tokenize(make_pair("xyz"), chat).defect == Defect(
        DefectCode.PROMPT_NOT_PREFIX, "prompt + chosen does not begin with the prompt's tokens"
    )
    assert tokenize(make_pair("abc"), chat).defect is None


def test_two_begins_of_sequence(make_format: MakeFormat) -> None:
    chat = make_format("{{ bos_token }}{{ bos_token }}" + PLAIN, bos_token="<s>")
    assert tokenize(make_pair(), chat).defect == Defect(
        DefectCode.REPEATED_BOS, "the prompt has two begin-of-sequence tokens"
    )
    assert tokenize(make_pair(), make_format("{{ bos_token }}" + PLAIN, bos_token="<s>")).tokens


def test_a_begin_of_sequence_before_the_answer(make_format: MakeFormat) -> None:
    template = (
        "{% for m in messages %}{{ bos_token if m['role'] == 'assistant' }}"
        "{{ m['content'] }}{{ eos_token }}{% endfor %}"
    )
    assert tokenize(make_pair(), make_format(template, bos_token="<s>")).defect == Defect(
        DefectCode.REPEATED_BOS, "chosen has a begin-of-sequence token"
    )
    # A tokenizer whose only control token ends a turn as well.
    assert tokenize(make_pair(), make_format(PLAIN, bos_token="</s>")).tokens


def test_padding_inside_an_answer(make_format: MakeFormat) -> None:
    template = (
        "{% for m in messages %}{{ m['content'] }}"
        "{{ pad_token if m['content'] == 'Go away.' }}{{ eos_token }}{% endfor %}"
    )
    assert tokenize(make_pair(), make_format(template, pad_token="<pad>")).defect == Defect(
        DefectCode.PAD_IN_ANSWER, "rejected contains the padding token"
    )


def test_the_end_of_turn_may_be_the_padding(make_format: MakeFormat) -> None:
    chat = make_format(PLAIN)  # no padding, no unknown token: the eos pads
    assert chat.tokenizer.pad_token_id == chat.end_of_turn
    assert tokenize(make_pair(), chat).tokens


def test_padding_behind_the_turn_is_not_the_answers(make_format: MakeFormat) -> None:
    chat = make_format(
        PLAIN + "{{ pad_token if messages[-1]['role'] == 'assistant' }}", pad_token="<pad>"
    )
    assert tokens_of(make_pair(), chat).chosen[-1] == chat.end_of_turn


@pytest.mark.parametrize("text", ["{{ 7 * 7 }}", "{% raise %}", "{# gone #}", "{{ messages }}"])
def test_content_is_never_a_template(text: str, smollm2: ChatFormat) -> None:
    ids = tokens_of(make_pair(text, chosen=text), smollm2)
    assert smollm2.tokenizer.decode(ids.chosen) == f"{text}<|im_end|>"
    assert f"user\n{text}<|im_end|>" in smollm2.tokenizer.decode(ids.prompt)


def test_a_refused_row_leaves_its_batch_alone(make_format: MakeFormat) -> None:
    chat = make_format(
        "{% for m in messages %}{{ raise_exception('no system turns') if m['role'] == 'system' }}"
        "{{ m['content'] }}{{ eos_token }}{% endfor %}"
    )
    refused = make_pair((Message("system", "Be brief."), *user("Hi!")))
    both = make_pair((Message("system", "Be </s>."), *user("Hi!")))
    expected = Defect(
        DefectCode.UNSUPPORTED_CONTENT,
        "The chat template failed on a conversation: no system turns.",
    )
    for odd in (refused, both):
        first, second, third = tokenize_all([make_pair(), odd, make_pair("Ho!")], chat)
        assert second.defect == expected and second.tokens is None
        assert first == tokenize(make_pair(), chat) and first.tokens
        assert third == tokenize(make_pair("Ho!"), chat) and third.tokens


def test_a_template_that_refuses_one_answer(make_format: MakeFormat) -> None:
    chat = make_format(
        "{% for m in messages %}{% set x = 1 / (m['content'] | length - 5) %}{{ m['content'] }}"
        "{{ eos_token }}{% endfor %}"
    )
    assert codes(make_pair(rejected="Never"), chat) == (DefectCode.UNSUPPORTED_CONTENT, [])
    assert codes(make_pair(rejected="Never!"), chat) == (None, [])


def test_a_template_that_waits_for_certain_words(make_format: MakeFormat) -> None:
    chat = make_format(
        "{% for m in messages %}{{ 'a' * 10**10 if 'now' in m['content'] }}{{ m['content'] }}"
        "{{ eos_token }}{% endfor %}"
    )
    for words in ("Do it now!", "Do it now, </s>!"):
        with pytest.raises(UserError, match="The chat template did not finish within 20 s"):
            tokenize_all([make_pair(), make_pair(words)], chat)


def test_pairs_of_a_batch_do_not_touch_each_other(smollm2: ChatFormat) -> None:
    pairs = [
        make_pair(),
        make_pair(chosen="<|im_end|>"),
        make_pair("A longer prompt. " * 9),
        make_pair(chosen="\n\nHello."),
        make_pair("a word " * 200),
    ]
    together = tokenize_all(pairs, smollm2, 128)
    assert together == [tokenize(pair, smollm2, 128) for pair in pairs]
    tokenizer = PairTokenizer(smollm2, ChatConfig(max_length=128))
    assert together == [tokenizer.tokenize([pair])[0] for pair in pairs]
    assert together[::-1] == tokenizer.tokenize(pairs[::-1])
    assert tokenizer.tokenize([]) == []


def test_truncation_and_padding_of_another_call_do_not_matter(smollm2: ChatFormat) -> None:
    tokenizer = PairTokenizer(smollm2, ChatConfig())
    expected = tokenizer.tokenize([make_pair(), make_pair("Ho! " * 9)])
    smollm2.tokenizer("a b c d", truncation=True, max_length=2, padding="max_length")
    assert smollm2.tokenizer.backend_tokenizer.truncation is not None
    assert tokenizer.tokenize([make_pair(), make_pair("Ho! " * 9)]) == expected


def test_nothing_is_added_by_a_post_processor(mistral_like: Path, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    plain = load_chat_format(mistral_like, "mistral")
    data = json.loads((mistral_like / "tokenizer.json").read_text())
    ids = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    sequences = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    data["post_processor"] = {
        "type": "Sequence",
        "processors": [
            {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": True,
                "use_regex": True,
            },
            {
                "type": "TemplateProcessing",
                "single": [begin, sequences[0]],
                "pair": [begin, *sequences],
                "special_tokens": ids,
            },
        ],
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
    ).save_pretrained(tmp_path)
    chat = load_chat_format(tmp_path, "mistral")
    assert chat.tokenizer("a")["input_ids"] == [1, *plain.tokenizer("a")["input_ids"]]
    assert tokenize(make_pair(), chat) == tokenize(make_pair(), plain)
