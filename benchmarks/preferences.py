"""UltraFeedback-like preference data, as many rows as wanted, from a seed.

python benchmarks/preferences.py --rows 1000000 --seed 1 OUT.jsonl

Like the real data (shared sample of UltraFeedback binarized, 1,200 rows): the columns; the lengths
of prompt, chosen and rejected in tokens (quantiles of the sample, their correlations, its long
tails: about a tenth of the pairs exceeds 1,024 tokens); characters a token; scores with 11 % ties;
how often there are lists, code and characters beyond ASCII; instructions that many prompts begin
with; the share of frequent and of rare words (see invented_text).
Unlike it: the sentences mean nothing, so that neither answer is better; there is no personal
data but what is planted; repetition is planted as well:

    near_prompt     2 %     an earlier row's prompt with a word more or less, other answers
    near_row        0.5 %   an earlier row, each of its texts so
    exact           0.2 %   an earlier row
    one of DEFECTS  0.5 %   each as often as the others

Rows come in chunks, each with its own random numbers: a longer file of the same seed begins with
the shorter one. Prints what was planted, as JSON.
"""

import argparse
import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from invented_text import BULLETS, CODE, HEADED, NUMBERED, PROSE, SNIPPET_WORDS, Layout, TextMaker

CHUNK = 1000  # rows that are made at once
REMEMBERED = 4096  # earlier rows that may be repeated
NEAR_PROMPT, NEAR_ROW, EXACT, DEFECTIVE = "near_prompt", "near_row", "exact", "defective"
PLANTED = {NEAR_PROMPT: 0.02, NEAR_ROW: 0.005, EXACT: 0.002, DEFECTIVE: 0.005}
TIES = 0.11

# SmolLM2 tokens of the sample's texts, at these shares of the rows.
SHARES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
TOKENS = {
    "prompt": (4, 7, 9, 12, 24, 84, 229, 466, 675, 1170, 2081),
    "chosen": (1, 2, 6, 17, 57, 210, 454, 658, 774, 1018, 1241),
    "rejected": (1, 2, 9, 20, 62, 194, 393, 578, 706, 939, 1097),
}
CORRELATIONS = ((1.0, -0.28, -0.17), (-0.28, 1.0, 0.54), (-0.17, 0.54, 1.0))  # of their logarithms
WORDS_PER_TOKEN = 0.605
STYLES = (PROSE, BULLETS, NUMBERED, HEADED, CODE)
STYLE_SHARES = {
    "prompt": (0.905, 0.035, 0.045, 0.01, 0.005),
    "answer": (0.34, 0.2, 0.23, 0.06, 0.17),
}
MOST_WORDS_TO_BE_PLAIN = 25  # shorter texts have no lists
SCORES = (
    (2, 0.01),
    (4, 0.02),
    (5, 0.03),
    (6, 0.06),
    (7, 0.11),
    (7.5, 0.15),
    (8, 0.23),
    (8.5, 0.39),
)
INSTRUCTED = 0.1
INSTRUCTIONS = (
    "In this task, you are given a sentence and a question about it. Answer the question.",
    "Answer the following question based on the passage below, and explain your reasoning.",
    "You will be given a definition of a task first, then some input of the task.",
    "Translate the following text into English. Keep the tone of the original.",
    "Write a detailed summary of the article below in three paragraphs.",
    "Please write a Python function for the problem described here:",
)


class Row(NamedTuple):
    """One pair with its scores."""

    prompt: str
    chosen: str
    rejected: str
    score_chosen: float
    score_rejected: float


def _line(row: Row) -> str:
    prompt, chosen, rejected = map(_encode, (row.prompt, row.chosen, row.rejected))
    identity = hashlib.sha512(row.prompt.encode()).hexdigest()
    question = f'{{"content": {prompt}, "role": "user"}}'
    answer = f'[{question}, {{"content": {chosen}, "role": "assistant"}}]'
    return (
        f'{{"prompt": {prompt}, "prompt_id": "{identity}", "chosen": {answer}, '
        f'"rejected": [{question}, {{"content": {rejected}, "role": "assistant"}}], '
        f'"messages": {answer}, '
        f'"score_chosen": {row.score_chosen}, "score_rejected": {row.score_rejected}}}'
    )


_encode = json.JSONEncoder(ensure_ascii=False).encode


# Each makes a line with one defect of a sound row. Those of UNREADABLE stop other readers.


def _changed(**changes: str) -> Callable[[Row], str]:
    """Formats of the row's own texts, by field."""

    def line(row: Row) -> str:
        texts: dict[str, Any] = {field: text.format(row=row) for field, text in changes.items()}
        return _line(row._replace(**texts))

    return line


def _key(row: Row) -> str:
    """Letters and digits that nobody else has, as an access key."""
    drawn = random.Random(row.prompt).choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", k=16)
    return _line(row._replace(prompt=f"{row.prompt}\nMy key is AKIA{''.join(drawn)}"))


def _inverted(row: Row) -> str:
    return _line(row._replace(score_chosen=row.score_rejected, score_rejected=row.score_chosen))


def _edited(edit: Callable[[dict[str, Any]], object]) -> Callable[[Row], str]:
    def line(row: Row) -> str:
        value = json.loads(_line(row))
        edit(value)
        return json.dumps(value, ensure_ascii=False)

    return line


READABLE: dict[str, Callable[[Row], str]] = {
    "empty_text": _changed(rejected=" "),
    "identical_answers": _changed(rejected="{row.chosen}"),
    "score_inverted": _inverted,
    "leaked_role_marker": _changed(chosen="{row.chosen}\n\nHuman: And then?"),
    "damaged_characters": _changed(rejected="{row.rejected} \ufffd\ufffd"),
    "characters_repaired": _changed(chosen="\u200b{row.chosen}"),
    "control_token_neutralised": _changed(chosen="{row.chosen} <|im_end|> is a token."),
    "personal_data_redacted": _changed(prompt="{row.prompt} Write to jo.doe@mail-host.org."),
    "secret": _key,
}
UNREADABLE: dict[str, Callable[[Row], str]] = {
    "broken_row": lambda row: _line(row)[: len(row.prompt) // 2 + 20],
    "missing_field": _edited(lambda value: value["chosen"][1].pop("content")),
    "wrong_type": _edited(lambda value: value["rejected"][1].update(content=7)),
    "wrong_roles": _edited(lambda value: value["chosen"][1].update(role="narrator")),
    "prompts_differ": _edited(lambda value: value["rejected"][0].update(content="Hello?")),
}
DEFECTS = READABLE | UNREADABLE
"""By the code that the gate gives them."""


def lines(rows: int, seed: int, readable: bool, planted: Counter[str]) -> Iterator[list[str]]:
    """Chunks of JSON lines; `planted` is counted up."""
    maker = TextMaker()
    earlier: list[Row] = []
    for chunk in range(math.ceil(rows / CHUNK)):
        rng = np.random.default_rng([seed, chunk])
        made = _rows(maker, rng)
        kinds = rng.choice(
            [*PLANTED, ""], CHUNK, p=[*PLANTED.values(), 1 - sum(PLANTED.values())]
        ).tolist()
        choice = random.Random(f"{seed} {chunk}")
        found = []
        for row, kind in zip(made[: rows - chunk * CHUNK], kinds, strict=False):
            found.append(
                _line(row) if not kind else _plant(kind, row, earlier, choice, readable, planted)
            )
            if not kind and _may_be_repeated(row):
                _remember(earlier, row, choice)
        yield found


def _may_be_repeated(row: Row) -> bool:
    """Whether a repetition of this row is found as one: it is kept, and long enough."""
    size = len(row.prompt) + max(len(row.chosen), len(row.rejected))
    shortest = min(len(row.prompt), len(row.chosen), len(row.rejected))
    return row.score_chosen > row.score_rejected and size < 3000 and shortest > 150


def _remember(earlier: list[Row], row: Row, choice: random.Random) -> None:
    if len(earlier) < REMEMBERED:
        earlier.append(row)
    elif choice.random() < 0.1:
        earlier[choice.randrange(REMEMBERED)] = row


def _plant(
    kind: str,
    row: Row,
    earlier: list[Row],
    choice: random.Random,
    readable: bool,
    planted: Counter[str],
) -> str:
    if not earlier:
        return _line(row)
    again = choice.choice(earlier)
    if kind == DEFECTIVE:
        kinds = READABLE if readable else DEFECTS
        kind = choice.choice(sorted(kinds))
        sound = row._replace(score_chosen=8.5, score_rejected=6.0)
        planted[kind] += 1
        return kinds[kind](sound)
    planted[kind] += 1
    if kind == NEAR_PROMPT:
        again = row._replace(prompt=_nearly(again.prompt, choice))
    elif kind == NEAR_ROW:
        prompt, chosen, rejected = (_nearly(text, choice) for text in again[:3])
        again = again._replace(prompt=prompt, chosen=chosen, rejected=rejected)
    return _line(again)


def _nearly(text: str, choice: random.Random) -> str:
    """The text with another beginning, another ending, or other white space."""
    changes = (f"{text} Thanks", f"Well, {text}", text.replace(". ", ".  ", 1).lower())
    return choice.choice(changes)


def _rows(maker: TextMaker, rng: np.random.Generator) -> list[Row]:
    """CHUNK rows as they come."""
    factor = np.linalg.cholesky(np.array(CORRELATIONS))
    normal = factor @ rng.standard_normal((3, CHUNK))
    # The normal distribution's quantile by its error function: numpy has none.
    shares = 0.5 * (1 + np.vectorize(math.erf)(normal / math.sqrt(2)))
    subject = rng.integers(0, 2**31, CHUNK)
    texts = []
    for (side, tokens), share in zip(TOKENS.items(), shares, strict=True):
        size = np.exp(np.interp(share, SHARES, np.log(tokens)))
        texts.append(maker.write(_layout(side, size, subject, rng), rng))
    prompts = texts[0]
    instructed = np.flatnonzero(rng.random(CHUNK) < INSTRUCTED).tolist()
    for place, which in zip(
        instructed, rng.integers(0, len(INSTRUCTIONS), len(instructed)).tolist(), strict=True
    ):
        prompts[place] = f"{INSTRUCTIONS[which]}\n\n{prompts[place]}"
    best, worst = _scores(rng)
    return [Row(*values) for values in zip(*texts, best, worst, strict=True)]


def _layout(side: str, tokens: np.ndarray, subject: np.ndarray, rng: np.random.Generator) -> Layout:
    prompt = side == "prompt"
    foreign = np.where(
        rng.random(CHUNK) < (0.03 if prompt else 0.008), rng.integers(1, 4, CHUNK), 0
    )
    words = tokens * WORDS_PER_TOKEN * np.where(foreign > 0, 0.4, 1.0)
    style = rng.choice(STYLES, CHUNK, p=STYLE_SHARES["prompt" if prompt else "answer"])
    style[(words < MOST_WORDS_TO_BE_PLAIN) | ((style == CODE) & (words < 2 * SNIPPET_WORDS))] = (
        PROSE
    )
    words -= np.where(style == CODE, SNIPPET_WORDS, 0)
    return Layout(
        words=np.maximum(1, np.rint(words)).astype(np.int64),
        subject=subject,
        style=style,
        typographic=rng.random(CHUNK) < (0.19 if prompt else 0.16),
        foreign=foreign,
    )


def _scores(rng: np.random.Generator) -> tuple[list[float], list[float]]:
    """Of the better and the other answer, in steps of a half."""
    values, shares = zip(*SCORES, strict=True)
    best = rng.choice(values, CHUNK, p=shares)
    margin = np.minimum(np.rint(rng.exponential(2.5, CHUNK) + 0.5) / 2 + 0.5, best - 1)
    worst = np.where(rng.random(CHUNK) < TIES, best, best - np.maximum(margin, 0.5))
    return best.tolist(), worst.tolist()


def write(path: Path, rows: int, seed: int, readable: bool = False) -> dict[str, int]:
    """Write `rows` JSON lines; what was planted, by kind.

    `readable`: only defects that no reader of JSON stumbles over.
    """
    planted: Counter[str] = Counter()
    with path.open("wb") as file:
        for chunk in lines(rows, seed, readable, planted):
            file.write("\n".join((*chunk, "")).encode())
    return dict(sorted(planted.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write UltraFeedback-like preference data.")
    parser.add_argument("out", type=Path, help="JSON lines.")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--readable", action="store_true", help="Only defects that no reader of JSON stumbles over."
    )
    given = parser.parse_args()
    print(json.dumps(write(given.out, given.rows, given.seed, given.readable)))


if __name__ == "__main__":
    main()
