"""Rules that a pair must pass before it is tokenised: one small pure function each."""

import re
from collections.abc import Callable, Iterable

from orpo_pipeline.data.dialects import folded
from schemas.pairs import Conversation, Defect, DefectCode, Pair

RULES_VERSION = 1
"""Part of the dataset id: raise it when a rule's verdict on any row changes."""

Rule = Callable[[Pair], Defect | None]

# U+FFFD marks bytes lost in decoding; of the control characters only tab and line ends are text;
# bidi controls reorder what a reader sees; surrogates cannot be encoded at all.
DAMAGED = re.compile(
    "[\ufffd\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
ROLE_MARKER = re.compile(
    r"^[^\S\n]*(?:###\s*(?:Human|User|Assistant|Instruction|Response)\b|(?:Human|Assistant):)",
    re.MULTILINE,  # `\s*` at the start would run over empty lines, for minutes where there are many
)


def wrong_roles(pair: Pair) -> Defect | None:
    """At most one system turn, first; then user and assistant alternate; the user has the word."""
    roles = [message.role for message in pair.prompt]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    expected = [("user", "assistant")[i % 2] for i in range(len(turns))]
    if turns == expected and len(turns) % 2 == 1:
        return None
    return Defect(
        DefectCode.WRONG_ROLES,
        f"the prompt's turns are {', '.join(roles)}; it must alternate and end with the user",
    )


def answer_not_assistant(pair: Pair) -> Defect | None:
    """Each answer is exactly one assistant message."""
    for side, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        roles = [message.role for message in answer]
        if roles != ["assistant"]:
            return Defect(
                DefectCode.ANSWER_NOT_ASSISTANT,
                f"{side} is {', '.join(roles) or 'nothing'}, not one assistant message",
            )
    return None


def empty_text(pair: Pair) -> Defect | None:
    """Every message must show something: white space and zero-width characters do not."""
    for side, conversation in _sides(pair):
        if any(not _has_text(message.content) for message in conversation):
            return Defect(DefectCode.EMPTY_TEXT, f"{side} has a message without text")
    return None


def identical_answers(pair: Pair) -> Defect | None:
    """The answers must differ in more than case, white space and compatibility forms (NFKC)."""
    if _text(pair.chosen) == _text(pair.rejected):
        return Defect(DefectCode.IDENTICAL_ANSWERS, "chosen and rejected say the same")
    return None


def damaged_characters(pair: Pair) -> Defect | None:
    """No lost bytes, control, bidi-override or surrogate characters."""
    for side, conversation in _sides(pair):
        for message in conversation:
            found = DAMAGED.search(message.content)
            if found:
                code = f"U+{ord(found.group()):04X}"
                return Defect(DefectCode.DAMAGED_CHARACTERS, f"{side} contains {code}")
    return None


def leaked_role_marker(pair: Pair) -> Defect | None:
    """A chosen answer that plays the next turn teaches the model to do so."""
    found = ROLE_MARKER.search(pair.chosen[-1].content) if pair.chosen else None
    if found:
        return Defect(
            DefectCode.LEAKED_ROLE_MARKER,
            f"chosen contains the turn marker {found.group().strip()!r}",
        )
    return None


def score_not_higher(pair: Pair) -> Defect | None:
    """Where both answers are scored, chosen's score must be the higher one."""
    if pair.score_chosen is None or pair.score_rejected is None:
        return None
    if pair.score_chosen > pair.score_rejected:
        return None
    return Defect(
        DefectCode.SCORE_NOT_HIGHER,
        f"chosen scores {pair.score_chosen:g}, rejected {pair.score_rejected:g}",
    )


RULES: tuple[Rule, ...] = (
    answer_not_assistant,
    wrong_roles,
    empty_text,
    damaged_characters,
    identical_answers,
    leaked_role_marker,
    score_not_higher,
)


def first_defect(pair: Pair) -> Defect | None:
    """The first rule that the pair breaks."""
    return next((defect for rule in RULES if (defect := rule(pair))), None)


def find_contradictions(pairs: Iterable[tuple[str, Pair]]) -> set[int]:
    """Indices of pairs that prefer A over B where another pair of the prompt prefers B over A.

    `pairs` are (prompt id, pair). Both sides go: nothing says which of the two is right.
    """
    places: dict[tuple[str, str, str], list[int]] = {}
    for index, (prompt, pair) in enumerate(pairs):
        places.setdefault((prompt, _text(pair.chosen), _text(pair.rejected)), []).append(index)
    contradicting: set[int] = set()
    for (prompt, chosen, rejected), indices in places.items():
        if (prompt, rejected, chosen) in places:
            contradicting.update(indices)
    return contradicting


def _sides(pair: Pair) -> tuple[tuple[str, Conversation], ...]:
    return (("prompt", pair.prompt), ("chosen", pair.chosen), ("rejected", pair.rejected))


def _has_text(content: str) -> bool:
    return any(character.isprintable() and not character.isspace() for character in content)


def _text(answer: Conversation) -> str:
    return folded(answer[-1].content) if answer else ""
