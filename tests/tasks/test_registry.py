"""Aliases against a real registry: decided once an evaluation, never taken from a champion."""

from pathlib import Path

import pytest

from schemas.config import RegistryConfig
from schemas.figures import Estimate, Figure
from schemas.gate_config import GateConfig
from schemas.results import EvaluationReport, ModelFigures
from tasks.registry import CHALLENGER, CHAMPION, DECIDED_ON_TAG, assign_alias
from tasks.tracking import Tracker

GATE = GateConfig()


def model(accuracy: float) -> ModelFigures:
    estimate = Estimate(value=accuracy, low=accuracy, high=accuracy, n=20)
    return ModelFigures(figures={Figure.ACCURACY: estimate})


def evaluation(base: float, candidate: float, name: str = "e1") -> EvaluationReport:
    return EvaluationReport(
        path=Path("evaluations") / name,
        pairs=20,
        groups=20,
        base=model(base),
        candidate=model(candidate),
        comparisons=(),
        smallest_difference=None,
        generations=0,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def tracker(home: Path, request: pytest.FixtureRequest) -> Tracker:
    """One store for the module (its first migration is slow), a model of its own for each test."""
    made = Tracker(RegistryConfig(model_name=request.node.name), home)
    made.ensure_model(made.config.model_name)
    return made


def new_version(tracker: Tracker) -> str:
    made = tracker.client.create_model_version(tracker.config.model_name, "file:///nowhere")
    return str(made.version)


def aliases(tracker: Tracker) -> dict[str, str]:
    found = tracker.client.get_registered_model(tracker.config.model_name).aliases
    return {alias: str(version) for alias, version in found.items()}


def test_the_first_that_beats_the_base_model_is_champion(tracker: Tracker) -> None:
    worse, better, later = (new_version(tracker) for _ in range(3))
    assert not assign_alias(tracker, worse, evaluation(0.6, 0.6), GATE).value
    assert aliases(tracker) == {CHALLENGER: worse}
    assert assign_alias(tracker, better, evaluation(0.6, 0.7), GATE).value
    assert aliases(tracker) == {CHALLENGER: worse, CHAMPION: better}
    decision = assign_alias(tracker, later, evaluation(0.6, 0.9), GATE)
    assert not decision.value and f"version {better} is the champion" in decision.because
    assert aliases(tracker) == {CHALLENGER: later, CHAMPION: better}


def test_deciding_twice_changes_nothing(tracker: Tracker) -> None:
    version = new_version(tracker)
    first = assign_alias(tracker, version, evaluation(0.6, 0.7), GATE)
    assert assign_alias(tracker, version, evaluation(0.6, 0.7), GATE) == first
    assert aliases(tracker) == {CHAMPION: version}


def test_a_crash_between_alias_and_tag_is_repaired(tracker: Tracker) -> None:
    name, version = tracker.config.model_name, new_version(tracker)
    first = assign_alias(tracker, version, evaluation(0.6, 0.7), GATE)
    tracker.client.delete_model_version_tag(name, version, DECIDED_ON_TAG)
    assert assign_alias(tracker, version, evaluation(0.6, 0.7), GATE) == first
    assert aliases(tracker) == {CHAMPION: version}


def test_another_evaluation_or_gate_is_another_decision(tracker: Tracker) -> None:
    version = new_version(tracker)
    assert not assign_alias(tracker, version, evaluation(0.6, 0.6, "e1"), GATE).value
    assert assign_alias(tracker, version, evaluation(0.6, 0.65, "e2"), GATE).value
    assert aliases(tracker)[CHAMPION] == version
    strict = GateConfig(min_accuracy_gain=0.2)
    decision = assign_alias(tracker, version, evaluation(0.6, 0.65, "e2"), strict)
    assert not decision.value
    assert aliases(tracker)[CHAMPION] == version  # the alias stays; the text says what was found


def test_nan_is_never_promoted(tracker: Tracker) -> None:
    decision = assign_alias(tracker, new_version(tracker), evaluation(0.6, float("nan")), GATE)
    assert not decision.value
    assert CHAMPION not in aliases(tracker)
