"""`orpo-pipeline lineage`: from a version to its rows, and from a row to its versions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import polars as pl
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.configuration import read_config
from flows.options import ConfigFile, Debug, Overrides
from schemas.errors import UserError
from tasks.home import state_home, use_services
from tasks.version_tags import BASE_MODEL_TAG, BASE_REVISION_TAG

if TYPE_CHECKING:  # they import MLflow's settings, and those come from `use_services`
    from tasks.tracking import Tracker
    from tasks.versions import Version

ROW_FORMATS = (".parquet", ".csv")
MOST_PARTS = 20


def lineage(
    what: Annotated[
        str,
        typer.Argument(help="A version, an alias, or the first digits of a row or data set id."),
    ],
    rows: Annotated[
        Path | None, typer.Option(help="Write the version's rows here: .parquet or .csv.")
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Follow a version to its run, data set and rows; or a row or data set to its versions."""
    parsed = read_config(config, overrides or ())
    if rows is not None and rows.suffix not in ROW_FORMATS:
        raise UserError(
            f"The rows cannot be written as {rows.name!r}.",
            "a file name that ends with .parquet or .csv.",
            "Correct --rows.",
        )
    use_services(state_home())
    from tasks.lineage import dataset_versions, is_version
    from tasks.tracking_models import registry

    console = Console()
    with registry(parsed.registry, state_home()) as tracker:
        if is_version(tracker, what):
            _show_version(console, tracker, what, rows)
            return
        if rows is not None:
            raise UserError(
                f"--rows lists the rows of a version, and {what!r} is none.",
                "an alias or a version number.",
                "Leave out --rows, or name a version.",
            )
        found = dataset_versions(tracker, what)
        if found:
            _show_datasets(console, found)
        else:
            _show_row(console, tracker, what)


def _show_version(console: Console, tracker: "Tracker", what: str, rows: Path | None) -> None:
    from orpo_pipeline.data.lineage import stage_rows
    from tasks.lineage import version_lineage

    way = version_lineage(tracker, state_home(), what)
    table = _facts()
    _fact(table, "model", f"{way.version.name} {way.version.label}")
    _fact(table, "MLflow run", way.run_id or "none is recorded")
    _fact(table, "base model", way.version.tags.get(BASE_MODEL_TAG, "not recorded"))
    _fact(table, "revision", way.version.tags.get(BASE_REVISION_TAG, "not recorded"))
    _fact(table, "data set", way.dataset_id or "not recorded")
    if way.stage is None:
        _fact(table, "rows", f"not in {state_home()}: it was prepared elsewhere, or is removed")
        console.print(table)
        if rows is not None:
            raise UserError(
                f"The rows of {way.version.label} are not in {state_home()}.",
                "the state folder that the version was trained in.",
                "Set ORPO_HOME to it.",
            )
        return
    kept = stage_rows(way.stage.folder)
    _fact(table, "prepared data", f"{way.stage.prepared_id} in {way.stage.folder}")
    counts = f"{way.stage.train_pairs:,} to train, {way.stage.eval_pairs:,} held out to evaluate"
    _fact(table, "rows", counts)
    for column, label in (("origin_file", "from"), ("source", "labelled")):
        parts = kept[column].value_counts(sort=True).head(MOST_PARTS).iter_rows()
        listed = ", ".join(f"{name} {count:,}" for name, count in parts if name)
        if listed:
            _fact(table, label, listed)
    console.print(table)
    if rows is not None:
        _write_rows(kept, rows)
        text = f"{kept.height:,} rows with their origins: {rows}"
        console.print(text, markup=False, soft_wrap=True)


def _write_rows(kept: pl.DataFrame, rows: Path) -> None:
    try:
        if rows.suffix == ".csv":
            kept.write_csv(rows)
        else:
            kept.write_parquet(rows)
    except OSError as error:
        raise UserError(
            f"The rows cannot be written to {rows}: {error}.",
            "a file in a folder that exists and can be written.",
            "Correct --rows.",
        ) from error


def _show_datasets(console: Console, found: "dict[str, list[Version]]") -> None:
    for dataset_id, versions in found.items():
        table = _facts()
        _fact(table, "data set", dataset_id)
        _fact(table, "trained on it", ", ".join(version.label for version in versions))
        console.print(table)


def _show_row(console: Console, tracker: "Tracker", what: str) -> None:
    from tasks.lineage import row_lineage

    for way in row_lineage(tracker, state_home(), what):
        versions = ", ".join(version.label for version in way.versions) or "no version"
        verb = "trained on it" if way.place.split == "train" else "evaluated on it"
        table = _facts()
        _fact(table, "row", way.place.row_id)
        _fact(table, "read from", way.place.origin)
        _fact(table, "data set", way.place.stage.dataset_id)
        _fact(table, verb, versions)
        console.print(table)
        console.print()


def _facts() -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _fact(table: Table, label: str, text: str) -> None:
    from orpo_pipeline.pages.rendering import show_controls

    table.add_row(label, escape(show_controls(text)))
