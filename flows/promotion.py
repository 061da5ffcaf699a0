"""Promotion and rollback by hand, as flows: the same as `orpo-pipeline promote` and `rollback`."""

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from schemas.config import RegistryConfig
from schemas.promotion import PromotionEntry
from tasks.home import state_home
from tasks.promotion_requests import promote_by_hand, roll_back


@flow(name="orpo-promote")
def orpo_promote(
    version: str,
    because: str,
    registry: RegistryConfig = RegistryConfig(),  # noqa: B008 -- frozen
) -> PromotionEntry | None:
    """Make a version the champion, whatever the gate said, once it answers in a fresh process.

    Args:
        version: number of the registered version.
        because: why, in a sentence; the history keeps it.
        registry: where the model is registered, and its name.
    """
    entry = promote_by_hand(registry, state_home(), version, because)
    if entry is not None:
        _show(entry)
    return entry


@flow(name="orpo-rollback")
def orpo_rollback(
    because: str,
    registry: RegistryConfig = RegistryConfig(),  # noqa: B008 -- frozen
) -> PromotionEntry:
    """Make the previous champion the champion again, once it answers in a fresh process.

    Args:
        because: why, in a sentence; the history keeps it.
        registry: where the model is registered, and its name.
    """
    # Continued after its process was killed, it is the same rollback, not one back.
    entry = roll_back(registry, state_home(), because, request_id=str(flow_run.id))
    _show(entry)
    return entry


def _show(entry: PromotionEntry) -> None:
    """A Prefect artifact that says what was moved."""
    promotion = entry.promotion
    text = (
        f"## {promotion.model_name}: version {promotion.to_version} is the champion\n\n"
        f"In place of {promotion.from_version or 'nobody'}, by {promotion.who}: "
        f"{promotion.because}\n\nIt answered: {promotion.smoke_test.answer!r}\n"
    )
    create_markdown_artifact(text, key="promotion")
