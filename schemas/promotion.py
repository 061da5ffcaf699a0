"""Promotions: moves of the alias `champion`, as the history keeps them."""

from datetime import datetime
from enum import StrEnum

from schemas.gate_decision import GateDecision
from schemas.record import Record


class PromotionKind(StrEnum):
    """Who asked for it."""

    GATE = "gate"
    MANUAL = "manual"
    ROLLBACK = "rollback"


class PromotionState(StrEnum):
    """What became of it."""

    INTENDED = "intended"
    """Written, and its aliases are not all moved yet."""
    COMPLETED = "completed"
    ABANDONED = "abandoned"
    """Somebody moved the alias by hand, or deleted the version, before this one came to it."""
    OVERTAKEN = "overtaken"
    """Another promotion was written first; this one moved nothing."""


class FixedPair(Record):
    """One held-out pair with the log-probs that the evaluation gave it: what a copy must repeat."""

    prompt: tuple[dict[str, str], ...]
    """Messages: role and content."""
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    chosen_logp: float
    """Sum over the chosen answer's tokens, nats, by the candidate."""
    rejected_logp: float
    tolerance: float
    """Nats per token that rounding may cost in the version's precision."""


class SmokeJob(Record):
    """Parent to child: load this version as anybody would, and let it answer."""

    tracking_uri: str
    model_name: str
    version: str
    alias: str | None
    """Loaded by it, and it must be the version's; None: by number."""
    adapter_sha256: str
    base_model: str
    """Name and revision, for a person."""
    pair: FixedPair


class SmokeTest(Record):
    """A version that was loaded in a fresh process and has answered."""

    version: str
    answer: str
    difference: float
    """Largest difference from the evaluation's log-prob of the fixed pair's answers, nats a
    token."""


class Promotion(Record):
    """One intended move; written into the registry, as JSON, before anything moves."""

    id: str
    """Made by whoever asks for it: tells its own entry from the others."""
    follows: int
    """Number of the last promotion that it knew of; 0: none."""
    model_name: str
    kind: PromotionKind
    from_version: str | None
    to_version: str
    who: str
    when: datetime
    """UTC."""
    because: str
    decision: GateDecision | None
    """The gate's about `to_version`, with its numbers; None when it never decided on it."""
    run_id: str
    dataset_id: str | None
    smoke_test: SmokeTest


class PromotionEntry(Record):
    """A promotion in the history, in order of `number`."""

    number: int
    promotion: Promotion
    state: PromotionState
    completed: datetime | None = None


class PromotionResult(Record):
    """Output of `promote`: the gate's answer, and what was done about it."""

    decision: GateDecision | None
    """None when the version was not up for decision: it is the champion, or it was before."""
    promotion: PromotionEntry | None
    aliases: tuple[str, ...]
    """Of the candidate, after all."""
    because: str
