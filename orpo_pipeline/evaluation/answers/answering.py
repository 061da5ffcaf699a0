"""Answers of one model to held-out prompts, and all models' answers side by side."""

from collections.abc import Callable, Sequence
from typing import Any

import polars as pl

from orpo_pipeline.data.tokens.chat_template import ChatFormat
from orpo_pipeline.evaluation.answers.measures import measure_answer
from orpo_pipeline.evaluation.generation import BATCH, Decoding, generate_answers
from schemas.evaluation_config import EvaluationConfig

QUANTITIES = ("tokens", "ended", "distinct_2", "repetition", "refused", "format")


def answer_all(
    model: Any,
    chat: ChatFormat,
    rows: pl.DataFrame,
    settings: EvaluationConfig,
    progress: Callable[[str], Callable[[int], None]],
) -> pl.DataFrame:
    """One row an answer, greedy ones first: number of the prompt, decoding, text, QUANTITIES.

    Args:
        model: the model whose turn it is.
        chat: the tokenizer and what ends a turn.
        rows: held-out prompts: prompt, prompt_ids.
        settings: `generations`, `samples`, `max_new_tokens`, `batch_size`.
        progress: of a decoding's name makes what is called with the number of answers done.
    """
    prompts: Sequence[list[int]] = rows["prompt_ids"].to_list()
    asked = [turns[-1]["content"] for turns in rows["prompt"]]
    found: list[dict[str, Any]] = []
    for draw in range(1 + settings.samples):
        name = f"sample {draw}" if draw else "greedy"
        batch_size = settings.batch_size or BATCH
        decoding = Decoding(settings.max_new_tokens, draw or None, batch_size)
        answers = generate_answers(model, chat, prompts, decoding, progress(name))
        found += [
            {
                "number": number,
                "decoding": name,
                "text": answer.text,
                **measure_answer(asked[number], answer.text, answer.tokens, answer.ended),
            }
            for number, answer in enumerate(answers)
        ]
    schema = {"number": pl.Int64, "decoding": pl.String, "text": pl.String}
    return pl.DataFrame(found, schema={**schema, **dict.fromkeys(QUANTITIES, pl.Float64)})


def side_by_side(rows: pl.DataFrame, answers: dict[str, pl.DataFrame]) -> list[dict[str, str]]:
    """A table for people: prompt, decoding, each model's answer, the data's chosen answer."""
    first = next(iter(answers.values()))
    prompts = [
        "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)
        for prompt in rows["prompt"]
    ]
    chosen = [answer[0]["content"] for answer in rows["chosen"]]
    return [
        {
            "prompt": prompts[number],
            "decoding": decoding,
            **{name: frame["text"][place] for name, frame in answers.items()},
            "chosen in the data": chosen[number],
        }
        for place, (number, decoding) in enumerate(first.select("number", "decoding").iter_rows())
    ]
