"""The champion beside base and candidate: same code, own figures; and a killed evaluation."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from orpo_pipeline.data.prepared_files import read_pairs
from orpo_pipeline.evaluation.evaluate import evaluate, evaluation_folder
from orpo_pipeline.evaluation.held_out import known_rows
from orpo_pipeline.evaluation.models import load_models
from schemas.errors import UserError
from schemas.figures import Figure, Slices
from schemas.jobs import EvaluateJob
from schemas.results import Champion, PreparedData

MakeJob = Callable[..., EvaluateJob]


def quiet(*_: object) -> None:
    return None


def as_champion(job: EvaluateJob, **changes: str | None) -> Champion:
    """The job's adapter as the version in use."""
    base = job.prepared.base_model
    values = {"base_model": base.name, "base_revision": base.revision, "prepared_id": None}
    return Champion(
        version="3",
        path=job.adapter.path,
        adapter_id=job.adapter.adapter_id,
        **{**values, **changes},  # type: ignore[arg-type]
    )


def with_champion(job: EvaluateJob, champion: Champion) -> EvaluateJob:
    return job.model_copy(update={"champion": champion})


def folder_of(job: EvaluateJob) -> Path:
    return evaluation_folder(
        job.config, job.prepared, job.plan, job.adapter, job.home, job.champion
    )


def link_prepared(job: EvaluateJob) -> None:
    """The prepared data in the job's own state folder, as in a real one."""
    folder = job.home / "prepared"
    folder.mkdir(parents=True)
    (folder / job.prepared.path.name).symlink_to(job.prepared.path)


def test_the_champion_is_measured_as_if_it_were_the_candidate(evaluate_job: MakeJob) -> None:
    other = evaluate_job(seed=9)
    alone = evaluate(other, quiet)
    job = evaluate_job(seed=2)
    link_prepared(job)
    champion = as_champion(other, prepared_id=job.prepared.prepared_id)
    job = with_champion(job, champion)
    report = evaluate(job, quiet)

    assert report.champion is not None and report.champion.version == "3"
    for figure, estimate in alone.candidate.figures.items():
        assert report.champion.figures[figure].value == pytest.approx(estimate.value, rel=1e-4)
    assert report.candidate.figures != report.champion.figures
    assert report.base.figures[Figure.DRIFT_KL].value == 0
    assert report.candidate.figures[Figure.DRIFT_KL].value > 0

    against_base, against_champion = report.comparisons
    assert (against_base.against, against_champion.against) == ("base", "champion")
    assert against_champion.version == "3"
    for comparison, other_model in (
        (against_base, report.base),
        (against_champion, report.champion),
    ):
        for figure, one in comparison.differences.items():
            expected = report.candidate.figures[figure].value - other_model.figures[figure].value
            assert one.value == pytest.approx(expected, abs=1e-9)
    # The same data: nothing is new to it.
    assert (against_champion.new_pairs, against_champion.new_differences) == (0, {})
    answers = json.loads((report.path / "generations.json").read_text())
    assert list(answers[0])[2:5] == ["base", "candidate", "champion"]
    Slices.model_validate_json((report.path / "slices.json").read_text())
    scores = pl.read_parquet(report.path / "pairs.parquet")
    assert scores["group"].n_unique() == report.groups
    assert "champion_chosen_logp" in scores.columns


def test_the_champion_belongs_to_the_name_of_the_evaluation(evaluate_job: MakeJob) -> None:
    job = evaluate_job()
    first = as_champion(evaluate_job(seed=9))
    jobs = [job, with_champion(job, first), with_champion(job, as_champion(evaluate_job(seed=8)))]
    assert len({folder_of(one) for one in jobs}) == 3


def test_known_rows_are_those_of_the_prepared_data(evaluate_job: MakeJob) -> None:
    job = evaluate_job()
    link_prepared(job)
    prepared: PreparedData = job.prepared
    known = known_rows(job.home, prepared.prepared_id)
    assert known is not None
    assert len(known) == prepared.train_pairs + prepared.eval_pairs
    assert set(read_pairs(prepared.path, "eval")["row_id"]) < set(known)
    assert known_rows(job.home, "another") is None


def test_a_champion_of_another_base_model_ends_the_stage(evaluate_job: MakeJob) -> None:
    job = evaluate_job()
    champion = as_champion(evaluate_job(seed=9))
    config = champion.path / "adapter_config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "revision": "b" * 40}))
    with pytest.raises(UserError, match=r"champion \(version 3\) adapter is for revision bbbbbb"):
        evaluate(with_champion(job, champion), quiet)
    assert not (job.home / "evaluations").exists()


def lose_a_module(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    lost = min(weights).rsplit(".lora_", 1)[0]
    return {name: tensor for name, tensor in weights.items() if not name.startswith(lost)}


def widen(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = next(name for name in weights if name.endswith("lora_A.weight"))
    return {**weights, name: torch.ones(weights[name].shape[0], weights[name].shape[1] + 1)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lose_a_module, r"champion \(version 3\) adapter cannot be used: 2 weights of it"),
        (widen, r"champion \(version 3\) adapter cannot be used: it does not fit"),
    ],
)
def test_an_adapter_that_does_not_fit_the_base_model(
    evaluate_job: MakeJob,
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    words: str,
) -> None:
    champion = as_champion(evaluate_job(seed=9))
    path = champion.path / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)
    with pytest.raises(UserError, match=words):
        load_models(with_champion(evaluate_job(), champion))


class Killed(BaseException):
    """As a signal would: no handler of ours catches it."""


def test_a_killed_evaluation_continues(
    evaluate_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpo_pipeline.evaluation.measuring.CHUNK", 6)
    job = evaluate_job()

    def kill(what: str, done: int, total: int) -> None:
        if what == "pairs scored by the candidate model" and done > 6:
            raise Killed

    with pytest.raises(Killed):
        evaluate(job, kill)
    seen: list[tuple[str, int]] = []
    report = evaluate(job, lambda what, done, total: seen.append((what, done)))
    scored = [(what, done) for what, done in seen if what.startswith("pairs scored")]
    pairs = job.prepared.eval_pairs
    assert pairs > 12
    assert {what for what, _ in scored} == {"pairs scored by the candidate model"}
    assert min(done for _, done in scored) > 6 and scored[-1][1] == pairs
    assert not list((job.home / "evaluating").iterdir())

    undisturbed = evaluate(job.model_copy(update={"home": job.home / "other"}), quiet)
    assert report.model_dump(exclude={"path"}) == undisturbed.model_dump(exclude={"path"})
