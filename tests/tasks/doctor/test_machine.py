"""Interpreter, packages, clock and the trial on the device, as they are and as they should not."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orpo_pipeline.planning.trial import Trial, nf4_error, try_device
from schemas.config import RunConfig
from schemas.findings import Level
from tasks.doctor import machine
from tasks.doctor.known import Known
from tasks.doctor.machine import check_clock, check_packages, check_python
from tasks.doctor.training import check_nf4

ROOT = Path(__file__).parents[3]


def test_this_environment_is_the_tested_one() -> None:
    assert check_python().level is Level.OK
    (finding,) = check_packages()
    assert finding.level is Level.OK, finding


def test_the_tested_versions_are_those_of_the_constraints() -> None:
    """The link travels with an installed package as a file."""
    link = ROOT / "orpo_pipeline" / "tested.txt"
    assert link.read_text() == (ROOT / "constraints.txt").read_text()
    assert machine.tested_versions()["pydantic-core"].startswith("2.")


CHECK = "from tasks.doctor.machine import check_packages; [print(f) for f in check_packages()]"


def test_another_version_is_a_warning_and_one_that_breaks_prefect_an_error(tmp_path: Path) -> None:
    for name, found in (("fastapi", "0.165.0"), ("peft", "0.99.0")):
        metadata = tmp_path / f"{name}-{found}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {found}\n")
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    said = subprocess.run(
        [sys.executable, "-c", CHECK],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    ).stdout
    error, warning = said.splitlines()
    assert "'error'" in error and "fastapi 0.165.0 is installed, and <0.151 is needed" in error
    assert "'warning'" in warning and "peft 0.99.0 (tested: 0.21.2)" in warning
    assert "peft" not in error


def test_files_of_tomorrow_show_a_clock_that_went_back(tmp_path: Path) -> None:
    assert check_clock(tmp_path / "not there").level is Level.OK
    file = tmp_path / "mlflow" / "mlflow.db"
    file.parent.mkdir()
    file.touch()
    assert check_clock(tmp_path).level is Level.OK
    os.utime(file, (time.time() + 7200,) * 2)
    finding = check_clock(tmp_path)
    assert finding.level is Level.WARNING and "files from 2.0 h later" in finding.found


def test_nf4_computes_what_float32_does_but_for_four_bits() -> None:
    assert 0.05 < nf4_error("cpu", "float32") < 0.15


def test_a_layer_that_is_far_off_does_not_work(trial: Trial) -> None:
    assert check_nf4(trial, Known()).level is Level.OK
    far_off = trial.model_copy(update={"nf4_error": 0.9})
    finding = check_nf4(far_off, Known())
    assert finding.level is Level.ERROR and "90% off" in finding.found


def test_a_broken_bitsandbytes_is_named(tmp_path: Path) -> None:
    package = tmp_path / "bitsandbytes"
    package.mkdir()
    (package / "__init__.py").write_text("raise OSError('libcudart.so.13: cannot open')\n")
    code = "from orpo_pipeline.planning.trial import *; print(try_device(RunConfig()).nf4_failure)"
    finished = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))},
    )
    assert finished.stdout == "OSError: libcudart.so.13: cannot open\n", finished.stderr


def test_nothing_is_computed_for_an_impossible_request() -> None:
    config = RunConfig.model_validate({"model": {"device": "mps"}})
    assert try_device(config).device is None


@pytest.fixture(scope="module")
def trial() -> Trial:
    return try_device(RunConfig())
