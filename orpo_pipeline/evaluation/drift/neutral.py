"""NLL on a fixed neutral text: what a model forgets of plain language while it learns to answer."""

import importlib.resources
from typing import Any


def neutral_paragraphs() -> list[str]:
    """The packaged paragraphs."""
    text = importlib.resources.files("orpo_pipeline.evaluation.drift") / "neutral.txt"
    return [part.strip() for part in text.read_text(encoding="utf-8").split("\n\n")]


def neutral_nll(model: Any, tokenizer: Any) -> list[tuple[float, int]]:
    """For each paragraph the sum of -log P(token | those before it), in nats, and its tokens.

    Without chat template. The first token counts only behind a beginning-of-text token, where the
    tokenizer sets one: nothing else predicts it.
    """
    import torch

    from orpo_pipeline.evaluation.scoring import token_logps

    sequences = [tokenizer(paragraph)["input_ids"] for paragraph in neutral_paragraphs()]
    with torch.inference_mode():
        logps = [token_logps(model, [sequence])[0] for sequence in sequences]
    return [(-float(part.double().sum()), len(part)) for part in logps]
