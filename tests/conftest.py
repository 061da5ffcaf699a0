"""Real parts at a small size: the embedded model's tokenizer on a Llama of random weights."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from rows import pair_row, write_rows
from tiny_models import write_tiny_model
from versions import Versions, make_versions

from orpo_pipeline.data.preparation import prepare
from orpo_pipeline.planning.hardware import probe_hardware
from orpo_pipeline.planning.plan import plan_training
from orpo_pipeline.training.train import adapter_id
from schemas.config import RunConfig
from schemas.hardware import Probe
from schemas.jobs import TrainJob
from schemas.plan import TrainingPlan
from schemas.results import PreparedData

# The same examples in every run, so that a failure comes again. HYPOTHESIS_PROFILE=default: others.
settings.register_profile("same", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in our child processes; before torch


@pytest.fixture(scope="module", autouse=True)
def no_store_of_another_test() -> None:
    """MLflow leaves the store of its last call in the environment, for the whole process."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a 2-layer Llama with SmolLM2's tokenizer and template, fp32, seeded."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny-llama"), "Llama")


@pytest.fixture(scope="session")
def probe() -> Probe:
    """This machine, seen as a plain CPU, so that a test plans the same everywhere."""
    found = probe_hardware()
    return found.model_copy(
        update={"kind": "cpu", "device_memory": 0, "cpu_isa": frozenset({"avx2"})}
    )


@pytest.fixture
def tiny_config(tiny_model: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """`tiny_config(training={...})`: 60 rows, the tiny model, four steps."""

    def make(**sections: dict[str, Any]) -> RunConfig:
        source = tmp_path / "pairs.jsonl"
        if not source.exists():
            write_rows(source, [pair_row(number) for number in range(60)])
        values: dict[str, dict[str, Any]] = {
            "data": {"source": str(source), "eval_fraction": 0.3},
            "chat": {"max_length": 128},
            "model": {"base_model": str(tiny_model), "quantization": "none"},
            "training": {"max_steps": 4, "batch_size": 4, "save_steps": 2, "eval_pairs": 2},
            "evaluation": {"generations": 2, "max_new_tokens": 4},
        }
        for name, fields in sections.items():
            values[name] = {**values.get(name, {}), **fields}
        return RunConfig.model_validate(values)

    return make


@pytest.fixture
def plan_for(probe: Probe) -> Callable[[RunConfig, PreparedData], TrainingPlan]:
    """The plan for prepared data on `probe`."""

    def make(config: RunConfig, prepared: PreparedData) -> TrainingPlan:
        return plan_training(config, probe, prepared.base_model.shape, prepared.longest)

    return make


# The tiny model is fastest on one thread, and child processes that inherit this sum in our order.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def prepared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder for prepared pairs, so that equal data is prepared once."""
    return tmp_path_factory.mktemp("prepared-home")


@pytest.fixture(scope="session")
def two_versions(
    tiny_model: Path, probe: Probe, tmp_path_factory: pytest.TempPathFactory
) -> Versions:
    """The model `tiny` with version 1, the champion, and version 2, the challenger. To read."""
    versions = make_versions(tmp_path_factory.mktemp("two-versions"), tiny_model, probe)
    for seed, alias in ((1, "champion"), (2, "challenger")):
        registered, _ = versions.register(seed)
        client = versions.tracker().client
        client.set_registered_model_alias("tiny", alias, registered.version)
    return versions


@pytest.fixture(scope="session")
def few_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen rows: nine pairs to train on. One file, so that it is prepared once."""
    path = tmp_path_factory.mktemp("few") / "pairs.jsonl"
    return write_rows(path, [pair_row(number) for number in range(14)])


@pytest.fixture
def train_job(
    tiny_config: Callable[..., RunConfig],
    plan_for: Callable[[RunConfig, PreparedData], TrainingPlan],
    prepared_home: Path,
    tmp_path: Path,
) -> Callable[..., TrainJob]:
    """`train_job("home", training={...})`: prepared data, its plan, a state folder of that name."""

    def make(home: str = "home", **sections: dict[str, Any]) -> TrainJob:
        config = tiny_config(**sections)
        prepared = prepare(config, prepared_home, lambda *_: None)
        plan = plan_for(config, prepared)
        return TrainJob(
            config=config,
            home=tmp_path / home,
            prepared=prepared,
            plan=plan,
            adapter_id=adapter_id(config, prepared, plan),
        )

    return make
