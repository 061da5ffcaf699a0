"""The champion that a candidate is compared with: found by its alias, its adapter fetched."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from orpo_pipeline.adapter_files import CONFIG, WEIGHTS
from orpo_pipeline.stages import MANIFEST, fingerprint, is_complete, new_stage
from schemas.errors import UserError
from schemas.results import Champion
from tasks.tracking import ADAPTER_TAG, Tracker
from tasks.version_tags import (
    BASE_MODEL_TAG,
    BASE_REVISION_TAG,
    CHAMPION,
    PREPARED_TAG,
    PREVIOUS,
    SHA256_TAG,
)
from tasks.versions import find_aliases, require_whole

CHAT_TEMPLATE = "chat_template.jinja"


def find_champion(tracker: Tracker, candidate: str) -> Champion | None:
    """The version that a candidate is compared with: the one with the alias `champion`.

    Where that is the candidate itself, it is the one that it replaced (`previous`), so that a
    promoted run is evaluated the same when it is given again. Its folder need not be there yet, see
    `fetch_champion`. Raises UserError for a version whose tags do not say what it is.

    Args:
        tracker: the store with the registry.
        candidate: adapter id of the candidate.
    """
    aliases = find_aliases(tracker) or {}
    for alias in (CHAMPION, PREVIOUS):
        found = describe_version(tracker, aliases[alias], alias) if alias in aliases else None
        if found is None or found.adapter_id != candidate:
            return found
    return None


def describe_version(tracker: Tracker, version: str, alias: str) -> Champion:
    """A version by its tags. Raises UserError where they do not say what it is."""
    name = tracker.config.model_name
    tags = tracker.client.get_model_version(name, version).tags
    missing = [tag for tag in (ADAPTER_TAG, BASE_MODEL_TAG, BASE_REVISION_TAG) if tag not in tags]
    if missing:
        raise UserError(
            f"Version {version} of {name} has the alias `{alias}` but no tag {missing[0]}.",
            "a champion that this pipeline registered: its tags say what it was made of.",
            f"Move the alias to such a version, or remove it: then the base model is what a "
            f"candidate of {name} must beat.",
        )
    identity = {"store": tracker.uri, "model": name, "version": version, "tags": tags[ADAPTER_TAG]}
    return Champion(
        version=version,
        path=tracker.home / "champions" / fingerprint(identity),
        adapter_id=tags[ADAPTER_TAG],
        base_model=tags[BASE_MODEL_TAG],
        base_revision=tags[BASE_REVISION_TAG],
        prepared_id=tags.get(PREPARED_TAG),
    )


def fetch_champion(tracker: Tracker, champion: Champion) -> None:
    """Bring the champion's adapter into the state folder, whole or not at all.

    Raises UserError when the version holds none, EnvironmentFault when it is damaged.
    """
    if is_complete(champion.path):
        (champion.path / MANIFEST).touch()  # in use: retention goes by the last change
        return
    with TemporaryDirectory() as scratch:
        found = tracker.download_adapter(champion.version, Path(scratch))
        if not (found / CONFIG).is_file():
            raise UserError(
                f"Version {champion.version} of {tracker.config.model_name} holds no {CONFIG}.",
                "a version with an adapter, as the register stage makes them.",
                f"Move the alias `{CHAMPION}` to a version that has one.",
            )
        name, version = tracker.config.model_name, champion.version
        tags = tracker.client.get_model_version(name, version).tags
        # A damaged champion would measure worse than it is, and be easy to beat.
        require_whole(name, version, found / WEIGHTS, tags.get(SHA256_TAG))
        with new_stage(champion.path) as temporary:
            shutil.copytree(found, temporary, dirs_exist_ok=True)


def require_same_base(champion: Champion, base_model: str, revision: str) -> None:
    """Raise UserError for a champion that was made for other weights."""
    if champion.base_revision == revision:
        return
    raise UserError(
        f"The champion (version {champion.version}) is an adapter of {champion.base_model} "
        f"({champion.base_revision[:12]}), not of {base_model} ({revision[:12]}).",
        "a champion of the base model that this run trains on.",
        "Give each base model a registered model of its own (registry.model_name), or remove the "
        f"alias `{CHAMPION}` from that version.",
    )


def require_same_template(champion: Champion, tokenizer: Path) -> None:
    """Raise UserError for a fetched champion that was trained under another chat template.

    It would read prompts that it has never seen so, and be easy to beat.
    """
    files = champion.path / CHAT_TEMPLATE, tokenizer / CHAT_TEMPLATE
    theirs, ours = (file.read_bytes() if file.is_file() else None for file in files)
    if theirs == ours:
        return
    raise UserError(
        f"The champion (version {champion.version}) was trained under another chat template than "
        "this run's.",
        "a champion of the chat template that this run trains with.",
        "Set chat.template to the champion's, give this template a registered model of its own "
        f"(registry.model_name), or remove the alias `{CHAMPION}` from that version.",
    )
