"""Which registered versions stay whole, and the weights of the others."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orpo_pipeline.adapter_files import WEIGHTS
from orpo_pipeline.retention.unused import Kept, open_adapters
from orpo_pipeline.retraining.watermark import WATERMARKS, newest_training
from schemas.config import RegistryConfig
from schemas.errors import UserError
from schemas.promotion import PromotionState
from schemas.retention_config import RetentionConfig
from tasks.promotion_history import last_counted, now_utc, read_history
from tasks.tracking import ADAPTER_TAG, RECORDED_TAG, Tracker
from tasks.tracking_models import delete_files
from tasks.version_tags import PREPARED_TAG, PRUNED_TAG
from tasks.versions import Version, all_pages, find_aliases, list_versions

LARGE_FILES = (WEIGHTS, "tokenizer.json", "tokenizer.model")
"""What a pruned version loses. Its card, settings and chat template stay."""

UNFINISHED = "from now on, "


@dataclass(frozen=True)
class RegisteredVersions:
    """All versions of all models that this project has registered in the store."""

    kept: tuple[Version, ...]
    others: tuple[Version, ...]


def require_its_store(tracker: Tracker) -> None:
    """Raise UserError where this is not the store that the state folder's versions are in.

    By another one everything would be unused.
    """
    folders = (tracker.home / WATERMARKS).glob("[!.]*")
    for name in sorted(folder.name for folder in folders if folder.is_dir()):
        trained = newest_training(tracker.home, name)
        if trained and find_aliases(_of_model(tracker, name)) is None:
            raise UserError(
                f"Version {trained.version} of {name} was trained here, and {tracker.uri} has no "
                "such model.",
                "the MLflow store that this state folder's versions are registered in.",
                "Set MLFLOW_TRACKING_URI or registry.tracking_uri to it; or, if the model was "
                f"deleted on purpose, remove {tracker.home / WATERMARKS / name}.",
            )


def sort_versions(tracker: Tracker, config: RetentionConfig) -> RegisteredVersions:
    """What stays of each model: aliases, unfinished promotions, the last training, the newest."""
    kept: list[Version] = []
    others: list[Version] = []
    for model in _models(tracker):
        named = _named(model)
        versions = [v for v in list_versions(model) if ADAPTER_TAG in v.tags]  # the newest first
        for place, version in enumerate(versions):
            stays = place < config.keep_versions or version.aliases or version.number in named
            (kept if stays else others).append(version)
    return RegisteredVersions(tuple(kept), tuple(others))


def what_stays(tracker: Tracker, versions: RegisteredVersions, config: RetentionConfig) -> Kept:
    """The names, in the state folder, of what the kept versions and unfinished trainings need."""
    every = (*versions.kept, *versions.others)
    # The adapter of a pruned version is here only where it was trained once more.
    registered = frozenset(v.tags[ADAPTER_TAG] for v in every if PRUNED_TAG not in v.tags)
    unfinished = open_adapters(tracker.home, registered, config)
    prepared = {version.tags.get(PREPARED_TAG, "") for version in versions.kept}
    prepared.update(_prepared_of(tracker, unfinished))
    return Kept(
        adapters=frozenset(version.tags[ADAPTER_TAG] for version in versions.kept),
        registered=registered,
        prepared=frozenset(prepared),
        evaluations=frozenset(_evaluations(tracker, versions.kept)),
    )


def prepared_ids(versions: RegisteredVersions) -> frozenset[str]:
    """Of all versions: whoever was trained on a row must stay known."""
    every = (*versions.kept, *versions.others)
    return frozenset(v.tags[PREPARED_TAG] for v in every if PREPARED_TAG in v.tags)


def delete_weights(
    tracker: Tracker, versions: RegisteredVersions, config: RetentionConfig
) -> Iterator[str]:
    """Delete the others' weights; yields `MODEL/NUMBER` of each that lost them now.

    The tag is first: whoever sees no tag finds the weights. A promotion that began before is seen
    after that, and then the version stays. A prune that was killed in between leaves the tag
    unfinished, and the next one goes on.
    """
    because = f"on {now_utc():%F}, as retention.keep_versions is {config.keep_versions}"
    for version in versions.others:
        tag = version.name, version.number, PRUNED_TAG
        if not version.tags.get(PRUNED_TAG, UNFINISHED).startswith(UNFINISHED):
            continue
        model = _of_model(tracker, version.name)
        tracker.client.set_model_version_tag(*tag, f"{UNFINISHED}{because}")
        if version.number in _named(model) | _aliased(model):
            tracker.client.delete_model_version_tag(*tag)
            continue
        delete_files(model, version.number, LARGE_FILES)
        tracker.client.set_model_version_tag(*tag, because)
        yield f"{version.name}/{version.number}"


def _models(tracker: Tracker) -> Iterator[Tracker]:
    names = {v.name for v in all_pages(tracker, "") if ADAPTER_TAG in v.tags}
    yield from (_of_model(tracker, name) for name in sorted(names))


def _of_model(tracker: Tracker, name: str) -> Tracker:
    config: RegistryConfig = tracker.config.model_copy(update={"model_name": name})
    return Tracker(config, tracker.home)


def _named(model: Tracker) -> set[str]:
    """Versions that an unfinished promotion or the last training names."""
    named = set()
    last = last_counted(read_history(model))
    if last is not None and last.state is PromotionState.INTENDED:
        named |= {last.promotion.to_version, last.promotion.from_version or ""}
    trained = newest_training(model.home, model.config.model_name)
    return named | ({trained.version} if trained else set())


def _aliased(model: Tracker) -> set[str]:
    return {version.number for version in list_versions(model) if version.aliases}


def _evaluations(tracker: Tracker, versions: Iterable[Version]) -> Iterator[str]:
    for version in versions:
        if version.run_id is not None:
            tags = tracker.client.get_run(version.run_id).data.tags
            yield from tags.get(RECORDED_TAG, "").split()


def _prepared_of(tracker: Tracker, adapters: Iterable[str]) -> Iterator[str]:
    """Prepared ids of the runs of these trainings, in whichever experiment they are."""
    experiments = [e.experiment_id for e in tracker.client.search_experiments()]
    for adapter in sorted(adapters):
        condition = f"tags.`{ADAPTER_TAG}` = '{adapter}'"
        for run in tracker.client.search_runs(experiments, condition):
            yield run.data.tags.get(PREPARED_TAG, "")


def results_folder(home: Path) -> Path:
    """Where Prefect keeps the results of tasks, a folder for each flow run, and of flows."""
    return home / "prefect" / "storage"
