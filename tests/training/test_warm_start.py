"""Training on from a registered adapter: its weights first, the rows that are meant, bit-exact."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from engines import build_model, idle_run
from hypothesis import given
from hypothesis import strategies as st
from prepared import frame
from rows import pair_row, write_rows
from safetensors.torch import load_file

from orpo_pipeline.data.lineage import find_stage, stage_rows
from orpo_pipeline.data.preparation import prepare
from orpo_pipeline.data.row_lists import FACTS, keep_row_list
from orpo_pipeline.training.engine import find_engine
from orpo_pipeline.training.order import epoch_order
from orpo_pipeline.training.packed.forward import causal_lm_of
from orpo_pipeline.training.train import Interrupted, adapter_id, train
from orpo_pipeline.training.trl_engine import trl_dataset
from orpo_pipeline.training.warm_start import is_replayed, load_start, rows_to_train, split_rows
from schemas.config import RunConfig
from schemas.errors import EnvironmentFault, UserError
from schemas.jobs import TrainJob
from schemas.plan import TrainingPlan
from schemas.results import PreparedData, TrainedAdapter
from schemas.training_start import WarmStart

WEIGHTS = "adapter_model.safetensors"
SECTIONS: dict[str, dict[str, Any]] = {
    # One pass over the rows, so that the number of steps says how many there are.
    "training": {"max_steps": None, "batch_size": 6, "save_steps": 2, "learning_rate": 1e-3},
    "lora": {"dropout": 0.1, "r": 4},
}


def run(job: TrainJob) -> TrainedAdapter:
    return train(job, lambda *_: None, lambda: False)


@pytest.fixture
def warm_job(
    tiny_config: Callable[..., RunConfig],
    plan_for: Callable[[RunConfig, PreparedData], TrainingPlan],
    prepared_home: Path,
    tmp_path: Path,
) -> TrainJob:
    """Thirty rows were trained on; now there are thirty more. Of the first only a list is left."""
    write_rows(tmp_path / "pairs.jsonl", [pair_row(number) for number in range(30)])
    config = tiny_config(**SECTIONS)
    old = prepare(config, prepared_home, lambda *_: None)
    home = tmp_path / "home"
    job = TrainJob(
        config=config, home=home, prepared=old, plan=plan_for(config, old), adapter_id="start"
    )
    started = tmp_path / "started"
    build_model(job, moved=True).save_pretrained(started)
    stage = find_stage(prepared_home, old.dataset_id, old.prepared_id)
    assert stage is not None
    keep_row_list(home, stage_rows(old.path), {name: getattr(stage, name) for name in FACTS})
    write_rows(tmp_path / "pairs.jsonl", [pair_row(number) for number in range(60)])
    new = prepare(config, prepared_home, lambda *_: None)
    start = WarmStart(
        version="3",
        path=started,
        adapter_sha256="a",
        prepared_id=old.prepared_id,
        replay_share=0.5,
    )
    identity = adapter_id(config, new, job.plan, start)
    assert identity != adapter_id(config, new, job.plan)
    others = [{"replay_share": 0.4}, {"adapter_sha256": "b"}, {"prepared_id": "c"}]
    for other in others:
        assert adapter_id(config, new, job.plan, start.model_copy(update=other)) != identity
    same = start.model_copy(update={"version": "4", "path": tmp_path})
    assert adapter_id(config, new, job.plan, same) == identity
    return job.model_copy(update={"prepared": new, "start": start, "adapter_id": identity})


def start_of(job: TrainJob) -> WarmStart:
    assert job.start is not None
    return job.start


def test_new_rows_and_a_share_of_the_known_ones_and_none_that_is_held_out(
    warm_job: TrainJob,
) -> None:
    rows = rows_to_train(warm_job.prepared.path, warm_job.home, start_of(warm_job))
    train_side, held_out = (
        set(frame(warm_job.prepared, side)["row_id"]) for side in ("train", "eval")
    )
    (known,) = (pl.read_parquet(p) for p in warm_job.home.glob("lineage/*/rows.parquet"))
    seen = set(known.filter(split="train")["row_id"].bin.encode("hex"))
    again = {row for row in seen & train_side if is_replayed(row, 0.5)}
    assert set(rows) == (train_side - seen) | again
    assert 0 < len(again) < len(seen & train_side)
    assert not set(rows) & held_out
    assert len(trl_dataset(warm_job.prepared.path, rows)) == len(rows)


def test_it_begins_with_the_weights_of_the_version(warm_job: TrainJob) -> None:
    start = start_of(warm_job)
    model = build_model(warm_job)
    load_start(model, start, warm_job.prepared.base_model)
    saved = load_file(start.path / WEIGHTS)
    found = {
        name.replace(".default", ""): weight
        for name, weight in model.named_parameters()
        if "lora_" in name
    }
    assert found.keys() == saved.keys()
    assert all(torch.equal(found[name], saved[name]) for name in saved)


def test_stopped_and_resumed_equals_undisturbed(warm_job: TrainJob, tmp_path: Path) -> None:
    undisturbed = run(warm_job)
    assert undisturbed.started_from == "3"
    rows = rows_to_train(warm_job.prepared.path, warm_job.home, start_of(warm_job))
    assert undisturbed.steps == math.ceil(len(rows) / 6)
    assert undisturbed.steps < math.ceil(warm_job.prepared.train_pairs / 6)
    weights = (undisturbed.path / WEIGHTS).read_bytes()
    assert weights != (start_of(warm_job).path / WEIGHTS).read_bytes()
    for kept in (undisturbed.path, warm_job.home / "training"):
        if kept.exists():
            kept.rename(tmp_path / kept.name)
    seen: list[int] = []
    with pytest.raises(Interrupted):
        train(warm_job, lambda step, *_: seen.append(step), lambda: len(seen) >= 2)
    resumed = run(warm_job)
    assert resumed.resumed_from == 3
    assert (resumed.path / WEIGHTS).read_bytes() == weights


def test_a_step_that_is_not_finite_names_rows_that_it_trained_on(
    warm_job: TrainJob, tmp_path: Path
) -> None:
    rows = rows_to_train(warm_job.prepared.path, warm_job.home, start_of(warm_job)).sort()
    model = build_model(warm_job)
    with torch.no_grad():
        causal_lm_of(model).get_input_embeddings().weight.fill_(math.nan)
    run = replace(idle_run(warm_job, tmp_path / "work", model), rows=rows)
    with pytest.raises(UserError, match="non-finite at step 1") as caught:
        find_engine(warm_job.plan.engine.value)(run)
    first = epoch_order(len(rows), run.training.seed, 0)[: run.training.batch_size]
    named = ", ".join(rows[sorted(first.tolist())[:4]])
    assert f"Its rows: {named} and 2 more" in caught.value.found


def test_rows_that_are_not_known_any_more_are_an_error(warm_job: TrainJob) -> None:
    start = start_of(warm_job).model_copy(update={"prepared_id": "gone"})
    with pytest.raises(EnvironmentFault, match="The rows of version 3"):
        rows_to_train(warm_job.prepared.path, warm_job.home, start)


@given(st.sets(st.integers(), min_size=1, max_size=50), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_repeats_the_same_rows_and_more(
    numbers: set[int], a: float, b: float
) -> None:
    less, more = sorted((a, b))
    chosen = [{n for n in numbers if is_replayed(str(n), share)} for share in (0, less, more, 1)]
    assert chosen[0] == set() and chosen[3] == numbers
    assert chosen[1] <= chosen[2]


def test_a_share_is_about_that_share(tmp_path: Path) -> None:
    ids = pl.Series("row_id", [str(number) for number in range(2000)])
    pl.DataFrame({"row_id": ids}).write_parquet(tmp_path / "train.parquet")
    new, again = split_rows(tmp_path, ids[:1000], 0.3)
    assert len(new) == 1000
    assert 240 < len(again) < 360  # 300, and four standard errors of sqrt(1000 * .3 * .7) = 14.5
