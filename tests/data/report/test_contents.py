"""The data report: counts by hand, the row equation, and independence from order."""

import json
from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpo_pipeline.data.report.contents import (
    ReportHeader,
    count_margins,
    count_tokens,
    find_largest_groups,
    summarise,
    summarise_sources,
)
from orpo_pipeline.data.report.examples import SHOWN_TEXT, shorten_row
from schemas.data_report import DataReport, FileSummary, SourceSummary
from schemas.frames import MARKS
from schemas.pairs import DefectCode, Severity

MARK_COUNTS = pl.Struct(dict.fromkeys(MARKS, pl.UInt16))
KEPT = {
    "row_id": pl.String,
    "prompt_id": pl.String,
    "group": pl.UInt32,
    "split": pl.String,
    "prompt_tokens": pl.Int32,
    "chosen_tokens": pl.Int32,
    "rejected_tokens": pl.Int32,
    "score_chosen": pl.Float64,
    "score_rejected": pl.Float64,
    "source": pl.String,
    "notes": pl.List(pl.String),
    "chosen_marks": MARK_COUNTS,
    "rejected_marks": MARK_COUNTS,
}
EXAMPLES = dict.fromkeys(("code", "reason", "origin", "row_id", "text"), pl.String)


def marks(**counts: int) -> dict[str, int]:
    return {**dict.fromkeys(MARKS, 0), **counts}


def pair(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "row_id": f"{number:064x}",
        "prompt_id": f"prompt {number}",
        "group": number,
        "split": "train",
        "prompt_tokens": 10,
        "chosen_tokens": 20,
        "rejected_tokens": 15,
        "score_chosen": None,
        "score_rejected": None,
        "source": "",
        "notes": [],
        "chosen_marks": marks(),
        "rejected_marks": marks(),
        **fields,
    }


def table(pairs: Sequence[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(pairs, schema=KEPT)


def shown(*rows: tuple[str, str, str, str | None, str]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=EXAMPLES, orient="row")


def file(name: str = "a.jsonl", kept: int = 0, gone: int = 0, copies: int = 0) -> FileSummary:
    return FileSummary(
        name=name,
        split="train",
        dialect="trl",
        rows=kept + gone + copies,
        kept=kept,
        quarantined=gone,
        duplicates=copies,
    )


def report_of(
    kept: pl.DataFrame,
    files: tuple[FileSummary, ...],
    removed: dict[DefectCode, int] | None = None,
    examples: pl.DataFrame | None = None,
) -> DataReport:
    header = ReportHeader("prepared", "dataset", "tiny", 1024, files)
    found = shown() if examples is None else examples
    return summarise(header, kept, removed or {}, found, lambda row_id: f"prompt of {row_id[-2:]}")


def test_counts_of_a_small_data_set() -> None:
    kept = table([pair(1), pair(2, split="eval", group=1), pair(3, prompt_id="prompt 2")])
    files = (file("b", kept=1, gone=3), file("a", kept=2, copies=1))
    report = report_of(kept, files, {DefectCode.TOO_LONG: 2, DefectCode.EMPTY_TEXT: 1})
    assert (report.rows_in, report.kept_train, report.kept_eval) == (7, 2, 1)
    assert (report.duplicates, report.quarantined) == (1, 3)
    assert (report.prompts, report.prompt_groups) == (2, 2)
    assert report.largest_groups == (("prompt of 01", 2),)
    assert [f.name for f in report.files] == ["a", "b"]


@pytest.mark.parametrize(
    ("files", "removed"),
    [
        ((file(kept=2),), {}),
        ((file(kept=1, gone=1),), {}),
        ((file(kept=1),), {DefectCode.TOO_LONG: 1}),
        ((file(kept=1).model_copy(update={"rows": 2}),), {}),
    ],
)
def test_rows_that_are_not_accounted_for_stop_the_report(
    files: tuple[FileSummary, ...], removed: dict[DefectCode, int]
) -> None:
    with pytest.raises(AssertionError, match="row"):
        report_of(table([pair(1)]), files, removed)


def test_defects_of_all_severities_most_rows_first() -> None:
    notes = [DefectCode.TRUNCATED.value, DefectCode.ANSWER_IS_PREFIX.value]
    kept = table([pair(1, notes=notes), pair(2, notes=notes[:1]), pair(3)])
    removed = {DefectCode.SCORE_TIE: 2, DefectCode.BROKEN_ROW: 4, DefectCode.SECRET: 0}
    report = report_of(kept, (file(kept=3, gone=6),), removed)
    assert [(d.code, d.severity, d.rows) for d in report.defects] == [
        (DefectCode.BROKEN_ROW, Severity.QUARANTINE, 4),
        (DefectCode.SCORE_TIE, Severity.DROP, 2),
        (DefectCode.TRUNCATED, Severity.REPAIR, 2),
        (DefectCode.ANSWER_IS_PREFIX, Severity.REPORT, 1),
    ]
    assert report.quarantined == 6


def test_examples_are_the_first_three_by_file_and_row() -> None:
    code = DefectCode.TOO_LONG.value
    origins = ["b:1", "a:10", "a:9", "a:2"]
    rows = [(code, f"reason {o}", o, None if o == "a:2" else "id", "text") for o in origins]
    report = report_of(table([]), (file(gone=4),), {DefectCode.TOO_LONG: 4}, shown(*rows))
    (defect,) = report.defects
    assert [example.origin for example in defect.examples] == ["a:2", "a:9", "a:10"]
    assert defect.examples[0].row_id is None
    assert defect.examples[1].reason == "reason a:9"


def test_a_shown_row_has_something_of_each_field() -> None:
    row = {"prompt": "p" * 5000, "chosen": [{"role": "assistant", "content": "c" * 5000}], "n": 1}
    text = shorten_row(json.dumps(row))
    assert len(text) <= SHOWN_TEXT
    found = json.loads(text)
    assert found["prompt"].startswith("ppp") and found["prompt"].endswith("\u2026")
    assert found["chosen"][0]["role"] == "assistant"
    assert found["n"] == 1
    assert shorten_row('{"a": "b"}') == '{"a": "b"}'


@pytest.mark.parametrize(
    "text",
    [
        "{" + "x" * 5000,
        "[1, " * 3000,
        '{"a": ' * 5000,
        '{"a": ' + "[" * 3000 + "]" * 3000 + "}",
        json.dumps({f"key {n}": "v" for n in range(999)}),
        json.dumps("y" * 5000),
        '{"n": ' + "9" * 5000 + "}",
    ],
)
def test_a_row_of_any_form_is_cut(text: str) -> None:
    assert len(shorten_row(text)) == SHOWN_TEXT


def test_half_a_surrogate_pair_stays_escaped() -> None:
    assert shorten_row(r'{"a": "\ud83d b"}') == r'{"a": "\ud83d b"}'


JSON_VALUES = st.recursive(
    st.none() | st.text() | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None)
@given(JSON_VALUES)
def test_any_json_is_shown_within_bounds_and_can_be_written(value: Any) -> None:
    text = shorten_row(json.dumps(value))
    assert len(text) <= SHOWN_TEXT
    text.encode()


def test_token_histograms_share_edges_and_a_power_of_two_width() -> None:
    # Longest pair 40 + 60 = 100 tokens: 40 bins of 2 end at 80, of 4 at 160, so 4 it is.
    kept = table(
        [
            pair(1, prompt_tokens=40, chosen_tokens=60, rejected_tokens=3),
            pair(2, prompt_tokens=4, chosen_tokens=3, rejected_tokens=8),
        ]
    )
    tokens = count_tokens(kept)
    assert list(tokens) == ["prompt", "chosen", "rejected", "longest"]
    assert {h.edges for h in tokens.values()} == {tuple(range(0, 105, 4))}
    assert [n for n, count in enumerate(tokens["prompt"].counts) if count] == [1, 10]
    assert [n for n, count in enumerate(tokens["longest"].counts) if count] == [3, 25]
    longest = tokens["longest"]
    assert (longest.median, longest.longest, longest.total) == (56, 100, 112)
    assert longest.p95 == pytest.approx(12 + 0.95 * 88)


@pytest.mark.parametrize("limit", [256, 512, 1024, 2048, 8192])
def test_the_limit_falls_on_an_edge(limit: int) -> None:
    kept = table([pair(1, prompt_tokens=limit // 2, chosen_tokens=limit // 2)])
    assert limit in count_tokens(kept)["longest"].edges
    assert len(count_tokens(kept)["longest"].counts) <= 41


def scored(*margins: float) -> pl.DataFrame:
    return table(
        [pair(n, score_chosen=m, score_rejected=0.0) for n, m in enumerate(margins)]
        + [pair(900), pair(901, score_chosen=1.0)]
    )


def test_margins_on_an_edge_count_as_on_it() -> None:
    kept = table(
        [
            pair(1, score_chosen=0.3, score_rejected=0.2),
            pair(2, score_chosen=0.1, score_rejected=0.0),
            pair(3, score_chosen=2.1, score_rejected=0.0),
            pair(4),
        ]
    )
    found = count_margins(kept)
    assert found is not None
    # A span of 2.0 in 20 bins of 0.1; 0.3 - 0.2 is 0.09999999999999998.
    assert found.edges[:3] == (0.1, 0.2, 0.3)
    assert (found.counts[0], found.counts[-1], sum(found.counts)) == (2, 1, 3)
    assert found.total == pytest.approx(2.3)


def test_data_without_scores_has_no_margins() -> None:
    assert count_margins(table([pair(1), pair(2, score_chosen=3.0)])) is None


def test_a_long_tail_shares_the_last_bin() -> None:
    found = count_margins(scored(*[float(n % 10) for n in range(1000)], 5000.0))
    assert found is not None
    widths = [high - low for low, high in zip(found.edges, found.edges[1:], strict=False)]
    assert widths[-1] > 100 * widths[0]
    assert found.counts[-1] == 1
    assert sum(found.counts) == 1001
    assert found.longest == 5000


@settings(deadline=None)
@given(
    st.lists(
        st.floats(allow_nan=True, allow_infinity=True)
        | st.sampled_from([0.0, 5e-324, 1e-310, 1e17, 1e17 + 16, -1e99, 1e308]),
        max_size=30,
    )
)
def test_any_scores_are_counted_or_are_no_scores(margins: list[float]) -> None:
    found = count_margins(scored(*margins))
    usable = [m for m in margins if abs(m) < 1e100]
    assert (sum(found.counts) if found else 0) == len(usable)
    if found:
        assert list(found.edges) == sorted(found.edges)
        assert found.longest == max(usable)


def test_sources_by_size_and_the_rest_together() -> None:
    named = [pair(n, source=f"s{n % 25:02}") for n in range(100)]
    kept = table([*named, pair(200, source="s07", chosen_tokens=1), pair(201), pair(202)])
    sources = summarise_sources(kept)
    assert len(sources) == 20
    # Five pairs: four with the chosen answer longer; 10 + max(20, 15) or 10 + max(1, 15) tokens.
    assert sources[0] == SourceSummary(
        source="s07", pairs=5, chosen_longer_share=0.8, median_tokens=30
    )
    assert sources[1].source == "s00"
    assert sources[-1].source == "(others)"
    assert sum(source.pairs for source in sources) == 103
    few = summarise_sources(table([pair(1, source="s"), pair(2), pair(3)]))
    assert [(s.source, s.pairs) for s in few] == [("(not stated)", 2), ("s", 1)]


def test_data_that_names_no_source_has_none() -> None:
    assert summarise_sources(table([pair(1), pair(2)])) == ()


def test_largest_groups_are_shown_by_their_lowest_row() -> None:
    sizes = {7: 3, 8: 2, 9: 1, 10: 2, 11: 2, 12: 2, 13: 2}
    rows = [pair(100 * g + n, group=g) for g, size in sizes.items() for n in range(size)]
    asked: list[str] = []

    def prompt_of(row_id: str) -> str:
        asked.append(row_id)
        return "long " * 100 if len(asked) == 1 else row_id[-3:]

    groups = find_largest_groups(table(rows[::-1]), prompt_of)
    assert [pairs for _, pairs in groups] == [3, 2, 2, 2, 2]
    assert [text for text, _ in groups][1:] == ["320", "3e8", "44c", "4b0"]
    assert len(groups[0][0]) == 160
    assert len(asked) == 5


def test_biases_compare_lengths_and_each_mark() -> None:
    kept = table(
        [
            pair(1, chosen_marks=marks(lists=3), rejected_marks=marks(bold=1)),
            pair(2, chosen_marks=marks(lists=1, words=9), rejected_marks=marks(lists=2)),
            pair(3, chosen_tokens=15),
        ]
    )
    biases = report_of(kept, (file(kept=3),)).biases
    # length: 1, 1, 0.5; lists: 1, 0, 0.5; bold: 0, 0.5, 0.5.
    assert [(b.name, round(b.auc.value, 3), b.pairs) for b in biases] == [
        ("length", 0.833, 2),
        ("lists", 0.5, 2),
        ("headings", 0.5, 0),
        ("code", 0.5, 0),
        ("bold", 0.333, 1),
    ]


def test_order_of_rows_and_files_is_nothing() -> None:
    notes = [DefectCode.TRUNCATED.value]
    rows = [
        pair(
            n,
            group=n // 3,
            prompt_tokens=n * 7 % 90 + 1,
            score_chosen=n / 7,
            score_rejected=0.1,
            source=f"s{n % 4}",
            notes=notes[: n % 2],
        )
        for n in range(60)
    ]
    examples = shown(*((notes[0], "cut", f"a:{n}", "id", "text") for n in range(6)))
    files = (file("a", kept=40), file("b", kept=20))
    one = report_of(table(rows), files, examples=examples)
    other = report_of(table(rows[::-1]), files[::-1], examples=examples.reverse())
    assert one.model_dump_json() == other.model_dump_json()


def test_a_report_of_nothing() -> None:
    report = report_of(table([]), (file(gone=2),), {DefectCode.BROKEN_ROW: 2})
    assert report.biases == report.sources == report.largest_groups == ()
    assert report.tokens["longest"].counts == (0,)
    assert (report.kept_train, report.prompts) == (0, 0)
    assert DataReport.model_validate_json(report.model_dump_json()) == report
