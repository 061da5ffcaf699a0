"""Versions that began from one another, and all rows that they have been trained on."""

from collections.abc import Mapping

from tasks.version_tags import PREPARED_TAG, STARTED_FROM_TAG

Tags = Mapping[str, str]


def ancestry(number: str, tags_by_number: Mapping[str, Tags]) -> list[Tags]:
    """Tags of a version, of the version that it began from, and so on.

    Empty tags stand for one that was deleted: what it was trained on is not known.
    """
    found: list[Tags] = []
    seen: set[str] = set()
    at: str | None = number
    while at is not None and at not in seen:
        seen.add(at)
        found.append(tags_by_number.get(at, {}))
        at = found[-1].get(STARTED_FROM_TAG)
    return found


def prepared_ids(number: str, tags_by_number: Mapping[str, Tags]) -> list[str | None]:
    """Prepared data that a version has been trained on, its own first; None: not known which."""
    return [tags.get(PREPARED_TAG) for tags in ancestry(number, tags_by_number)]
