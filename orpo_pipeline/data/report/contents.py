"""The data report: a pure summary of what was kept, what was not, and how the kept pairs look."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from orpo_pipeline.data.report.bias import LENGTH, measure_bias
from orpo_pipeline.data.report.examples import cut, first_examples
from schemas.data_report import (
    Bias,
    DataReport,
    DefectSummary,
    FileSummary,
    Histogram,
    SourceSummary,
)
from schemas.frames import FORMAT_MARKS
from schemas.pairs import DefectCode, Severity

REMOVING = (Severity.DROP, Severity.QUARANTINE)
SHOWN_PROMPT, SHOWN_SOURCE = 160, 80  # characters
MOST_BINS = 40
MARGIN_BINS = 20
MOST_SOURCES = 20
OTHERS, UNNAMED = "(others)", "(not stated)"
LARGEST_GROUPS = 5
BEYOND_SCORES = 1e100  # no score; a sum of such margins would overflow
FINEST_BIN = 1e-100


@dataclass(frozen=True, slots=True)
class ReportHeader:
    """What the report says of the whole: see DataReport. `files` hold the row equation."""

    prepared_id: str
    dataset_id: str
    tokenizer: str
    max_length: int
    files: tuple[FileSummary, ...]


def summarise(
    header: ReportHeader,
    kept: pl.DataFrame,
    removed: Mapping[DefectCode, int],
    examples: pl.DataFrame,
    prompt_of: Callable[[str], str],
) -> DataReport:
    """The report of one preparation. Neither the order of rows nor of files changes it.

    `kept`: one row a kept pair. row_id, prompt_id, source (str; "" where the data names none),
    split ("train" or "eval"), group (any integer), prompt_tokens, chosen_tokens, rejected_tokens,
    score_chosen, score_rejected (null where unscored), notes (list of DefectCode values that were
    repaired or reported), chosen_marks and rejected_marks (struct of the counts lists, headings,
    code, bold; more fields are ignored).
    `removed`: rows by the one code that removed each; codes that only repair or report come from
    `notes`.
    `examples`: code, reason, origin, row_id (null where unread), text; of each code the first three
    by origin and row are shown, their text cut.
    `prompt_of`: the text of a row id's prompt, asked at most five times.

    Raises AssertionError when rows in are not kept + quarantined + duplicates.
    """
    files = tuple(sorted(header.files, key=lambda file: (file.name, file.split)))
    sides = dict(kept["split"].value_counts().iter_rows())
    totals = {
        name: sum(getattr(file, name) for file in files)
        for name in ("rows", "kept", "quarantined", "duplicates")
    }
    _check_equation(totals, kept.height, removed)
    return DataReport(
        prepared_id=header.prepared_id,
        dataset_id=header.dataset_id,
        tokenizer=header.tokenizer,
        max_length=header.max_length,
        rows_in=totals["rows"],
        kept_train=sides.get("train", 0),
        kept_eval=sides.get("eval", 0),
        duplicates=totals["duplicates"],
        quarantined=totals["quarantined"],
        files=files,
        defects=summarise_defects(kept, removed, examples),
        tokens=count_tokens(kept),
        score_margins=count_margins(kept),
        biases=measure_biases(kept),
        sources=summarise_sources(kept),
        prompts=kept["prompt_id"].n_unique(),
        prompt_groups=kept["group"].n_unique(),
        largest_groups=find_largest_groups(kept, prompt_of),
    )


def _check_equation(totals: dict[str, int], kept: int, removed: Mapping[DefectCode, int]) -> None:
    quarantined = sum(rows for code, rows in removed.items() if code.severity in REMOVING)
    if (totals["kept"], totals["quarantined"]) != (kept, quarantined):
        raise AssertionError(
            f"the files name {totals['kept']} kept and {totals['quarantined']} quarantined rows; "
            f"there are {kept} and {quarantined}"
        )
    accounted = kept + quarantined + totals["duplicates"]
    if accounted != totals["rows"]:
        raise AssertionError(f"{totals['rows']} rows came in, {accounted} are accounted for")


def summarise_defects(
    kept: pl.DataFrame, removed: Mapping[DefectCode, int], examples: pl.DataFrame
) -> tuple[DefectSummary, ...]:
    """Rows and examples of each code that occurs, most rows first."""
    noted = kept["notes"].explode(empty_as_null=False, keep_nulls=False).value_counts()
    counts = {code: rows for code, rows in removed.items() if rows}
    for name, rows in noted.iter_rows():
        code = DefectCode(name)
        counts[code] = counts.get(code, 0) + rows
    shown = first_examples(examples)
    return tuple(
        DefectSummary(
            code=code,
            severity=code.severity,
            rows=rows,
            examples=shown.get(code.value, ()),
        )
        for code, rows in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )


def count_tokens(kept: pl.DataFrame) -> dict[str, Histogram]:
    """Histograms of prompt, chosen, rejected and prompt + longer answer, over the same edges.

    Bins are powers of two wide, so that a limit such as 1,024 falls on an edge.
    """
    lengths = {
        "prompt": kept["prompt_tokens"],
        "chosen": kept["chosen_tokens"],
        "rejected": kept["rejected_tokens"],
        "longest": kept.select(_pair_tokens()).to_series(),
    }
    most = max((int(values.max() or 0) for values in lengths.values()), default=0)  # type: ignore[arg-type]
    width = 1
    while width * MOST_BINS <= most:
        width *= 2
    edges = np.arange(0.0, most + width + 1, width)
    return {name: _histogram(values.to_numpy(), edges) for name, values in lengths.items()}


def _pair_tokens() -> pl.Expr:
    return pl.col("prompt_tokens") + pl.max_horizontal("chosen_tokens", "rejected_tokens")


def count_margins(kept: pl.DataFrame) -> Histogram | None:
    """Histogram of chosen - rejected over the scored pairs; None without any.

    Bins are 1, 2 or 5 times a power of ten wide. A margin that lies on an edge up to rounding
    counts as on it (0.3 - 0.2 is a little less than 0.1). Where the largest hundredth would squash
    the rest, the last bin is wide and holds it.
    """
    margins = (
        kept.select(margin=pl.col("score_chosen") - pl.col("score_rejected"))
        .filter(pl.col("margin").abs() < BEYOND_SCORES)["margin"]
        .to_numpy()
    )
    if not margins.size:
        return None
    low, most = float(margins.min()), float(margins.max())
    common = float(np.quantile(margins, 0.99))
    top = common if most - low > 3 * (common - low) > 0 else most
    width = _round_width((top - low) / (MARGIN_BINS) or abs(most) / 10 or 1.0)
    first, last = math.floor(low / width + 1e-6), math.floor(top / width + 1e-6) + 1
    edges = np.array([number * width for number in range(first, last + 1)])
    if most >= edges[-1]:
        edges = np.append(edges, np.nextafter(most, np.inf))
    return _histogram(margins, edges, nudge=width * 1e-6)


def _round_width(width: float) -> float:
    """The next larger of 1, 2, 5 times a power of ten."""
    width = max(width, FINEST_BIN)
    power = 10.0 ** math.floor(math.log10(width))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= width * 0.999)


def _histogram(values: np.ndarray, edges: np.ndarray, nudge: float = 0.0) -> Histogram:
    inside = np.clip(values + nudge, edges[0], np.nextafter(edges[-1], -np.inf))
    counts, _ = np.histogram(inside, edges)
    known = values if values.size else np.zeros(1)
    return Histogram(
        # Multiples of a decimal width, without the last digits of binary fractions.
        edges=tuple(float(f"{edge:.12g}") for edge in edges),
        counts=tuple(int(count) for count in counts),
        median=float(np.median(known)),
        p95=float(np.quantile(known, 0.95)),
        longest=float(known.max()),
        total=math.fsum(known),  # exact, so that the order of rows is nothing
    )


def measure_biases(kept: pl.DataFrame) -> tuple[Bias, ...]:
    """Length in tokens, then each mark of format; none where nothing is kept."""
    if kept.is_empty():
        return ()
    compared: Iterable[tuple[str, pl.Expr, pl.Expr]] = [
        (LENGTH, pl.col("chosen_tokens"), pl.col("rejected_tokens")),
        *(
            (
                mark,
                pl.col("chosen_marks").struct.field(mark),
                pl.col("rejected_marks").struct.field(mark),
            )
            for mark in FORMAT_MARKS
        ),
    ]
    return tuple(
        measure_bias(name, kept.select("group", chosen=chosen, rejected=rejected))
        for name, chosen, rejected in compared
    )


def summarise_sources(kept: pl.DataFrame) -> tuple[SourceSummary, ...]:
    """The kept pairs by `source`; none where no row names one."""
    if (kept["source"] == "").all():
        return ()
    source = kept["source"].replace("", UNNAMED)
    sizes = source.value_counts().sort(["count", "source"], descending=[True, False])
    if sizes.height > MOST_SOURCES:
        named = sizes["source"].head(MOST_SOURCES - 1)
        source = source.set(~source.is_in(named.implode()), OTHERS)
    table = (
        kept.select(
            source,
            longer=pl.col("chosen_tokens") > pl.col("rejected_tokens"),
            tokens=_pair_tokens(),
        )
        .group_by("source")
        .agg(pl.len(), pl.col("longer").mean(), pl.col("tokens").median())
        .sort(pl.col("source") == OTHERS, "len", "source", descending=[False, True, False])
    )
    return tuple(
        SourceSummary(
            source=cut(name, SHOWN_SOURCE),
            pairs=pairs,
            chosen_longer_share=share,
            median_tokens=tokens,
        )
        for name, pairs, share, tokens in table.iter_rows()
    )


def find_largest_groups(
    kept: pl.DataFrame, prompt_of: Callable[[str], str]
) -> tuple[tuple[str, int], ...]:
    """The largest prompt groups of two pairs and more, each shown by its lowest row id's prompt."""
    sizes = kept["group"].value_counts().filter(pl.col("count") > 1)
    if sizes.is_empty():
        return ()
    least = sizes["count"].top_k(LARGEST_GROUPS).min()
    largest = (
        kept.select("group", "row_id")
        .join(sizes.filter(pl.col("count") >= least), on="group")
        .group_by("group")
        .agg(pl.col("row_id").min(), pl.col("count").first())
        .sort("count", "row_id", descending=[True, False])
        .head(LARGEST_GROUPS)
    )
    return tuple(
        (cut(prompt_of(row_id), SHOWN_PROMPT), pairs)
        for row_id, pairs in largest.select("row_id", "count").iter_rows()
    )
