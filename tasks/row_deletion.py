"""Which registered versions have been trained on rows that are to be forgotten."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo_pipeline.data.row_search import row_uses
from schemas.config import RegistryConfig
from tasks.tracking import Tracker
from tasks.tracking_models import registry
from tasks.version_tags import PREPARED_TAG
from tasks.versions import all_pages


@dataclass(frozen=True)
class VersionUse:
    """One registered version, of any model of the store, and the rows that it had."""

    model_name: str
    version: str
    aliases: tuple[str, ...]
    trained: int | None
    """How many of the rows; None where its prepared data is not in this state folder any more."""
    evaluated: int | None


def versions_that_used(config: RegistryConfig, home: Path, row_ids: set[str]) -> list[VersionUse]:
    """Versions that had one of the rows, or of which that cannot be said; newest first."""
    uses = row_uses(home, row_ids)
    found = []
    with registry(config, home) as tracker:
        for version in _versions(tracker):
            use = uses.get(version.tags[PREPARED_TAG])
            if use is not None and not use.trained and not use.evaluated:
                continue
            number = str(version.version)
            aliases = tracker.client.get_registered_model(version.name).aliases
            found.append(
                VersionUse(
                    model_name=version.name,
                    version=number,
                    aliases=tuple(sorted(a for a, v in aliases.items() if str(v) == number)),
                    trained=len(use.trained) if use else None,
                    evaluated=len(use.evaluated) if use else None,
                )
            )
    return sorted(found, key=lambda use: (use.model_name, -int(use.version)))


def _versions(tracker: Tracker) -> Iterator[Any]:
    """All versions of all models that this project has registered."""
    for version in all_pages(tracker, ""):
        if PREPARED_TAG in version.tags:
            yield version
