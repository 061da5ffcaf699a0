"""Rules about what the messages say, each on a pair whose characters are repaired."""

import re

from orpo_pipeline.data.identity import folded
from schemas.pairs import Conversation, Defect, DefectCode, Pair

# Marks that Unicode counts as letters, symbols or combining marks and that show nothing: fillers,
# the Braille blank, joiners and variation selectors.
BLANK = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u2800\u3164\uffa0"
) | frozenset(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))

DAMAGE = (
    ("\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f", "a control character"),
    ("\ufffd", "the sign of bytes lost in decoding"),
    ("\u202a-\u202e\u2066-\u2069", "which reorders what a reader sees"),
    ("\ud800-\udfff", "half a surrogate pair"),
    (
        "\ue000-\uf8ff\U000f0000-\U000ffffd\U00100000-\U0010fffd",
        "private: no two fonts agree on it",
    ),
    ("\ufff9-\ufffc", "the place of something that is lost"),
    ("\U000e0000-\U000e007f", "hidden text"),
    ("\ufdd0-\ufdef\ufffe\uffff", "not a character"),
)
DAMAGED = re.compile("[" + "".join(characters for characters, _ in DAMAGE) + "]")
FLAG = re.compile("\U0001f3f4[\U000e0030-\U000e007a]{3,6}\U000e007f")
"""England, Scotland, Wales and other regions are spelt out in hidden letters after a black flag."""

ROLE_MARKER = re.compile(
    # A heading may begin with such a word: ### User interface.
    r"^[^\S\n]*(?:###\s*(?:Human|User|Assistant|Instruction|Response)(?=[^\S\n]*(?::|$))"
    r"|(?:Human|Assistant):)",
    re.MULTILINE,  # `\s*` at the start would run over empty lines, for minutes where there are many
)
ROLE_MARKER_HINTS = ("###", "Human:", "Assistant:")

BEGINNING = 100  # characters: answers that differ do so there, nearly always


def conversations(pair: Pair) -> tuple[tuple[str, Conversation], ...]:
    """Each part of the pair with its name."""
    return (("prompt", pair.prompt), ("chosen", pair.chosen), ("rejected", pair.rejected))


def empty_text(pair: Pair) -> Defect | None:
    """Every message must show something: white space and invisible characters do not."""
    for side, conversation in conversations(pair):
        for message in conversation:
            if not _shows_something(message.content):
                return Defect(DefectCode.EMPTY_TEXT, f"{side} has a message without text")
    return None


def _shows_something(content: str) -> bool:
    return any(c.isprintable() and not c.isspace() and c not in BLANK for c in content)


def damaged_characters(pair: Pair) -> Defect | None:
    """No lost bytes, control, bidi-override, private-use, hidden or surrogate characters."""
    for side, conversation in conversations(pair):
        for message in conversation:
            found = DAMAGED.search(message.content)
            if found and "\U000e0000" <= found.group() <= "\U000e007f":
                found = DAMAGED.search(FLAG.sub("", message.content))
            if found:
                return Defect(
                    DefectCode.DAMAGED_CHARACTERS, f"{side} contains {_described(found.group())}"
                )
    return None


def _described(character: str) -> str:
    what = next(what for characters, what in DAMAGE if re.match(f"[{characters}]", character))
    return f"U+{ord(character):04X}, {what}"


def leaked_role_marker(pair: Pair) -> Defect | None:
    """A chosen answer that plays the next turn teaches the model to do so."""
    text = pair.chosen[-1].content if pair.chosen else ""
    if not any(hint in text for hint in ROLE_MARKER_HINTS):
        return None
    found = ROLE_MARKER.search(text)
    if not found:
        return None
    return Defect(
        DefectCode.LEAKED_ROLE_MARKER,
        f"chosen contains the turn marker {found.group().strip()!r}",
    )


def folded_answers(pair: Pair) -> tuple[str, str] | None:
    """Both answers in the form in which texts count as the same (identity.folded).

    None where neither can begin the other, or where there are no two single answers. Then only the
    first words were folded: a space separates what is folded from what comes after it, so the
    beginning of a folded text is the folded beginning.
    """
    if len(pair.chosen) != 1 or len(pair.rejected) != 1:
        return None
    chosen, rejected = pair.chosen[0].content, pair.rejected[0].content
    if not _one_begins_the_other(folded(_beginning(chosen)), folded(_beginning(rejected))):
        return None
    return folded(chosen), folded(rejected)


def _beginning(text: str) -> str:
    end = text.find(" ", BEGINNING)
    return text if end < 0 else text[:end]


def _one_begins_the_other(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def identical_answers(answers: tuple[str, str] | None) -> Defect | None:
    """The folded answers must differ, in more than case, white space and compatibility forms."""
    if answers is None or answers[0] != answers[1]:
        return None
    return Defect(DefectCode.IDENTICAL_ANSWERS, "chosen and rejected say the same")


def answer_is_prefix(answers: tuple[str, str] | None) -> Defect | None:
    """Reported: a folded answer that is the other's beginning teaches its length, or a cut."""
    if answers is None or answers[0] == answers[1] or not _one_begins_the_other(*answers):
        return None
    short, whole = sorted(("chosen", "rejected"), key=lambda side: len(answers[side == "rejected"]))
    return Defect(DefectCode.ANSWER_IS_PREFIX, f"{short} is the beginning of {whole}")
