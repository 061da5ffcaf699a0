"""Formats that a prompt asks for and an answer keeps or not, checked exactly.

Verifiable instructions in the sense of IFEval (Zhou et al. 2023, arXiv 2311.07911): only what a
program can decide. A prompt that asks for none of them does not count.
"""

import json
import re
from collections.abc import Callable

NUMBERS = {
    **{"one": 1, "single": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6},
    **{"seven": 7, "eight": 8, "nine": 9, "ten": 10},
}
NUMBER = rf"(\d{{1,3}}|{'|'.join(NUMBERS)})"
RANGE = rf"{NUMBER}(?:\s*(?:-|\u2013|to|or)\s*{NUMBER})?"

JSON_ASKED = re.compile(r"\b(?:as|in|with|return|output|only|valid|give me)\s+(?:an?\s+)?json\b")
CODE_ASKED = re.compile(r"\bcode block\b|\bfenced code\b")
ITEMS_ASKED = re.compile(
    rf"\b{NUMBER}[ -](?:bullet points?|bullets|numbered (?:points|items|steps))\b"
    rf"|\b(?:numbered|bulleted|bullet) list of {NUMBER}\b"
)
SENTENCES_ASKED = re.compile(rf"(\babout\s+)?\b{RANGE}[ -](?:\w+ )?sentences?\b")
WORDS_ASKED = re.compile(
    rf"\b(?:at most|no more than|within|maximum(?: of)?|max)\s+{NUMBER}\s+words\b"
    rf"|\b{NUMBER}\s+words\s+(?:or (?:less|fewer)|at most|max(?:imum)?)\b"
)

FENCED = re.compile(r"```[^\n]*\n(.*?)```", re.DOTALL)
FENCE = re.compile(r"^\s*```", re.MULTILINE)
ITEM = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])\s+\S", re.MULTILINE)
SENTENCE_END = re.compile(r"[.!?]+(?=[\"')\]]*(?:\s|$))")
SHORT_FORM = re.compile(r"\b(?:e\.g|i\.e|mr|mrs|ms|dr|st|vs|etc|approx|no)\.", re.IGNORECASE)


def keeps_format(prompt: str, answer: str) -> bool | None:
    """Whether the answer keeps every format that the prompt asks for; None when there is none."""
    asked = prompt.lower()
    verdicts = [check(asked, answer) for check in CHECKS]
    decided = [verdict for verdict in verdicts if verdict is not None]
    return all(decided) if decided else None


def _json(asked: str, answer: str) -> bool | None:
    """The answer, or what stands in its first code block, is JSON."""
    if not JSON_ASKED.search(asked):
        return None
    fenced = FENCED.search(answer)
    try:
        json.loads(fenced.group(1) if fenced else answer)
    except (ValueError, RecursionError):
        return False
    return True


def _code_block(asked: str, answer: str) -> bool | None:
    """There is a code block, and every one of them is closed."""
    if not CODE_ASKED.search(asked):
        return None
    fences = len(FENCE.findall(answer))
    return fences > 0 and fences % 2 == 0


def _items(asked: str, answer: str) -> bool | None:
    """As many list items as were asked for."""
    found = ITEMS_ASKED.search(asked)
    if not found:
        return None
    return len(ITEM.findall(answer)) == _number(found.group(1) or found.group(2))


def _sentences(asked: str, answer: str) -> bool | None:
    """As many sentences as were asked for; "about" allows one more or less.

    "Use it in a sentence" asks for nothing that can be counted.
    """
    found = SENTENCES_ASKED.search(asked)
    if not found:
        return None
    about, low, high = found.groups()
    fewest, most = _number(low), _number(high or low)
    slack = 1 if about else 0
    count = len(SENTENCE_END.findall(SHORT_FORM.sub("", answer))) or bool(answer.strip())
    return fewest - slack <= count <= most + slack


def _words(asked: str, answer: str) -> bool | None:
    """Not more words than were allowed."""
    found = WORDS_ASKED.search(asked)
    if not found:
        return None
    return 0 < len(answer.split()) <= _number(found.group(1) or found.group(2))


def _number(text: str) -> int:
    return int(text) if text.isdigit() else NUMBERS[text]


CHECKS: tuple[Callable[[str, str], bool | None], ...] = (
    *(_json, _code_block, _items, _sentences, _words),
)
