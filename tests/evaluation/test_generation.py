"""Sampled answers: seeded, different from draw to draw, and when an answer has ended."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from orpo_pipeline.data.tokens.chat_template import ChatFormat, load_chat_format
from orpo_pipeline.evaluation.generation import Decoding, generate_answers

PROMPTS = [[1, 500, 600, 700], [1, 40], [1, 7, 8]]


@pytest.fixture(scope="module")
def chat(tiny_model: Path) -> ChatFormat:
    return load_chat_format(tiny_model, None)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


def test_a_draw_gives_the_same_answers_again_and_another_draw_others(
    model: Any, chat: ChatFormat
) -> None:
    first = generate_answers(model, chat, PROMPTS, Decoding(6, draw=1))
    torch.manual_seed(99)  # what was drawn before does not count
    assert generate_answers(model, chat, PROMPTS, Decoding(6, draw=1)) == first
    assert generate_answers(model, chat, PROMPTS, Decoding(6, draw=2)) != first


def test_sampling_leaves_the_random_numbers_of_others_alone(model: Any, chat: ChatFormat) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    generate_answers(model, chat, PROMPTS, Decoding(2, draw=1))
    assert torch.equal(torch.rand(3), expected)


def test_small_batches_keep_the_order(model: Any, chat: ChatFormat) -> None:
    seen: list[int] = []
    together = generate_answers(model, chat, PROMPTS, Decoding(4))
    one_by_one = generate_answers(model, chat, PROMPTS, Decoding(4, batch_size=1), seen.append)
    assert one_by_one == together and seen == [1, 2, 3]
    assert generate_answers(model, chat, [], Decoding(4)) == []


def test_an_answer_ends_by_itself_or_at_the_limit(model: Any, chat: ChatFormat) -> None:
    (open_end,) = generate_answers(model, chat, [PROMPTS[0]], Decoding(4))
    assert (open_end.tokens, open_end.ended) == (4, False)
    # The token that it gives first now ends a turn.
    first = chat.tokenizer(open_end.text, add_special_tokens=False)["input_ids"][0]
    (ended,) = generate_answers(model, replace(chat, end_of_turn=first), [PROMPTS[0]], Decoding(4))
    assert (ended.tokens, ended.ended) == (1, True)
