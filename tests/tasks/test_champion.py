"""The champion against a real registry: by alias, its files fetched whole, never the candidate."""

from pathlib import Path

import pytest

from orpo_pipeline.stages import is_complete
from schemas.config import RegistryConfig
from schemas.errors import EnvironmentFault, UserError
from tasks.champion import (
    fetch_champion,
    find_champion,
    require_same_base,
    require_same_template,
)
from tasks.tracking import Tracker

TAGS = {
    "orpo.adapter_id": "adapter-1",
    "orpo.base_model": "tiny",
    "orpo.base_revision": "a" * 40,
    "orpo.prepared_id": "prepared-1",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def tracker(home: Path, request: pytest.FixtureRequest) -> Tracker:
    """One store for the module, a model of its own for each test."""
    return Tracker(RegistryConfig(experiment="tests", model_name=request.node.name), home)


def make_champion(tracker: Tracker, files: dict[str, str], tags: dict[str, str] = TAGS) -> str:
    """A version whose adapter folder has these files; it carries the alias."""
    folder = tracker.home / tracker.config.model_name
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    run_id = tracker.open_run(tracker.config.model_name)
    tracker.ensure_model(tracker.config.model_name)
    paths = {name: folder / name for name in files}
    uri, model_id = tracker.log_model(run_id, paths, {"serving.json": "{}"}, packages=[])
    name = tracker.config.model_name
    made = tracker.client.create_model_version(
        name, uri, run_id=run_id, model_id=model_id, tags=tags
    )
    tracker.client.set_registered_model_alias(name, "champion", made.version)
    return str(made.version)


def test_without_a_model_or_an_alias_there_is_no_champion(tracker: Tracker) -> None:
    assert find_champion(tracker, "adapter-2") is None
    tracker.ensure_model(tracker.config.model_name)
    assert find_champion(tracker, "adapter-2") is None


def test_the_champion_is_found_and_fetched_whole(tracker: Tracker) -> None:
    version = make_champion(tracker, {"adapter_config.json": '{"r": 4}'})
    champion = find_champion(tracker, "adapter-2")
    assert champion is not None
    assert champion.version == version
    assert (champion.adapter_id, champion.prepared_id) == ("adapter-1", "prepared-1")
    fetch_champion(tracker, champion)
    assert is_complete(champion.path)
    assert (champion.path / "adapter_config.json").read_text() == '{"r": 4}'

    tracker.client.delete_registered_model_alias(tracker.config.model_name, "champion")
    assert find_champion(tracker, "adapter-2") is None


def test_the_candidate_is_not_compared_with_itself(tracker: Tracker) -> None:
    make_champion(tracker, {"adapter_config.json": "{}"})
    assert find_champion(tracker, "adapter-1") is None


def test_a_promoted_candidate_is_compared_with_the_one_it_replaced(tracker: Tracker) -> None:
    replaced = make_champion(tracker, {"adapter_config.json": "{}"})
    name, client = tracker.config.model_name, tracker.client
    before = find_champion(tracker, "adapter-2")
    tags = {**TAGS, "orpo.adapter_id": "adapter-2"}
    promoted = client.create_model_version(name, "file:///nowhere", tags=tags).version
    client.set_registered_model_alias(name, "champion", promoted)
    client.set_registered_model_alias(name, "previous", replaced)
    assert before is not None and find_champion(tracker, "adapter-2") == before


def test_a_champion_of_unknown_making_is_refused(tracker: Tracker) -> None:
    make_champion(tracker, {"adapter_config.json": "{}"}, tags={"orpo.adapter_id": "adapter-1"})
    with pytest.raises(UserError, match=r"Version 1 of .* has no tag|no tag orpo\.base_model"):
        find_champion(tracker, "adapter-2")


def test_a_champion_without_an_adapter_is_refused(tracker: Tracker) -> None:
    make_champion(tracker, {"note.txt": "nothing"})
    champion = find_champion(tracker, "adapter-2")
    assert champion is not None
    with pytest.raises(UserError, match=r"holds no adapter_config\.json"):
        fetch_champion(tracker, champion)
    assert not champion.path.exists()


def test_a_damaged_champion_is_not_measured(tracker: Tracker) -> None:
    tags = {**TAGS, "orpo.adapter_sha256": "0" * 64}
    make_champion(tracker, {"adapter_config.json": "{}", "adapter_model.safetensors": "x"}, tags)
    champion = find_champion(tracker, "adapter-2")
    assert champion is not None
    with pytest.raises(EnvironmentFault, match=r"adapter of version 1 of .* is damaged"):
        fetch_champion(tracker, champion)
    assert not champion.path.exists()


def test_a_champion_of_another_chat_template_is_refused(tracker: Tracker, tmp_path: Path) -> None:
    files = {"adapter_config.json": "{}", "chat_template.jinja": "{{ messages }}"}
    make_champion(tracker, files)
    champion = find_champion(tracker, "adapter-2")
    assert champion is not None
    fetch_champion(tracker, champion)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    require_same_template(champion, tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[-1] }}")
    with pytest.raises(UserError, match="another chat template"):
        require_same_template(champion, tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="another chat template"):
        require_same_template(champion, tmp_path)


def test_a_champion_of_another_base_model_is_refused(tracker: Tracker) -> None:
    make_champion(tracker, {"adapter_config.json": "{}"})
    champion = find_champion(tracker, "adapter-2")
    assert champion is not None
    require_same_base(champion, "tiny", "a" * 40)
    with pytest.raises(UserError, match=r"is an adapter of tiny .* not of other"):
        require_same_base(champion, "other", "b" * 40)
