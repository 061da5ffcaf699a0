"""Conversations that are written out as one text."""

import re
from typing import Any

from orpo_pipeline.data.dialects.dialect import Refusal
from orpo_pipeline.data.identity import nfc
from schemas.pairs import Conversation, DefectCode, Message

HUMAN = "\n\nHuman:"
_BEGINNING = re.compile(r"\s*(?:Human|Assistant):")
_TURN = re.compile(r"\n\n(Human|Assistant):")  # its literal beginning is what makes it quick
_TURN_CRLF = re.compile(r"\r?\n\r?\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant", "User": "user"}
# Written by NeMo-Aligner between the turns of a prompt; the first turn is the user's.
_EXTRA_ID_TURN = re.compile(r"\r?\n<extra_id_1>(User|Assistant)\r?\n")


def is_transcript(value: Any) -> bool:
    """Whether the value is text that begins with a turn."""
    return isinstance(value, str) and _BEGINNING.match(value) is not None


def read_transcript(text: str, field: str) -> Conversation:
    """The turns of a text such as `\\n\\nHuman: Hi\\n\\nAssistant: Hello`.

    Source: Anthropic's HH-RLHF. White space around a turn is layout. Empty where no turn begins.
    """
    turn = _TURN_CRLF if "\r\n" in text else _TURN
    # CSV readers may have trimmed the empty line before the first turn.
    parts = turn.split(f"\n\n{nfc(text).lstrip()}")
    if len(parts) == 1:
        return ()
    if parts[0].strip():
        raise Refusal(DefectCode.WRONG_TYPE, f"{field} has text before its first turn")
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return tuple(Message(_ROLES[role], content.strip()) for role, content in pairs)


def read_prompt(text: str, field: str) -> Conversation:
    """A prompt given as text: one user turn, or the transcript that it is.

    Nectar's and others' prompts are transcripts that end with the marker of the answer to come.
    """
    if not text.startswith(HUMAN):
        return (Message("user", nfc(text)),)
    turns = read_transcript(text, field)
    return turns[:-1] if turns[-1] == Message("assistant", "") else turns


def read_extra_id_prompt(text: str) -> Conversation:
    """A prompt whose later turns begin with `<extra_id_1>User` or `<extra_id_1>Assistant`.

    Source: HelpSteer2's data card.
    """
    parts = _EXTRA_ID_TURN.split(nfc(text))
    turns = [Message("user", parts[0])]
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    turns += [Message(_ROLES[role], content) for role, content in pairs]
    return tuple(turns)
