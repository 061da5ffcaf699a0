"""`orpo-pipeline data report` and `data explain`: look at data without training on it."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.configuration import read_config
from flows.options import ConfigFile, Debug, Overrides
from schemas.config import RunConfig
from schemas.results import PreparedData
from tasks.home import make_folder, state_home

app = typer.Typer(help="Look at preference data.", no_args_is_help=True)


@app.command()
def report(
    source: Annotated[str, typer.Argument(help="A file, a folder, a glob, or a hub id.")],
    config: ConfigFile = None,
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option(help="The page; NAME.report.json lies beside it.")] = Path(
        "data-report.html"
    ),
    debug: Debug = False,
) -> None:
    """Check SOURCE with the run's own tokenizer, template and length, and write the report."""
    given = read_config(config, overrides or ())
    data = given.data.model_copy(update={"source": source})
    parsed = given.model_copy(update={"data": data})
    from orpo_pipeline.retention.use import in_use
    from tasks.data_report import report_files, write_report
    from tasks.prepare import prepare_data

    page, figures = report_files(parsed.data, output)
    make_folder(state_home())
    # A report is asked for to see what is wrong: it is written for data that no run could use.
    with in_use(state_home()):
        prepared = prepare_data(parsed)
        write_report(parsed, prepared, page, figures)
    console = Console()
    console.print(_funnel(prepared))
    console.print(escape(f"The report: {page} (and {figures})"), soft_wrap=True)
    _warn_of_stop(console, parsed, prepared)


@app.command()
def explain(
    row: Annotated[str, typer.Argument(help="A row id, its first digits, or FILE:ROW.")],
    every: Annotated[
        bool, typer.Option("--all", help="In all prepared data, not only the newest.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Show a row's whole way: origin, changes, tokens, verdict, split."""
    from orpo_pipeline.data.explanation import explain_row
    from orpo_pipeline.pages.rendering import show_controls

    console = Console()
    explanations = explain_row(state_home(), row)
    newest = [e for e in explanations if e.prepared == explanations[0].prepared]
    for explanation in explanations if every else newest:
        table = Table(show_header=False, box=None, pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for label, text in explanation.steps:
            table.add_row(label, escape(show_controls(text)))
        console.print(table)
        console.print()


def _funnel(prepared: PreparedData) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("rows in", f"{prepared.rows_in:,}")
    table.add_row("kept to train", f"{prepared.train_pairs:,}")
    table.add_row("kept to evaluate", f"{prepared.eval_pairs:,}")
    table.add_row("duplicates", f"{prepared.duplicates:,}")
    for code, count in prepared.quarantined.items():
        table.add_row(code, f"{count:,}")
    return table


def _warn_of_stop(console: Console, config: RunConfig, prepared: PreparedData) -> None:
    from orpo_pipeline.data.preparation import check_usable
    from orpo_pipeline.pages.rendering import show_controls
    from schemas.errors import UserError

    try:
        check_usable(prepared, config)
    except UserError as error:
        text = f"A run would stop here: {error.found} Expected: {error.expected}"
        console.print(escape(show_controls(text)), soft_wrap=True)
