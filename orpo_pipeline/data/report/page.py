"""The data report as one HTML page: readable offline, by eye before by number."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Template

from orpo_pipeline.data.report.bias import LENGTH
from orpo_pipeline.data.report.charts import (
    PLOT_HEIGHT,
    draw_biases,
    draw_funnel,
    draw_margins,
    draw_tokens,
    lean,
)
from orpo_pipeline.data.report.contents import REMOVING
from orpo_pipeline.data.report.defect_words import DEFECT_WORDS, SEVERITY_WORDS
from orpo_pipeline.pages.rendering import page_template
from orpo_pipeline.planning.memory import describe_bytes
from schemas.data_report import DataReport, FileSummary

MOST_FILES = 50
FEW_GROUPS = 30  # fewer than that, and a bootstrap interval is too narrow to be trusted
COARSE_EVAL = 100
CLEAR_LEAN = 0.04
BIG_GROUP = 0.05
BIG_LOSS = 0.05

TOKEN_ROWS = (
    ("prompt", "Prompt"),
    ("chosen", "Chosen answer"),
    ("rejected", "Rejected answer"),
    ("longest", "Prompt + longer answer"),
)
BIAS_NAMES = {
    LENGTH: "Length in tokens",
    "lists": "List items",
    "headings": "Headings",
    "code": "Code",
    "bold": "Bold text",
}

MORE = {LENGTH: "is longer", "lists": "has more list items", "bold": "has more bold text"}


@dataclass(frozen=True, slots=True)
class Estimate:
    """What training on the kept pairs will take, before it has begun."""

    hours_per_epoch: float
    pairs_per_second: float
    because: str
    """Where the speed comes from, as a sentence."""
    peak_memory: int
    """Bytes, of the device that trains."""
    steps_per_epoch: int
    """Optimizer steps."""


def render_report(report: DataReport, estimate: Estimate | None) -> str:
    """The page. The same report and estimate give the same characters."""
    kept = report.kept_train + report.kept_eval
    return _template().render(
        report=report,
        estimate=estimate,
        kept=kept,
        findings=find_remarkable(report),
        funnel=draw_funnel(report),
        lengths=[
            (name, label, report.tokens[name], draw_tokens(report.tokens[name], report.max_length))
            for name, label in TOKEN_ROWS
        ],
        forest=draw_biases(report.biases),
        bias_names=BIAS_NAMES,
        margins=None if report.score_margins is None else draw_margins(report.score_margins),
        defect_words=DEFECT_WORDS,
        severity_words=SEVERITY_WORDS,
        removing=REMOVING,
        files=shown_files(report.files),
        few_groups=report.prompt_groups < FEW_GROUPS,
        plot_height=PLOT_HEIGHT,
    )


@cache
def _template() -> Template:
    folder = Path(__file__).parent / "templates"
    filters: dict[str, Callable[..., str]] = {
        "duration": describe_hours,
        "bytes": describe_bytes,
        "share": describe_share,
    }
    return page_template(folder, "report.html.jinja", filters)


def describe_hours(hours: float) -> str:
    """`40 s`, `12 min`, `3 h 20 min`, `2 days 4 h`."""
    seconds = round(hours * 3600)
    if seconds < 90:
        return f"{max(seconds, 1)} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    whole, rest = divmod(minutes, 60)
    if whole < 36:
        return f"{whole} h {rest} min" if rest else f"{whole} h"
    days, rest = divmod(round(minutes / 60), 24)
    return f"{days} days {rest} h" if rest else f"{days} days"


def describe_share(part: float, whole: float) -> str:
    """`12.3 %`; never 0 or 100 % of what is only nearly so."""
    if not whole:
        return "0 %"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.0f} %" if percent in (0, 100) else f"{percent:.1f} %"


def shown_files(files: tuple[FileSummary, ...]) -> tuple[FileSummary, ...]:
    """The files by rows; of many, those after the fiftieth in one line."""
    ordered = sorted(files, key=lambda file: (-file.rows, file.name, file.split))
    if len(ordered) <= MOST_FILES:
        return tuple(ordered)
    others = ordered[MOST_FILES - 1 :]
    together = FileSummary(
        name=f"({len(others):,} other files)",
        split="",
        dialect="",
        rows=sum(file.rows for file in others),
        kept=sum(file.kept for file in others),
        quarantined=sum(file.quarantined for file in others),
        duplicates=sum(file.duplicates for file in others),
    )
    return (*ordered[: MOST_FILES - 1], together)


def find_remarkable(report: DataReport) -> list[str]:
    """What a person who knows the field would say after one look; thresholds are ours."""
    kept = report.kept_train + report.kept_eval
    if not kept:
        return ["No pair is left. There is nothing to train on; see below what took the rows."]
    found = _losses(report)
    if report.prompt_groups >= FEW_GROUPS:
        found += _biases(report)
    room = report.tokens["longest"].p95
    if room <= report.max_length / 2:
        found.append(
            f"95 % of the pairs need at most {room:,.0f} tokens, half of max_length "
            f"({report.max_length:,}) or less: a lower limit would cost few pairs."
        )
    if report.kept_eval < COARSE_EVAL:
        found.append(_coarse(report.kept_eval))
    if report.largest_groups and report.largest_groups[0][1] > BIG_GROUP * kept > 1:
        share = describe_share(report.largest_groups[0][1], kept)
        found.append(
            f"One group of near-equal prompts or turns of a dialogue holds {share} of the pairs."
        )
    return found


def _coarse(held_out: int) -> str:
    if not held_out:
        return "No pair is held out: training on this data could not be judged."
    pairs = "1 pair is" if held_out == 1 else f"{held_out} pairs are"
    return f"Only {pairs} held out: each is worth {100 / held_out:.3g} points of an accuracy."


def _losses(report: DataReport) -> list[str]:
    found = []
    for defect in report.defects:
        if defect.severity in REMOVING and defect.rows > BIG_LOSS * report.rows_in:
            title = DEFECT_WORDS[defect.code].title
            share = describe_share(defect.rows, report.rows_in)
            found.append(f"{share} of the rows are lost to \u201c{title}\u201d.")
    if report.duplicates > BIG_LOSS * report.rows_in:
        share = describe_share(report.duplicates, report.rows_in)
        found.append(f"{share} of the rows are exact copies of others.")
    return found


def _biases(report: DataReport) -> list[str]:
    found = []
    for side in ("chosen", "rejected"):
        habits = [
            f"{MORE.get(bias.name, f'has more {bias.name}')} (AUC {bias.auc.value:.2f})"
            for bias in report.biases
            if lean(bias) == side and abs(bias.auc.value - 0.5) >= CLEAR_LEAN
        ]
        if habits:
            listed = " and ".join(filter(None, (", ".join(habits[:-1]), habits[-1])))
            found.append(
                f"More often than not the {side} answer {listed}: training may teach that "
                "instead of what makes an answer good."
            )
    return found
