"""Greedy answers to prompts."""

from typing import Any

from orpo_pipeline.data.tokens.chat_template import ChatFormat


def stop_token_ids(chat: ChatFormat) -> list[int]:
    """What ends an answer: the end of turn, and the tokenizer's own end of text.

    With a named template they can differ.
    """
    return sorted({chat.end_of_turn, chat.tokenizer.eos_token_id} - {None})


def answer_prompts(
    model: Any, chat: ChatFormat, prompts: list[list[int]], max_new_tokens: int
) -> list[str]:
    """The model's greedy answers, without special tokens; prompts are padded on the left."""
    import torch

    tokenizer = chat.tokenizer
    device = next(model.parameters()).device
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), tokenizer.pad_token_id)  # (B, L)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=stop_token_ids(chat),
        )
    texts: list[str] = tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
    return [text.strip() for text in texts]
