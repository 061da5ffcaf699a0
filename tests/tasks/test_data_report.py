"""Where a data report is written, and that it is written without an estimate too."""

from collections.abc import Callable
from pathlib import Path

import pytest
from rows import pair_row, write_rows

from orpo_pipeline.data.preparation import prepare
from schemas.config import DataConfig, RunConfig
from schemas.data_report import DataReport
from schemas.errors import UserError
from schemas.hardware import Probe
from schemas.plan import TrainingPlan
from schemas.results import PreparedData
from tasks import data_report
from tasks.data_report import report_files, report_page, write_report

ESTIMATE = "Time for one epoch"


@pytest.mark.parametrize(
    ("output", "page", "figures"),
    [
        ("page.html", "page.html", "page.report.json"),
        ("report.v1", "report.v1.html", "report.v1.report.json"),
        ("pairs.jsonl", "pairs.jsonl.html", "pairs.jsonl.report.json"),
    ],
)
def test_the_page_keeps_the_name_that_was_given(
    output: str, page: str, figures: str, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "pairs.jsonl", [pair_row(1)])
    found = report_files(DataConfig(source=str(source)), tmp_path / output)
    assert found == (tmp_path / page, tmp_path / figures)


def test_no_source_is_overwritten_not_even_through_a_link(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "pairs.jsonl", [pair_row(1)])
    (tmp_path / "page.report.json").symlink_to(source)
    with pytest.raises(UserError, match=r"would overwrite .*page\.report\.json"):
        report_files(DataConfig(source=str(source)), tmp_path / "page.html")


def test_a_report_for_a_device_that_is_not_here(
    tiny_config: Callable[..., RunConfig], probe: Probe, prepared_home: Path, tmp_path: Path
) -> None:
    absent = "cuda" if probe.torch_device == "mps" else "mps"
    config = tiny_config(model={"device": absent})
    prepared = prepare(config, prepared_home, lambda *_: None)
    page, figures = tmp_path / "page.html", tmp_path / "page.report.json"
    write_report(config, prepared, page, figures)
    assert ESTIMATE not in page.read_text(encoding="utf-8")
    assert DataReport.model_validate_json(figures.read_bytes()).rows_in == 60


def test_a_timing_that_takes_too_long_leaves_the_estimate_out(
    tiny_config: Callable[..., RunConfig],
    plan_for: Callable[[RunConfig, PreparedData], TrainingPlan],
    prepared_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_config()
    prepared = prepare(config, prepared_home, lambda *_: None)
    plan = plan_for(config, prepared)
    assert ESTIMATE in report_page(config, prepared, plan)
    monkeypatch.setattr(data_report, "MEASURE_SECONDS", 0.01)
    assert ESTIMATE not in report_page(config, prepared, plan)
