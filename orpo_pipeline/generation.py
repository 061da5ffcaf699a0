"""Greedy answers to prompts."""

from typing import Any

from orpo_pipeline.chat_template import ChatFormat


def answer_prompts(
    model: Any, chat: ChatFormat, prompts: list[list[int]], max_new_tokens: int
) -> list[str]:
    """The model's greedy answers, without special tokens; prompts are padded on the left.

    An answer ends with the turn that the chat template teaches, or with the tokenizer's own end of
    text: with a named template they can differ.
    """
    import torch

    tokenizer = chat.tokenizer
    ends = {chat.end_of_turn, tokenizer.eos_token_id} - {None}
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
            eos_token_id=sorted(ends),
        )
    texts: list[str] = tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
    return [text.strip() for text in texts]
