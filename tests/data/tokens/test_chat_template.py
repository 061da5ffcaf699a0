"""Templates written out by hand, and the formats that cannot be trained on."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from token_pairs import make_pair, tokens_of, turns
from tokenizers import Tokenizer

from orpo_pipeline.data.tokens.chat_template import (
    ChatFormat,
    format_identity,
    load_chat_format,
    template_text,
)
from schemas.errors import UserError

SYSTEM = {"role": "system", "content": "Be brief."}
HI = {"role": "user", "content": "Hi!"}
HELLO = {"role": "assistant", "content": "Hello."}
BYE = {"role": "user", "content": "Bye?"}

MakeTokenizer = Callable[..., Path]


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
    request: pytest.FixtureRequest, named_formats: dict[str, ChatFormat]
) -> tuple[str, ChatFormat]:
    return request.param, named_formats[request.param]


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
    ids = tokens_of(pair, chat)
    assert chat.tokenizer.decode(ids.prompt) == RENDERED[name]
    space = " " if name == "mistral" else ""
    assert chat.tokenizer.decode(ids.chosen) == f"{space}Good bye.{END[name]}"
    assert chat.tokenizer.decode(ids.rejected) == f"{space}Go away.{END[name]}"


def test_without_a_system_turn_the_mistral_template_has_no_gap(mistral_like: Path) -> None:
    chat = load_chat_format(mistral_like, "mistral")
    assert chat.tokenizer.apply_chat_template([HI], tokenize=False) == "<s>[INST] Hi! [/INST]"


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
        pytest.param("{{ 1 | dictsort }}", id="attribute"),
        pytest.param("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", id="recursion"),
        pytest.param("{% for a in [1] %}" * 30 + "{% endfor %}" * 30, id="nesting"),
        pytest.param("{% include 'other' %}", id="other file"),
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


def test_a_templates_own_words_are_cut(mistral_like: Path, tmp_path: Path) -> None:
    path = tmp_path / "loud.jinja"
    path.write_text("{{ raise_exception('no' * 10000) }}")
    with pytest.raises(UserError) as raised:
        load_chat_format(mistral_like, str(path))
    assert len(raised.value.found) < 400


@pytest.mark.parametrize("text", ["[]", "{}", '{"version": "1.0"}', '{"model": {"type": "BPE"}}'])
def test_a_tokenizer_file_of_something_else(text: str, mistral_like: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(mistral_like, tmp_path / "odd")
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match="has no usable tokenizer"):
        load_chat_format(folder, "zephyr")


def test_the_end_of_turn_stands_behind_the_answer(
    make_tokenizer: MakeTokenizer, tmp_path: Path
) -> None:
    # Like gpt-oss: special tokens before an answer, a line end behind its last one.
    path = tmp_path / "channels.jinja"
    path.write_text(
        "{% for m in messages %}<|start|>{{ m['role'] }}"
        "{% if m['role'] == 'assistant' %}<|channel|>final{% endif %}"
        "<|message|>{{ m['content'] }}<|return|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
    )
    folder = make_tokenizer(("<|start|>", "<|channel|>", "<|message|>"), eos_token="<|return|>")
    chat = load_chat_format(folder, str(path))
    assert chat.tokenizer.convert_ids_to_tokens(chat.end_of_turn) == "<|return|>"
    ids = tokens_of(make_pair(), chat)
    assert chat.tokenizer.decode(ids.prompt + ids.chosen) == (
        "<|start|>user<|message|>Hi!<|return|>\n"
        "<|start|>assistant<|channel|>final<|message|>Hello.<|return|>"
    )


def test_the_default_of_several_templates_is_taken(mistral_like: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(mistral_like, tmp_path / "several")
    zephyr = template_text("zephyr")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    templates = [{"name": "tool_use", "template": "{{ tools }}"}]
    for default in ([], [{"name": "default", "template": zephyr}]):
        config["chat_template"] = templates + default
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        if default:
            assert load_chat_format(folder, None).tokenizer.chat_template == zephyr
        else:
            with pytest.raises(UserError, match="has no chat template"):
                load_chat_format(folder, None)


def test_control_tokens_are_special_or_written_by_the_template(
    make_tokenizer: MakeTokenizer, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    folder = make_tokenizer(eos_token="</s>")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<tool>", "<other>", "\n"])
    tokenizer.save_pretrained(folder)
    path = tmp_path / "tools.jinja"
    path.write_text(
        "{% for m in messages %}<tool>{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<tool>{% endif %}"
    )
    assert load_chat_format(folder, str(path)).control_tokens == ("</s>", "<tool>")


def test_the_plain_tokenizer_is_what_auto_tokenizer_loads(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    ours, auto = (
        load_chat_format(tiny_model, None).tokenizer,
        AutoTokenizer.from_pretrained(tiny_model),
    )
    assert type(ours) is type(auto)
    assert ours.backend_tokenizer.to_str() == auto.backend_tokenizer.to_str()
    assert ours.chat_template == auto.chat_template
    assert ours.special_tokens_map == auto.special_tokens_map


def test_loading_a_plain_tokenizer_leaves_torch_out(tiny_model: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from orpo_pipeline.data.tokens.chat_template import load_chat_format\n"
        f"load_chat_format(Path({str(tiny_model)!r}), None)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_template_that_asks_for_the_date_always_gets_the_same(
    mistral_like: Path, tmp_path: Path
) -> None:
    template = tmp_path / "dated.jinja"
    template.write_text(
        "{{ strftime_now('%d %b %Y %f') }}{% for m in messages %}{{ m['content'] }}{{ eos_token }}"
        "{% endfor %}"
    )
    chat = load_chat_format(mistral_like, str(template))
    rendered = [chat.tokenizer.apply_chat_template([HI], tokenize=False) for _ in range(2)]
    assert rendered == ["26 Jul 2024Hi!</s>"] * 2


def test_a_tokenizer_that_cuts_and_pads_is_loaded_without(
    mistral_like: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(mistral_like, tmp_path / "cutting")
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding()
    backend.save(str(folder / "tokenizer.json"))
    loaded = load_chat_format(folder, "zephyr").tokenizer.backend_tokenizer
    assert (loaded.truncation, loaded.padding) == (None, None)
