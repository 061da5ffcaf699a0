"""Which registered versions have been trained on rows that are to be forgotten."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo_pipeline.data.row_search import RowUse, row_uses
from schemas.config import RegistryConfig
from tasks.tracking import Tracker
from tasks.tracking_models import registry
from tasks.version_tags import PREPARED_TAG
from tasks.versions import all_pages
from tasks.warm_start.ancestry import Tags, prepared_ids


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
        every = list(_versions(tracker))
        tags: dict[str, dict[str, Tags]] = {}
        for version in every:
            tags.setdefault(version.name, {})[str(version.version)] = version.tags
        for version in every:
            number = str(version.version)
            use = _use_of(number, tags[version.name], uses)
            if use is not None and not use.trained and not use.evaluated:
                continue
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


def _use_of(number: str, tags: Mapping[str, Tags], uses: dict[str, RowUse]) -> RowUse | None:
    """Rows that a version was evaluated on, and that it, or one that it began from, was trained on.

    None when that is not known of one of them.
    """
    found = [uses.get(prepared or "") for prepared in prepared_ids(number, tags)]
    known = [use for use in found if use is not None]
    if len(known) < len(found):
        return None
    trained = frozenset().union(*(use.trained for use in known))
    return RowUse(trained, known[0].evaluated)


def _versions(tracker: Tracker) -> Iterator[Any]:
    """All versions of all models that this project has registered."""
    for version in all_pages(tracker, ""):
        if PREPARED_TAG in version.tags:
            yield version
