"""Promotions of real versions: each is loaded in a fresh process before it becomes the champion."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from versions import Versions, make_versions

from schemas.errors import EnvironmentFault, UserError
from schemas.figures import Comparison, Difference, Figure
from schemas.gate_config import GateConfig
from schemas.gate_decision import Verdict
from schemas.hardware import Probe
from schemas.promotion import PromotionEntry, PromotionKind, PromotionResult, PromotionState
from schemas.results import EvaluationReport, RegisteredVersion
from tasks import promotion_requests
from tasks.evidence import read_evidence
from tasks.home import mlflow_artifacts
from tasks.promotion import PromotionRequest, repair
from tasks.promotion_requests import (
    decision_about,
    history_and_aliases,
    promote_by_hand,
    promote_if_better,
    roll_back,
)
from tasks.tracking import Tracker
from tasks.version_tags import SHA256_TAG
from tasks.versions import read_aliases

GATE = GateConfig(primary=Figure.LOG_ODDS_MARGIN, guardrails={})


@dataclass(frozen=True)
class Site:
    """Two registered versions; each test has a registry in which nobody has an alias."""

    versions: Versions
    first: tuple[RegisteredVersion, EvaluationReport]
    second: tuple[RegisteredVersion, EvaluationReport]

    @property
    def tracker(self) -> Tracker:
        return self.versions.tracker()

    @property
    def registry(self) -> Any:
        return self.versions.config.registry

    @property
    def home(self) -> Path:
        return self.versions.home

    def aliases(self) -> dict[str, str]:
        return read_aliases(self.tracker)

    def set_aliases(self, **versions: str) -> None:
        for alias, version in versions.items():
            self.tracker.client.set_registered_model_alias("tiny", alias, version)

    def weights(self, version: RegisteredVersion) -> Path:
        """The adapter file in the artifact store."""
        source = self.tracker.client.get_model_version("tiny", version.version).source
        model_id = source.removeprefix("models:/")
        (path,) = mlflow_artifacts(self.home).rglob(f"{model_id}/**/adapter_model.safetensors")
        return path


@pytest.fixture(scope="module")
def made(tiny_model: Path, probe: Probe, tmp_path_factory: pytest.TempPathFactory) -> Site:
    versions = make_versions(tmp_path_factory.mktemp("versions"), tiny_model, probe)
    return Site(versions, versions.register(1), versions.register(2))


@pytest.fixture
def site(made: Site) -> Iterator[Site]:
    yield made
    client = made.tracker.client
    for alias in made.aliases():
        client.delete_registered_model_alias("tiny", alias)
    for model in client.search_registered_models("name = 'tiny.promotions'"):
        client.delete_registered_model(model.name)


def gain(value: float, against: str = "base", version: str | None = None) -> Comparison:
    found = Difference(
        value=value, low=value, high=value, n=100, groups=100, standard_error=abs(value) / 10
    )
    return Comparison.model_validate(
        {"against": against, "version": version, "differences": {Figure.LOG_ODDS_MARGIN: found}}
    )


def ask_gate(
    site: Site, candidate: tuple[RegisteredVersion, EvaluationReport], *found: Comparison
) -> PromotionResult:
    version, evaluation = candidate
    measured = evaluation.model_copy(update={"comparisons": found})
    return promote_if_better(site.tracker, GATE, version, measured)


def test_a_version_that_the_gate_keeps_out_is_the_challenger(site: Site) -> None:
    result = ask_gate(site, site.first, gain(-0.3))
    assert result.decision is not None and result.decision.verdict is Verdict.KEEP
    assert result.promotion is None and result.aliases == ("challenger",)
    assert site.aliases() == {"challenger": "1"}
    stored = decision_about(site.registry, site.home, "1")
    assert stored == result.decision
    tags = site.tracker.client.get_model_version("tiny", "1").tags
    assert tags["orpo.verdict"] == "keep" and tags["orpo.decision"] == result.because
    assert tags["orpo.prepared_id"] == site.versions.prepared.prepared_id


def test_of_two_equal_runs_at_once_the_slower_finds_it_done(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one promotes between this one's decision and its move."""
    real = promotion_requests.promote_version

    def overtaken(tracker: Tracker, request: PromotionRequest) -> PromotionEntry:
        monkeypatch.setattr(promotion_requests, "promote_version", real)
        ask_gate(site, site.first, gain(0.3))
        tracker.client.set_registered_model_alias("tiny", "challenger", "1")  # by the slower one
        return real(tracker, request)

    monkeypatch.setattr(promotion_requests, "promote_version", overtaken)
    result = ask_gate(site, site.first, gain(0.3))
    assert result.promotion is None and result.because == "version 1 is the champion"
    assert result.aliases == ("champion",) and site.aliases() == {"champion": "1"}
    (entry,) = repair(site.tracker)
    assert entry.state is PromotionState.COMPLETED


def test_a_version_that_passes_is_loaded_by_its_alias_and_promoted(site: Site) -> None:
    result = ask_gate(site, site.first, gain(0.3))
    assert result.decision is not None and result.decision.verdict is Verdict.PROMOTE
    assert result.aliases == ("champion",) and site.aliases() == {"champion": "1"}
    entry = result.promotion
    assert entry is not None and entry.state is PromotionState.COMPLETED
    made = entry.promotion
    assert (made.kind, made.from_version, made.to_version) == (PromotionKind.GATE, None, "1")
    assert made.decision == result.decision and "@" in made.who
    assert made.run_id == site.first[0].run_id
    assert made.dataset_id == site.versions.prepared.dataset_id
    # In fp32 the fresh process repeats the evaluation's log-probs but for the order of its sums.
    assert made.smoke_test.difference < 1e-4
    assert repair(site.tracker) == [entry]

    again = ask_gate(site, site.first, gain(0.3))
    assert again.decision is None and again.because == "version 1 is the champion"
    assert repair(site.tracker) == [entry]


@pytest.mark.slow
def test_rolled_back_twice_is_as_before_and_what_was_rolled_back_stays_out(site: Site) -> None:
    site.set_aliases(champion="1")
    assert ask_gate(site, site.second, gain(0.3, "champion", "1")).aliases == ("champion",)
    assert site.aliases() == {"champion": "2", "previous": "1"}
    back = roll_back(site.registry, site.home, "answers in rhymes", request_id="run-7")
    assert back.promotion.id == "run-7"
    # The flow run was killed before it could say so, and is continued.
    assert roll_back(site.registry, site.home, "answers in rhymes", request_id="run-7") == back
    assert back.promotion.kind is PromotionKind.ROLLBACK
    assert site.aliases() == {"champion": "1", "previous": "2"}

    result = ask_gate(site, site.second, gain(0.3, "champion", "1"))
    assert result.decision is None and result.promotion is None
    assert "until promotion 2 (rollback by" in result.because
    assert "answers in rhymes" in result.because

    roll_back(site.registry, site.home, "rhymes are wanted")
    assert site.aliases() == {"champion": "2", "previous": "1"}
    entries, _ = history_and_aliases(site.registry, site.home)
    moves = [(e.promotion.from_version, e.promotion.to_version) for e in entries]
    assert moves == [("1", "2"), ("2", "1"), ("1", "2")]


@pytest.fixture
def damaged(site: Site) -> Iterator[Path]:
    """Version 1's adapter in the artifact store, with one byte turned."""
    path = site.weights(site.first[0])
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    yield path
    path.write_bytes(good)


def test_a_rollback_to_a_damaged_adapter_moves_nothing(site: Site, damaged: Path) -> None:
    site.set_aliases(champion="2", previous="1")
    with pytest.raises(EnvironmentFault, match="The adapter of version 1 of tiny is damaged"):
        roll_back(site.registry, site.home, "version 2 is slow")
    assert site.aliases() == {"champion": "2", "previous": "1"}
    assert repair(site.tracker) == []


def test_the_gate_s_page_is_there_when_the_smoke_test_fails(site: Site, damaged: Path) -> None:
    with pytest.raises(EnvironmentFault, match="is damaged"):
        ask_gate(site, site.first, gain(0.42))
    run_id = site.first[0].run_id
    page = Path(site.tracker.client.download_artifacts(run_id, "gate.html")).read_text()
    assert "is better than the base model" in page and "+0.420" in page
    assert site.aliases() == {"challenger": "1"}


@pytest.mark.slow
def test_other_weights_than_the_evaluated_ones_are_found_by_their_log_probs(site: Site) -> None:
    """The file is whole and its checksum is right: only what it computes is not the same."""
    path = site.weights(site.first[0])
    good, tag = path.read_bytes(), read_evidence(site.tracker, "1").adapter_sha256
    weights = {name: value * 3 for name, value in load_file(path).items()}
    save_file(weights, path)
    from orpo_pipeline.stages import file_sha256

    client = site.tracker.client
    client.set_model_version_tag("tiny", "1", SHA256_TAG, file_sha256(path))
    try:
        with pytest.raises(EnvironmentFault, match="gives other log-probs than its evaluation"):
            promote_by_hand(site.registry, site.home, "1", "a try")
    finally:
        path.write_bytes(good)
        client.set_model_version_tag("tiny", "1", SHA256_TAG, tag)
    assert site.aliases() == {}


@pytest.mark.slow
def test_an_adapter_on_another_base_model_moves_nothing(
    site: Site, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    config = AutoConfig.from_pretrained(tiny_model)
    torch.manual_seed(5)
    AutoModelForCausalLM.from_config(config).save_pretrained(other)
    monkeypatch.setenv("ORPO_BASE_MODEL", str(other))
    with pytest.raises(EnvironmentFault, match="gives other log-probs") as same_shape:
        promote_by_hand(site.registry, site.home, "1", "a try")
    assert "ORPO_BASE_MODEL" in same_shape.value.fix

    config.hidden_size = 32
    AutoModelForCausalLM.from_config(config).save_pretrained(other)
    with pytest.raises(EnvironmentFault, match=r"cannot be used in a fresh process.*size"):
        promote_by_hand(site.registry, site.home, "1", "a try")
    assert site.aliases() == {}


def test_a_deleted_alias_stops_the_gate(site: Site) -> None:
    from promoting import intended

    from tasks.promotion import commit

    commit(site.tracker, intended(site.tracker, site.first[0].run_id, None, "1"))
    site.tracker.client.delete_registered_model_alias("tiny", "champion")
    with pytest.raises(UserError, match=r"somebody deleted it\. By the history it was version 1's"):
        ask_gate(site, site.second, gain(0.3))
    assert site.aliases() == {}


def test_an_evaluation_against_another_champion_promotes_nothing(site: Site) -> None:
    site.set_aliases(champion="1")
    result = ask_gate(site, site.second, gain(0.3))  # measured when there was none
    assert result.decision is not None and result.decision.verdict is Verdict.KEEP
    assert "no comparison with champion 1" in result.because
    assert site.aliases() == {"champion": "1", "challenger": "2"}


@pytest.mark.parametrize(
    ("version", "because", "words"),
    [
        ("7", "a try", "tiny has no version 7. Expected: one of its versions: 1, 2."),
        ("1", " ", "No reason is given."),
    ],
)
def test_what_cannot_be_promoted_by_hand(
    site: Site, version: str, because: str, words: str
) -> None:
    with pytest.raises(UserError) as caught:
        promote_by_hand(site.registry, site.home, version, because)
    assert words in str(caught.value)
    assert site.aliases() == {}


def test_evidence_that_nobody_can_read_is_named(site: Site) -> None:
    client, run_id = site.tracker.client, site.first[0].run_id
    good = read_evidence(site.tracker, "1").pair.model_dump_json(indent=1)
    client.log_text(run_id, good[: len(good) // 2], "promotion/fixed_pair.json")
    try:
        with pytest.raises(EnvironmentFault, match="evidence of version 1 of tiny cannot be read"):
            decision_about(site.registry, site.home, "1")
    finally:
        client.log_text(run_id, good, "promotion/fixed_pair.json")


def test_a_version_without_evidence_is_not_promoted(site: Site) -> None:
    bare = site.tracker.client.create_model_version("tiny", "file:///nowhere")
    try:
        with pytest.raises(UserError, match="has no evidence to be tested against"):
            promote_by_hand(site.registry, site.home, str(bare.version), "a try")
    finally:
        site.tracker.client.delete_model_version("tiny", bare.version)


@pytest.mark.parametrize(
    ("aliases", "missing"), [({}, "champion"), ({"champion": "1"}, "previous")]
)
def test_nothing_to_roll_back_to(site: Site, aliases: dict[str, str], missing: str) -> None:
    site.set_aliases(**aliases)
    with pytest.raises(UserError, match=f"nobody has the alias {missing}"):
        roll_back(site.registry, site.home, "a try")
    assert site.aliases() == aliases


def test_the_champion_is_not_promoted_again(site: Site) -> None:
    site.set_aliases(champion="1")
    assert promote_by_hand(site.registry, site.home, "1", "a try") is None
