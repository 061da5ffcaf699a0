"""Formats: asked for or not, kept or not."""

import pytest

from orpo_pipeline.evaluation.answers.formats import keeps_format

TWO = "It is hot. It is far away."
CODE = "Here:\n```python\nprint(1)\n```\n"


@pytest.mark.parametrize(
    ("prompt", "answer", "kept"),
    [
        ("What is the sun?", TWO, None),
        ("Use 'albeit' in a sentence and tell me what it means", TWO, None),
        ("Which words in this sentence are adverbs?", TWO, None),
        ("What is JSON?", "A format.", None),
        ("Give me the answer as JSON.", '{"a": 1}', True),
        ("Return only JSON please", '```json\n{"a": 1}\n```', True),
        ("Answer in JSON", "Sure! {a: 1}", False),
        ("Answer in JSON", "[" * 2000, False),
        ("Put it in a code block.", CODE, True),
        ("Put it in a code block.", CODE + "```", False),
        ("Put it in a code block.", "print(1)", False),
        ("Give three bullet points", "- a\n- b\n* c", True),
        ("Give three bullet points", "- a\n- b", False),
        ("Write a numbered list of 2", "1. a\n2) b", True),
        ("What is the sun, in two sentences?", TWO, True),
        ("What is the sun, in 1 sentence?", TWO, False),
        ("explain DNS to my 12 year old in 2-3 sentences", TWO, True),
        ("what caused it, about three sentences", TWO, True),
        ("what caused it, about four sentences", TWO, False),
        ("Write a two-sentence apology", "Mr. Ray is sorry. So are we!", True),
        ("Summarise in one sentence: a b c", "", False),
        ("In at most 5 words, why?", "Because it is so far", True),
        ("In at most 5 words, why?", "Because it is very far away", False),
        ("Why? 3 words or fewer", "No idea", True),
        ("In one sentence and as JSON", '{"a": "b."}', True),
        ("In one sentence and as JSON", "It is so.", False),
    ],
)
def test_formats(prompt: str, answer: str, kept: bool | None) -> None:
    assert keeps_format(prompt, answer) is kept
