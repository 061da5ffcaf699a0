"""Answers to prompts, greedy or sampled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from orpo_pipeline.data.tokens.chat_template import ChatFormat

BATCH = 8
"""Sequences computed at once where nothing else is said."""

TEMPERATURE, TOP_P = 0.7, 0.9
"""Of sampled answers: what chat services commonly use."""

SEED = 1729


@dataclass(frozen=True)
class Decoding:
    """How answers are generated."""

    max_new_tokens: int
    draw: int | None = None
    """Number of the sampled answer, which seeds it. None: greedy."""
    batch_size: int = BATCH
    """Prompts answered at once, those of similar length together."""


@dataclass(frozen=True)
class Answer:
    """One generated answer."""

    text: str
    """Without special tokens."""
    tokens: int
    """The end of turn included."""
    ended: bool
    """By itself, and not at the limit of tokens."""


def stop_token_ids(chat: ChatFormat) -> list[int]:
    """What ends an answer: the end of turn, and the tokenizer's own end of text.

    With a named template they can differ.
    """
    return sorted({chat.end_of_turn, chat.tokenizer.eos_token_id} - {None})


def answer_prompts(
    model: Any, chat: ChatFormat, prompts: list[list[int]], max_new_tokens: int
) -> list[str]:
    """The texts of the model's greedy answers."""
    decoding = Decoding(max_new_tokens)
    return [answer.text for answer in generate_answers(model, chat, prompts, decoding)]


def generate_answers(
    model: Any,
    chat: ChatFormat,
    prompts: Sequence[list[int]],
    decoding: Decoding,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Answer]:
    """One answer for each prompt, in their order.

    Args:
        model: a causal language model in eval mode.
        chat: the tokenizer and what ends a turn.
        prompts: token ids.
        decoding: how.
        progress: called with the number of answers that are done.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), decoding.batch_size):
        indices = order[start : start + decoding.batch_size]
        seed = None if decoding.draw is None else SEED + 100_003 * decoding.draw + start
        batch = [prompts[index] for index in indices]
        found = _answer_batch(model, chat, batch, decoding.max_new_tokens, seed)
        answers.update(zip(indices, found, strict=True))
        progress(len(answers))
    return [answers[index] for index in range(len(prompts))]


def _answer_batch(
    model: Any, chat: ChatFormat, prompts: list[list[int]], max_new_tokens: int, seed: int | None
) -> list[Answer]:
    """Prompts are padded on the left."""
    import torch

    tokenizer, stops = chat.tokenizer, stop_token_ids(chat)
    device = next(model.parameters()).device
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), tokenizer.pad_token_id)  # (B, L)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    # One rule for all models, whatever their own generation settings say.
    sampling: dict[str, Any] = {"do_sample": False}
    if seed is not None:
        sampling = {"do_sample": True, "temperature": TEMPERATURE, "top_p": TOP_P, "top_k": 0}
    devices = [device] if device.type == "cuda" else []
    with torch.inference_mode(), torch.random.fork_rng(devices):
        if seed is not None:
            torch.manual_seed(seed)
        output = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=max_new_tokens,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=stops,
            repetition_penalty=1.0,
            **sampling,
        )
    return [_cut(row, stops, tokenizer) for row in output[:, width:].tolist()]


def _cut(ids: list[int], stops: list[int], tokenizer: Any) -> Answer:
    """The answer up to its first stop token; what follows is padding."""
    end = next((place for place, token in enumerate(ids) if token in stops), None)
    kept = ids if end is None else ids[: end + 1]
    text = str(tokenizer.decode(kept, skip_special_tokens=True)).strip()
    return Answer(text=text, tokens=len(kept), ended=end is not None)
