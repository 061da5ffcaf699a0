"""Promotion as a transaction: tested in a fresh process, written down, then the alias is moved.

Killed at any point, it leaves the old champion or the new one. What was written down and not
finished is finished by whoever comes next (`repair`).
"""

import getpass
import logging
import os
import socket
import uuid
from dataclasses import dataclass, field

from schemas.errors import UserError
from schemas.gate_decision import GateDecision
from schemas.promotion import Promotion, PromotionEntry, PromotionKind, PromotionState
from tasks.evidence import read_evidence, smoke_job
from tasks.promotion_history import append, last_counted, now_utc, read_history, set_state
from tasks.smoke_test import run_smoke_test
from tasks.tracking import Tracker
from tasks.version_tags import CHALLENGER, CHAMPION, PREVIOUS, PRUNED_TAG
from tasks.versions import (
    command_about,
    find_aliases,
    find_version,
    list_versions,
    read_aliases,
    require_unpruned,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromotionRequest:
    """Make `version` the champion in place of `champion`, and of nobody else."""

    kind: PromotionKind
    version: str
    champion: str | None
    """Who has the alias as far as the asker knows: what the version was compared with."""
    because: str
    alias: str | None = None
    """The version is loaded by this alias in its smoke test; None: by its number."""
    decision: GateDecision | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Of the entry in the history."""


def promote_version(tracker: Tracker, request: PromotionRequest) -> PromotionEntry:
    """Smoke-test the version and make it the champion; the old champion becomes `previous`.

    Raises UserError when the champion is not (or no longer) the expected one; what the smoke test
    raises when the version cannot be used. Then nothing has moved.
    """
    last = last_counted(repair(tracker))
    _require_champion(tracker, request.champion)
    evidence = read_evidence(tracker, request.version)
    tested = run_smoke_test(smoke_job(tracker, evidence, request.alias))
    promotion = Promotion(
        id=request.id,
        follows=last.number if last else 0,
        model_name=tracker.config.model_name,
        kind=request.kind,
        from_version=request.champion,
        to_version=request.version,
        who=who_asks(),
        when=now_utc(),
        because=request.because,
        decision=request.decision or evidence.decision,
        run_id=evidence.run_id,
        dataset_id=evidence.dataset_id,
        smoke_test=tested,
    )
    return commit(tracker, promotion)


def commit(tracker: Tracker, promotion: Promotion) -> PromotionEntry:
    """Write the promotion down, and move the aliases unless another one was first."""
    _require_champion(tracker, promotion.from_version)
    entry = append(tracker, promotion)
    if entry.state is PromotionState.OVERTAKEN:
        set_state(tracker, entry, PromotionState.OVERTAKEN)
        raise _moved(tracker, promotion.from_version)
    finished = finish(tracker, entry)
    if finished.state is PromotionState.ABANDONED:
        require_unpruned(find_version(tracker, promotion.to_version))
        raise _moved(tracker, promotion.from_version)
    return finished


def finish(tracker: Tracker, entry: PromotionEntry) -> PromotionEntry:
    """Move the aliases of a promotion that is written down. Doing it twice changes nothing.

    Abandoned when the champion is a third version by now, or the new one was deleted or pruned.
    """
    client, name, promotion = tracker.client, tracker.config.model_name, entry.promotion
    aliases = read_aliases(tracker)
    there = list_versions(tracker)
    # Retention marks a version before it deletes weights and looks for promotions after that.
    versions = {version.number for version in there if PRUNED_TAG not in version.tags}
    expected = (promotion.from_version, promotion.to_version)
    if aliases.get(CHAMPION) not in expected or promotion.to_version not in versions:
        return set_state(tracker, entry, PromotionState.ABANDONED)
    client.set_registered_model_alias(name, CHAMPION, promotion.to_version)
    if promotion.from_version in versions:
        client.set_registered_model_alias(name, PREVIOUS, promotion.from_version)
    if aliases.get(CHALLENGER) == promotion.to_version:
        client.delete_registered_model_alias(name, CHALLENGER)
    return set_state(tracker, entry, PromotionState.COMPLETED)


def repair(tracker: Tracker) -> list[PromotionEntry]:
    """Finish what a killed process wrote down and did not finish; the history as it is then."""
    history = read_history(tracker)
    last = last_counted(history)
    if last is None or last.state is not PromotionState.INTENDED:
        return history
    finished = finish(tracker, last)
    log.warning(
        "promotion %d of %s, left unfinished by %s, is %s now",
        last.number,
        tracker.config.model_name,
        last.promotion.who,
        finished.state.value,
    )
    return [finished if entry.number == last.number else entry for entry in history]


def lost_champion(tracker: Tracker, history: list[PromotionEntry]) -> UserError | None:
    """The error when there was a champion and its alias is gone; None when all is well."""
    aliases = find_aliases(tracker)
    if aliases is None or CHAMPION in aliases:  # without the model there is nothing to lose
        return None
    moved = [e for e in history if e.state is PromotionState.COMPLETED]
    if not moved:
        return None
    name, version = tracker.config.model_name, moved[-1].promotion.to_version
    return UserError(
        f"Nobody has the alias {CHAMPION} of {name}: somebody deleted it. By the history it was "
        f"version {version}'s.",
        "a champion to compare with, once there has been one.",
        f"{command_about(name, f'promote {version} --because ...')} gives it back, or name another "
        "version.",
    )


def who_asks() -> str:
    """user@machine, for the history."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as containers have
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _require_champion(tracker: Tracker, expected: str | None) -> None:
    if read_aliases(tracker).get(CHAMPION) != expected:
        raise _moved(tracker, expected)


def _moved(tracker: Tracker, expected: str | None) -> UserError:
    """The alias is not what the comparison was made with, or is about to be another's."""
    name = tracker.config.model_name
    now = read_aliases(tracker).get(CHAMPION)
    last = last_counted(read_history(tracker))
    by = ""
    if last is not None and last.state is PromotionState.INTENDED:
        now = last.promotion.to_version  # written first; its alias may not have moved yet
    if last is not None and now == last.promotion.to_version:
        by = f" (promotion {last.number} by {last.promotion.who}, {last.promotion.when:%F %T} UTC)"
    return UserError(
        f"The champion of {name} is {_name(now)} now{by}, no longer {_name(expected)}, which this "
        "promotion was decided against.",
        "the same champion from the comparison to the move.",
        "Nothing was moved. Give the same command again: it compares with the champion of now.",
    )


def _name(version: str | None) -> str:
    return "nobody" if version is None else f"version {version}"
