"""`orpo-pipeline data report` and `data explain`, as a person types them: real processes."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from prepared import GOOD, answer, question
from rows import pair_row, write_rows

from schemas.data_report import DataReport

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7*7 }}"
COMMAND_SECONDS = 250


@dataclass
class Site:
    """A state folder, a config file and data whose path needs care."""

    folder: Path
    source: Path

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        ours = ("PREFECT", "MLFLOW")
        outside = {name: v for name, v in os.environ.items() if not name.startswith(ours)}
        return subprocess.run(
            [sys.executable, "-m", "flows", "data", *arguments],
            env={**outside, "ORPO_HOME": str(self.folder / "home"), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )

    def report(self, output: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
        config = str(self.folder / "config.yaml")
        return self.run(
            "report", str(self.source), "-c", config, "--output", str(output), *arguments
        )


class Tags(HTMLParser):
    """The names of all elements, and their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.fixture(scope="module")
def site(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    # Neither the shell's nor YAML's special characters change which file is meant.
    source = folder / 'it\'s "rows": #1 \\n.jsonl'
    rows = [
        *GOOD,
        pair_row(50, prompt=question(HOSTILE), chosen=answer("")),
        *['{"prompt": "\x1b]0;owned\x07' + HOSTILE] * 20,
        pair_row(51, prompt=question(HOSTILE + "[bold]\u200b")),
    ]
    write_rows(source, rows)
    config = {
        "data": {"source": "nowhere.jsonl", "eval_fraction": 0.3},
        "chat": {"max_length": 128},
        "model": {"base_model": str(tiny_model), "quantization": "none"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return Site(folder, source)


@pytest.fixture(scope="module")
def reported(site: Site) -> "subprocess.CompletedProcess[str]":
    return site.report(site.folder / "out" / "page.html")


def test_report_writes_a_page_and_the_same_as_json(
    site: Site, reported: "subprocess.CompletedProcess[str]"
) -> None:
    assert reported.returncode == 0, reported.stderr
    assert re.search(r"rows in\s+62", reported.stdout)
    assert re.search(r"broken_row\s+20", reported.stdout)
    # A report is made however many faults there are; a run would not be.
    assert "A run would stop here: 21 of 62 rows are quarantined (33.9%)" in reported.stdout
    page, figures = (site.folder / "out" / name for name in ("page.html", "page.report.json"))
    assert f"The report: {page} (and {figures})" in reported.stdout
    report = DataReport.model_validate_json(figures.read_text(encoding="utf-8"))
    assert (report.rows_in, report.quarantined) == (62, 21)
    html = page.read_text(encoding="utf-8")
    assert report.dataset_id[:12] in html


def test_hostile_text_is_text_on_the_page(
    site: Site, reported: "subprocess.CompletedProcess[str]"
) -> None:
    html = (site.folder / "out" / "page.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(html)
    assert tags.names.isdisjoint({"script", "img", "iframe", "link", "object"})
    assert not {name for name in tags.attributes if name.startswith("on")}
    assert "{{ 7*7 }}" in html
    assert "alert(1)" in html
    assert "\x1b" not in html


def test_explain_shows_a_row_s_way_and_no_control_character(
    site: Site, reported: "subprocess.CompletedProcess[str]"
) -> None:
    kept = site.run("explain", f"{site.source.name}:62")
    assert kept.returncode == 0, kept.stderr
    assert f"user: {HOSTILE}[bold]" in kept.stdout
    assert re.search(r"verdict\s+kept, to (train|evaluate)", kept.stdout)
    (row_id,) = re.findall(r"^row\s+([0-9a-f]{64})", kept.stdout, re.MULTILINE)
    assert site.run("explain", row_id[:8], "--all").stdout == kept.stdout

    broken = site.run("explain", f"{site.source.name}:42")
    assert broken.returncode == 0, broken.stderr
    assert "verdict" in broken.stdout
    assert "[U+001B]]0;owned[U+0007]" in broken.stdout
    assert "\x1b" not in broken.stdout


@pytest.mark.parametrize(("wanted", "message"), [("f" * 64, "has the row"), ("ab1", "too short")])
def test_explain_without_an_answer(
    wanted: str, message: str, site: Site, reported: "subprocess.CompletedProcess[str]"
) -> None:
    finished = site.run("explain", wanted)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr
    assert "fix:" in finished.stderr


def test_a_page_that_cannot_be_written_is_the_user_s_to_mend(
    site: Site, reported: "subprocess.CompletedProcess[str]"
) -> None:
    finished = site.report(Path("/dev/null/page.html"))
    assert finished.returncode == 2, finished.stderr
    assert "The report cannot be written to /dev/null/page.html" in finished.stderr
    assert "--output" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_the_source_is_not_overwritten(site: Site) -> None:
    source = write_rows(site.folder / "pairs.report.json", GOOD)
    before = source.read_bytes()
    finished = Site(site.folder, source).report(site.folder / "pairs.html")
    assert finished.returncode == 2, finished.stderr
    assert "would overwrite" in finished.stderr
    assert source.read_bytes() == before
    assert not (site.folder / "pairs.html").exists()


def test_data_that_no_run_could_use_are_reported(site: Site) -> None:
    source = write_rows(site.folder / "broken.jsonl", ['{"prompt": "cut \x1b[31m off'] * 3)
    finished = Site(site.folder, source).report(site.folder / "broken.html")
    assert finished.returncode == 0, finished.stderr
    assert re.search(r"broken_row\s+3", finished.stdout)
    assert "A run would stop here: Of 3 rows" in finished.stdout
    assert "\x1b[31m" not in finished.stdout
    assert (site.folder / "broken.html").is_file()
    assert (site.folder / "broken.report.json").is_file()


def test_a_source_that_is_not_there(site: Site) -> None:
    finished = Site(site.folder, site.folder / "missing.jsonl").report(site.folder / "x.html")
    assert finished.returncode == 2
    assert "missing.jsonl" in finished.stderr
    assert not (site.folder / "x.html").exists()
