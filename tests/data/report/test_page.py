"""The report's page: whole, offline, the same each time, and deaf to what the data says."""

import re
from typing import Any

import pytest
from html_page import Page
from hypothesis import given, settings
from hypothesis import strategies as st

from orpo_pipeline.data.report.page import Estimate, render_report
from orpo_pipeline.pages.rendering import show_controls
from schemas.data_report import (
    Bias,
    DataReport,
    DefectSummary,
    Example,
    FileSummary,
    Histogram,
    Interval,
    SourceSummary,
)
from schemas.pairs import DefectCode

HOSTILE = (
    "</pre></script><script>alert(1)</script>\"'><img src=//evil.example/x onerror=alert(2)>"
    "{{ 7 * 7 }}{% raw %}<!--]]>&lt;&#60;\u202e\u2066\x00\x1b[31m\x07<svg/onload=alert(3)>"
)


def histogram(*counts: int, width: float = 64.0) -> Histogram:
    edges = tuple(n * width for n in range(len(counts) + 1))
    return Histogram(edges=edges, counts=counts, median=70, p95=180, longest=250, total=9_000)


def bias(name: str, low: float, value: float, high: float, pairs: int = 50) -> Bias:
    return Bias(name=name, auc=Interval(value=value, low=low, high=high), pairs=pairs)


def make(foreign: str = "plain", **fields: Any) -> DataReport:
    """100 rows: 70 + 12 kept, 3 copies, 15 removed; `foreign` stands wherever data can put text."""
    example = Example(origin=f"{foreign}:3", row_id=foreign, reason=foreign, text=foreign)
    values: dict[str, Any] = {
        "prepared_id": "c0ffee",
        "dataset_id": "d" * 64,
        "tokenizer": foreign,
        "max_length": 256,
        "rows_in": 100,
        "kept_train": 70,
        "kept_eval": 12,
        "duplicates": 3,
        "quarantined": 15,
        "files": (
            FileSummary(
                name=foreign,
                split=foreign,
                dialect=foreign,
                rows=100,
                kept=82,
                quarantined=15,
                duplicates=3,
            ),
        ),
        "defects": tuple(
            DefectSummary(code=code, severity=code.severity, rows=rows, examples=(example,))
            for code, rows in (
                (DefectCode.NEAR_DUPLICATE, 10),
                (DefectCode.EMPTY_TEXT, 5),
                (DefectCode.TRUNCATED, 4),
            )
        ),
        "tokens": dict.fromkeys(
            ("prompt", "chosen", "rejected", "longest"), histogram(10, 40, 30, 2)
        ),
        "score_margins": histogram(60, 22, width=0.5),
        "biases": (bias("length", 0.55, 0.6, 0.66), bias("code", 0.5, 0.5, 0.5, pairs=0)),
        "sources": (
            SourceSummary(source=foreign, pairs=82, chosen_longer_share=0.6, median_tokens=90),
        ),
        "prompts": 80,
        "prompt_groups": 75,
        "largest_groups": ((foreign, 4),),
        **fields,
    }
    return DataReport(**values)


def estimate(because: str = "Measured here.") -> Estimate:
    return Estimate(2.25, 1.3, because, 3 * 2**30, 120)


def test_the_page_is_whole_and_shows_every_part() -> None:
    page = Page(render_report(make(), estimate()))
    assert page.unclosed == []
    assert "82 of 100 rows are kept as pairs" in page.texts["header"][0]
    headings = page.texts["h2"]
    assert len(headings) == 9
    text = page.texts["body"][0]
    for words in ("2 h 15 min", "3.0 GiB", "Measured here.", "Nearly the same as another row"):
        assert words in text
    assert "strongly more in chosen" in text and "never differs" in text


def test_the_page_needs_nothing_from_outside() -> None:
    html = render_report(make(), estimate())
    page = Page(html)
    names = {name for name, _ in page.attributes}
    assert not names & {"src", "href", "xlink:href", "style", "srcset", "action", "id"}
    assert not any(name.startswith("on") for name in names)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "img", "iframe", "a"})
    assert not re.search(r"url\(|@import|https?:|//\w", html)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes


def test_the_same_report_gives_the_same_characters() -> None:
    report = make("caf\u00e9 \u65e5\u672c")
    again = DataReport.model_validate_json(report.model_dump_json())
    assert render_report(report, estimate()) == render_report(again, estimate())


def test_hostile_text_is_text_wherever_it_stands() -> None:
    html = render_report(make(HOSTILE), estimate(HOSTILE))
    plain, hostile = Page(render_report(make(), estimate())), Page(html)
    assert hostile.tags == plain.tags
    assert not set(html) & set("\x00\x07\x1b\u202e\u2066")
    assert hostile.texts["pre"][0] == show_controls(HOSTILE)
    assert "{{ 7 * 7 }}" in hostile.texts["pre"][0]
    assert "[U+202E][U+2066][U+0000][U+001B][31m[U+0007]" in hostile.texts["pre"][0]


@settings(deadline=None, max_examples=25)
@given(st.text(max_size=60))
def test_any_text_comes_out_as_it_went_in(text: str) -> None:
    page = Page(render_report(make(text), estimate(text)))
    assert page.unclosed == []
    # HTML swallows a line end right behind <pre>, which shows nothing.
    assert page.texts["pre"][0] == show_controls(text)


def test_a_very_long_word_may_break_anywhere() -> None:
    html = render_report(make("w" * 50_000), estimate())
    style = re.search(r"<style>(.*)</style>", html, re.DOTALL)
    assert style is not None
    for selector in (r"pre", r"\.foreign", r"\.example figcaption"):
        rule = re.search(rf"^{selector} {{[^}}]*overflow-wrap: anywhere", style[1], re.MULTILINE)
        assert rule is not None, selector


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("caf\u00e9 \u0645\u0631\u062d\u0628\u0627 \u65e5\u672c", None),
        ("\U0001f469\u200d\U0001f4bb", None),
        ("a\u202eb\u200bc\ufeff", "a[U+202E]b[U+200B]c[U+FEFF]"),
        ("\ud83d!\r\x7f\U000e0041", "[U+D83D]![U+000D][U+007F][U+E0041]"),
    ],
)
def test_characters_that_cannot_be_seen_are_named(text: str, shown: str | None) -> None:
    assert show_controls(text) == (text if shown is None else shown)


def test_a_tiny_data_set_without_scores_sources_or_defects() -> None:
    report = make(
        rows_in=5,
        kept_train=4,
        kept_eval=1,
        duplicates=0,
        quarantined=0,
        defects=(),
        sources=(),
        score_margins=None,
        prompts=5,
        prompt_groups=5,
        largest_groups=(),
        max_length=8192,
    )
    page = Page(render_report(report, None))
    text = page.texts["body"][0]
    assert "Every row is a sound pair" in text
    assert "The data has no scores" in text
    assert "With only 5 groups" in text
    assert "Only 1 pair is held out" in text
    assert "max_length 8,192, lies far to the right" in text
    assert "Where the pairs come from" not in text and "What training" not in text


def test_nothing_kept_is_said_first() -> None:
    nothing = histogram(0, width=1.0).model_copy(update={"median": 0, "p95": 0, "longest": 0})
    report = make(
        kept_train=0,
        kept_eval=0,
        quarantined=97,
        biases=(),
        sources=(),
        score_margins=None,
        tokens=dict.fromkeys(("prompt", "chosen", "rejected", "longest"), nothing),
        prompts=0,
        prompt_groups=0,
        largest_groups=(),
    )
    page = Page(render_report(report, None))
    assert "No pair is left" in page.texts["header"][0]
    assert "How long the pairs are" not in page.texts["body"][0]


def test_a_thousand_files_are_fifty_lines() -> None:
    one = make().files[0]
    files = tuple(one.model_copy(update={"name": f"f{n:04}", "rows": n + 1}) for n in range(1000))
    page = Page(render_report(make(files=files), None))
    text = page.texts["body"][0]
    assert "(951 other files)" in text
    assert "f0999" in text and "f0950" not in text
    assert "77,982" in text  # 82 kept rows in each of 951 files
