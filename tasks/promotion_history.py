"""The history of promotions, kept in the registry itself; it also decides who comes first.

Promotion N of model NAME is version N of the registered model `NAME.promotions`. The registry gives
each version a number of its own in one database transaction, so whoever writes first is first, with
SQLite as with a server, and no lock can stay behind a killed process. An entry says which one it
follows: of two that follow the same, the lower number counts and the other moves nothing.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from schemas.errors import EnvironmentFault
from schemas.promotion import Promotion, PromotionEntry, PromotionState
from tasks.tracking import Tracker
from tasks.versions import all_pages

PROMOTION_TAG = "orpo.promotion"
STATE_TAG = "orpo.state"
COMPLETED_TAG = "orpo.completed"


def history_name(model_name: str) -> str:
    """The registered model that holds a model's promotions."""
    return f"{model_name}.promotions"


def read_history(tracker: Tracker) -> list[PromotionEntry]:
    """All promotions, oldest first; those that came too late are marked so."""
    versions = all_pages(tracker, f"name = '{history_name(tracker.config.model_name)}'")
    return mark_overtaken(sorted(map(_entry, versions), key=lambda entry: entry.number))


def mark_overtaken(entries: Sequence[PromotionEntry]) -> list[PromotionEntry]:
    """Follow the chain: an entry counts when it knew of the last one that counts.

    It may have known of a later one, which somebody has deleted since.
    """
    marked, last = [], 0
    for entry in entries:
        if entry.promotion.follows >= last:
            last = entry.number
            marked.append(entry)
        else:
            marked.append(entry.model_copy(update={"state": PromotionState.OVERTAKEN}))
    return marked


def last_counted(entries: Sequence[PromotionEntry]) -> PromotionEntry | None:
    """The newest entry that counts: the one to follow."""
    counted = [e for e in entries if e.state is not PromotionState.OVERTAKEN]
    return counted[-1] if counted else None


def append(tracker: Tracker, promotion: Promotion) -> PromotionEntry:
    """Write an intended promotion, and say whether it counts or was overtaken."""
    name = history_name(tracker.config.model_name)
    tracker.ensure_model(name)
    moved = f"from version {promotion.from_version or 'none'} to {promotion.to_version}"
    tracker.client.create_model_version(
        name,
        # A server takes no other address from a client; nothing is ever loaded from it.
        f"runs:/{promotion.run_id}/promotion",
        run_id=promotion.run_id,
        tags={
            PROMOTION_TAG: promotion.model_dump_json(),
            STATE_TAG: PromotionState.INTENDED.value,
        },
        description=f"{promotion.model_name} {moved}, {promotion.kind.value} by {promotion.who}: "
        f"{promotion.because}",
    )
    # By id: MLflow's client repeats a call whose reply was lost, and so may write it twice.
    own = [e for e in read_history(tracker) if e.promotion.id == promotion.id]
    counted = [e for e in own if e.state is not PromotionState.OVERTAKEN]
    return (counted or own)[0]


def set_state(tracker: Tracker, entry: PromotionEntry, state: PromotionState) -> PromotionEntry:
    """Record what became of a promotion."""
    name, number, now = history_name(tracker.config.model_name), str(entry.number), now_utc()
    tracker.client.set_model_version_tag(name, number, COMPLETED_TAG, now.isoformat())
    tracker.client.set_model_version_tag(name, number, STATE_TAG, state.value)
    return entry.model_copy(update={"state": state, "completed": now})


def now_utc() -> datetime:
    """This second."""
    return datetime.now(UTC).replace(microsecond=0)


def _entry(version: Any) -> PromotionEntry:
    completed = version.tags.get(COMPLETED_TAG)
    try:
        return PromotionEntry(
            number=int(version.version),
            promotion=Promotion.model_validate_json(version.tags[PROMOTION_TAG]),
            state=PromotionState(version.tags[STATE_TAG]),
            completed=datetime.fromisoformat(completed) if completed else None,
        )
    except (KeyError, ValueError) as error:
        raise EnvironmentFault(
            f"Promotion {version.version} in {version.name} cannot be read: {error!r}.",
            f"the tags {PROMOTION_TAG} and {STATE_TAG} as this project wrote them.",
            "Use the release that wrote it, or restore its tags; as a last resort delete that "
            "version of the history.",
        ) from error
