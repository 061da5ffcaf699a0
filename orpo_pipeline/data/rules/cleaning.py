"""Changes to a pair's texts before it is judged: repaired characters, replaced secrets and data."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from orpo_pipeline.data.rules.characters import repair_characters
from orpo_pipeline.data.rules.glance import Glance
from orpo_pipeline.data.rules.personal import redact_personal_data
from orpo_pipeline.data.rules.secrets import redact_secrets
from orpo_pipeline.data.rules.text import conversations
from schemas.config import DataConfig
from schemas.pairs import Conversation, Defect, DefectCode, Message, Pair

Clean = Callable[[str], tuple[str, Counter[str]]]


class Cleaner(NamedTuple):
    """A change, and what is said about a pair that it changed."""

    code: DefectCode
    sentence: str
    clean: Clean


REPAIR = Cleaner(DefectCode.CHARACTERS_REPAIRED, "removed", repair_characters)
SECRETS = {
    "redact": Cleaner(DefectCode.SECRET_REDACTED, "replaced", redact_secrets),
    "quarantine": Cleaner(DefectCode.SECRET, "found", redact_secrets),
}
PERSONAL_DATA = {
    "redact": Cleaner(DefectCode.PERSONAL_DATA_REDACTED, "replaced", redact_personal_data),
    "quarantine": Cleaner(DefectCode.PERSONAL_DATA, "found", redact_personal_data),
}


def clean_pair(pair: Pair, data: DataConfig, seen: Glance) -> tuple[Pair, tuple[Defect, ...]]:
    """The pair without what was found, and one defect for each kind of change.

    A pair that is set aside for what it holds is cleaned as well: it is written down, and what it
    holds must not be.
    """
    cleaners = _cleaners(data, seen)
    if not cleaners:
        return pair, ()
    parts: dict[str, Conversation] = {}
    found: dict[DefectCode, list[str]] = {}
    for side, conversation in conversations(pair):
        counts: Counter[tuple[DefectCode, str]] = Counter()
        parts[side] = tuple(_clean_message(message, cleaners, counts) for message in conversation)
        for (code, kind), count in counts.items():
            times = f" ({count})" if count > 1 else ""
            found.setdefault(code, []).append(f"{kind} in {side}{times}")
    if not found:
        return pair, ()
    defects = tuple(
        Defect(cleaner.code, f"{cleaner.sentence}: {', '.join(found[cleaner.code])}")
        for cleaner in cleaners
        if cleaner.code in found
    )
    return replace(pair, **parts), defects  # type: ignore[arg-type]


def _cleaners(data: DataConfig, seen: Glance) -> list[Cleaner]:
    cleaners = [REPAIR] if seen.odd_characters else []
    if seen.secrets and data.secrets != "keep":
        cleaners.append(SECRETS[data.secrets])
    if seen.personal_data and data.personal_data != "keep":
        cleaners.append(PERSONAL_DATA[data.personal_data])
    return cleaners


def _clean_message(
    message: Message, cleaners: list[Cleaner], counts: Counter[tuple[DefectCode, str]]
) -> Message:
    """Cleaned until nothing changes: what is taken out may uncover what stood beside it."""
    text, before = message.content, None
    while text != before:
        before = text
        for cleaner in cleaners:
            text, found = cleaner.clean(text)
            for kind, count in found.items():
                counts[cleaner.code, kind] += count
    return message if text == message.content else replace(message, content=text)
