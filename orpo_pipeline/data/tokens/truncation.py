"""What becomes of a pair that is longer than `chat.max_length`."""

import re
from collections.abc import Callable, Sequence

from schemas.config import ChatConfig
from schemas.pairs import Conversation, Defect, DefectCode, Message, Pair
from schemas.tokens import TokenizedPair

WORD = re.compile(r"\S+")

PromptIds = Callable[[Conversation], list[int] | None]
"""Token ids of a prompt, generation header included; None for one that the template refuses."""


def fit_pair(
    pair: Pair, tokens: TokenizedPair, settings: ChatConfig, prompt_ids: PromptIds
) -> tuple[TokenizedPair, Defect] | Defect:
    """The pair within `max_length` tokens with a note of what was cut, or the defect TOO_LONG.

    Never leaves a prompt without words or an answer without tokens, and never makes the answers
    equal.
    """
    found = f"{tokens.longest:,} tokens; chat.max_length is {settings.max_length:,}"
    if settings.too_long == "truncate_prompt_left":
        fitted = _cut_prompt(pair, tokens, settings.max_length, prompt_ids)
    elif settings.too_long == "truncate_answer":
        fitted = _cut_answers(tokens, settings.max_length)
    else:
        return Defect(DefectCode.TOO_LONG, found)
    if fitted is None or fitted.chosen == fitted.rejected:
        return Defect(DefectCode.TOO_LONG, f"{found}; {settings.too_long} leaves no usable pair")
    return fitted, Defect(DefectCode.TRUNCATED, f"{found}: {settings.too_long}")


def _cut_answers(tokens: TokenizedPair, max_length: int) -> TokenizedPair | None:
    """Both answers within the length. A cut one loses its end-of-turn token: it did not end."""
    room = max_length - len(tokens.prompt)
    if room < 1:
        return None
    return TokenizedPair(tokens.prompt, tokens.chosen[:room], tokens.rejected[:room])


def _cut_prompt(
    pair: Pair, tokens: TokenizedPair, max_length: int, prompt_ids: PromptIds
) -> TokenizedPair | None:
    """The oldest turns go first, then words of the last user turn, from the left."""
    room = max_length - max(len(tokens.chosen), len(tokens.rejected))
    system = pair.prompt[:1] if pair.prompt[0].role == "system" else ()
    turns = pair.prompt[len(system) :]
    # The turns alternate and the user has the last word: they go in twos, question and answer.
    starts = range(2, len(turns), 2)
    fitting = _first_that_fits(starts, room, lambda start: prompt_ids(system + turns[start:]))
    if fitting is None:
        role, text = turns[-1].role, turns[-1].content
        words = [word.start() for word in WORD.finditer(text)]
        fitting = _first_that_fits(
            words, room, lambda start: prompt_ids((*system, Message(role, text[start:])))
        )
    return TokenizedPair(fitting, tokens.chosen, tokens.rejected) if fitting else None


def _first_that_fits(
    starts: Sequence[int], room: int, ids_from: Callable[[int], list[int] | None]
) -> list[int] | None:
    """Ids from the first start whose ids fit, found by halving; None: not even the last one's."""
    best: list[int] | None = None
    first, behind = 0, len(starts)  # a later start is never more tokens, but for an odd one
    while first < behind:
        middle = (first + behind) // 2
        ids = ids_from(starts[middle])
        if ids is not None and len(ids) <= room:
            best, behind = ids, middle
        else:
            first = middle + 1
    return best
