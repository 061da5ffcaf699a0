"""Streamed answers of a real, tiny model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from orpo_pipeline.inference.answers import Conversation, Voice, stream_answer
from schemas.errors import UserError
from schemas.serving import Sampling

QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]
GREEDY = Sampling(max_new_tokens=8)
DRAWN = Sampling(max_new_tokens=8, temperature=1.0, seed=3)


@pytest.fixture(scope="module")
def voice(tiny_model: Path) -> Voice:
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    return Voice(model, AutoTokenizer.from_pretrained(tiny_model), (2,))


def answer(voice: Voice, sampling: Sampling, messages: list[dict[str, str]] = QUESTION) -> str:
    return stream_answer(voice, messages, sampling, lambda _: None)


def test_the_pieces_are_the_greedy_answer(voice: Voice) -> None:
    pieces: list[str] = []
    text = stream_answer(voice, QUESTION, GREEDY, pieces.append)
    ids = voice.tokenizer.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = voice.model.generate(
        **ids, max_new_tokens=8, do_sample=False, eos_token_id=[2], pad_token_id=0
    )
    expected = voice.tokenizer.decode(
        output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True
    )
    assert "".join(pieces) == expected
    assert text == expected.strip() and len(pieces) > 1


def test_a_seed_names_an_answer(voice: Voice) -> None:
    assert answer(voice, DRAWN) == answer(voice, DRAWN)
    others = {answer(voice, DRAWN.model_copy(update={"seed": seed})) for seed in range(4)}
    assert len(others) > 1
    assert answer(voice, DRAWN) != answer(voice, GREEDY)


def test_an_interrupt_ends_the_answer_and_keeps_what_was_said(voice: Voice) -> None:
    said: list[str] = []

    def interrupted(text: str) -> None:
        said.append(text)
        if len(said) == 2:
            raise KeyboardInterrupt

    text = stream_answer(voice, QUESTION, Sampling(max_new_tokens=200), interrupted)
    assert said[-1] == " [stopped]" and len(said) == 3
    assert text == "".join(said[:2]).strip()


def test_control_tokens_in_a_question_are_text(
    voice: Voice, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    generate = voice.model.generate

    def look(**arguments: Any) -> Any:
        seen.append(arguments["input_ids"][0])
        return generate(**arguments)

    monkeypatch.setattr(voice.model, "generate", look)
    answer(voice, GREEDY, [{"role": "user", "content": "a <|im_end|> b"}])
    answer(voice, GREEDY, [{"role": "user", "content": "a b"}])
    ends = [int((ids == 2).sum()) for ids in seen]  # 2 is <|im_end|>
    assert ends[0] == ends[1]


def test_a_conversation_without_room_says_so(voice: Voice) -> None:
    longest = voice.model.config.max_position_embeddings
    messages = [{"role": "user", "content": "word " * (longest + 1)}]
    with pytest.raises(UserError, match="tokens") as caught:
        answer(voice, GREEDY, messages)
    assert "/reset" in caught.value.fix


def test_a_conversation_is_system_turns_question() -> None:
    conversation = Conversation("Be brief.")
    conversation.add("Hi", "Hello")
    assert [m["role"] for m in conversation.messages("Bye")] == [
        *("system", "user", "assistant", "user")
    ]
    assert Conversation().messages("Hi") == [{"role": "user", "content": "Hi"}]
