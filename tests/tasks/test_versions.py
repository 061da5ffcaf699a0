"""Registered versions by alias and number, and clear words where there is none."""

import shutil
from pathlib import Path

import pytest
from versions import Versions

from orpo_pipeline.inference.loading import BASE, LoadedModels, load_base
from schemas.errors import EnvironmentFault, UserError
from tasks.tracking import Tracker
from tasks.versions import SERVING, fetch_version, find_version, list_versions


@pytest.fixture(scope="module")
def tracker(two_versions: Versions) -> Tracker:
    return two_versions.tracker()


def test_found_by_alias_and_by_number(tracker: Tracker) -> None:
    assert find_version(tracker, "champion") == find_version(tracker, "1")
    assert find_version(tracker, "challenger").label == "version 2 (challenger)"
    assert [version.number for version in list_versions(tracker)] == ["2", "1"]


def test_what_is_missing_is_said_with_what_there_is(tracker: Tracker) -> None:
    with pytest.raises(UserError, match="no version or alias 'previous'") as caught:
        find_version(tracker, "previous")
    assert "champion (version 1)" in caught.value.expected and "2, 1" in caught.value.expected
    other = tracker.config.model_copy(update={"model_name": "nobody"})
    with pytest.raises(UserError, match="No model 'nobody'") as caught:
        find_version(Tracker(other, tracker.home), "champion")
    assert "tiny" in caught.value.expected


def test_a_version_s_files_come_with_what_serves_them(tracker: Tracker, tmp_path: Path) -> None:
    folder, settings = fetch_version(tracker, find_version(tracker, "champion"), tmp_path)
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", SERVING, "README.md"} <= names
    assert (settings.dtype, settings.quantization) == ("float32", "none")
    assert settings.base_is_local and Path(settings.base_model).is_dir()


def test_a_base_model_that_is_gone_is_named(
    two_versions: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = two_versions.tracker()
    _, settings = fetch_version(tracker, find_version(tracker, "1"), tmp_path)
    gone = settings.model_copy(update={"base_model": str(tmp_path / "gone")})
    with pytest.raises(EnvironmentFault, match="gone") as caught:
        load_base(gone, tmp_path, lambda _: None)
    assert "ORPO_BASE_MODEL" in caught.value.fix
    copy = shutil.copytree(settings.base_model, tmp_path / "copy")
    monkeypatch.setenv("ORPO_BASE_MODEL", str(copy))
    loaded = load_base(gone, tmp_path, lambda _: None)
    assert loaded.config.name_or_path == str(copy)


def test_adapters_of_another_base_or_damaged_are_refused(
    two_versions: Versions, tmp_path: Path
) -> None:
    tracker = two_versions.tracker()
    folder, settings = fetch_version(tracker, find_version(tracker, "1"), tmp_path)
    models = LoadedModels(settings, load_base(settings, tmp_path, lambda _: None))
    other = settings.model_copy(update={"base_revision": "f" * 64})
    with pytest.raises(UserError, match="Version 1 is an adapter of"):
        models.add("1", folder, other)
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"registered \(version 1\) adapter cannot be used"):
        models.add("1", folder, settings)
    weights.write_bytes(whole)
    models.add("1", folder, settings)
    assert models.adapters == {"1"}
    with models.speaking_as(BASE):
        assert not any(m.disable_adapters is False for m in _lora_layers(models.model))


def _lora_layers(model: object) -> list[object]:
    from peft.tuners.lora import LoraLayer

    return [m for m in model.modules() if isinstance(m, LoraLayer)]  # type: ignore[attr-defined]
