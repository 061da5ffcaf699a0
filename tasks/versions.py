"""Registered versions, found by alias or number, and brought onto this disk."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from orpo_pipeline.adapter_files import WEIGHTS
from orpo_pipeline.stages import file_sha256
from schemas.errors import EnvironmentFault, UserError
from schemas.serving import ServingSettings
from tasks.tracking import Tracker
from tasks.version_tags import PRUNED_TAG, SHA256_TAG

SERVING = "serving.json"


def command_about(model_name: str, words: str) -> str:
    """A line to copy, in backticks: the command about this model, whatever is configured there."""
    return f"`orpo-pipeline {words} --set registry.model_name={shlex.quote(model_name)}`"


@dataclass(frozen=True)
class Version:
    """A registered version as the registry has it."""

    name: str
    number: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    run_id: str | None

    @property
    def label(self) -> str:
        """`version 3 (champion)`."""
        return f"version {self.number}" + (f" ({', '.join(self.aliases)})" if self.aliases else "")


def find_version(tracker: Tracker, wanted: str) -> Version:
    """The version of an alias or a number. Raises UserError that names what there is."""
    aliases = read_aliases(tracker)
    number = aliases.get(wanted, wanted)
    for version in list_versions(tracker):
        if version.number == number:
            return version
    known = ", ".join(f"{alias} (version {number})" for alias, number in sorted(aliases.items()))
    numbers = ", ".join(version.number for version in list_versions(tracker))
    raise UserError(
        f"The registered model {tracker.config.model_name} has no version or alias {wanted!r}.",
        f"one of the aliases: {known or 'none is set'}; or of the versions: {numbers or 'none'}.",
        "Name another one, or another model with --set registry.model_name=NAME.",
    )


def find_aliases(tracker: Tracker) -> dict[str, str] | None:
    """Version number by alias; None when the model is not registered."""
    name = tracker.config.model_name
    for model in tracker.client.search_registered_models(f"name = '{name}'"):
        return {alias: str(number) for alias, number in model.aliases.items()}
    return None


def read_aliases(tracker: Tracker) -> dict[str, str]:
    """Version number by alias. Raises UserError when the model is not registered."""
    found, name = find_aliases(tracker), tracker.config.model_name
    if found is not None:
        return found
    others = ", ".join(sorted(m.name for m in tracker.client.search_registered_models()))
    raise UserError(
        f"No model {name!r} is registered in {tracker.uri}.",
        f"a registered model; there are: {others or 'none yet'}.",
        "Train one (`orpo-pipeline run`), or name it: --set registry.model_name=NAME.",
    )


def list_versions(tracker: Tracker) -> list[Version]:
    """All versions of the configured model, the newest first."""
    name = tracker.config.model_name
    aliases: dict[str, list[str]] = {}
    for alias, number in read_aliases(tracker).items():
        aliases.setdefault(number, []).append(alias)
    versions = [
        Version(
            name=name,
            number=str(v.version),
            aliases=tuple(sorted(aliases.get(str(v.version), ()))),
            tags=dict(v.tags),
            run_id=v.run_id or None,
        )
        for v in known_versions(tracker).values()
    ]
    return sorted(versions, key=lambda version: -int(version.number))


def known_versions(tracker: Tracker) -> dict[str, Any]:
    """MLflow's records of the model's versions by number; none when it is not registered."""
    found = all_pages(tracker, f"name = '{tracker.config.model_name}'")
    return {str(version.version): version for version in found}


def all_pages(tracker: Tracker, condition: str) -> Iterator[Any]:
    """MLflow's records of all model versions that a condition fits."""
    token = None
    while True:
        page = tracker.client.search_model_versions(condition, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def require_whole(name: str, version: str, weights: Path, registered: str | None) -> None:
    """Raise EnvironmentFault unless a version's weights have the SHA-256 that was registered.

    None: an older release registered it, without.
    """
    if registered is None:
        return
    found = file_sha256(weights) if weights.is_file() else "no such file"
    if found != registered:
        raise EnvironmentFault(
            f"The adapter of version {version} of {name} is damaged in the artifact store: SHA-256 "
            f"{found}.",
            f"{registered}, as it was registered.",
            f"Restore {WEIGHTS} from a backup, or delete the version and run its configuration "
            "again: of the newest versions the adapter is still in the state folder where it was "
            "trained.",
        )


def require_unpruned(version: Version) -> None:
    """Raise UserError for a version whose weights retention has deleted."""
    if PRUNED_TAG in version.tags:
        raise UserError(
            f"The weights of {version.name} {version.label} were deleted: "
            f"{version.tags[PRUNED_TAG]}.",
            "a version whose weights are in the registry.",
            "Choose another one, or run its configuration (config.yaml of its MLflow run) again: "
            "that registers a new version.",
        )


def fetch_version(tracker: Tracker, version: Version, folder: Path) -> tuple[Path, ServingSettings]:
    """The version's adapter folder, brought below `folder`, and what it needs to be served.

    Raises UserError when retention has deleted its weights, EnvironmentFault when the registry no
    longer has its files as they were.
    """
    require_unpruned(version)
    target = mkdtemp(prefix=f"{version.number}-", dir=folder)
    adapter = tracker.download_adapter(version.number, Path(target))
    registered = version.tags.get(SHA256_TAG)
    require_whole(version.name, version.number, adapter / WEIGHTS, registered)
    try:
        text = (adapter / SERVING).read_text(encoding="utf-8")
        return adapter, ServingSettings.model_validate_json(text)
    except (OSError, ValueError) as error:
        raise EnvironmentFault(
            f"The files of {version.name} {version.label} are not those of a chat adapter: {error}",
            f"an adapter folder with {SERVING}, as `orpo-pipeline run` registers it.",
            "Restore the version's artifacts, or choose another version.",
        ) from error
