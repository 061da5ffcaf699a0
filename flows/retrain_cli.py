"""`orpo-pipeline retrain`, `announce` and `forget`: new data, and data that must go."""

import os
from functools import partial
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.configuration import read_config
from flows.options import ConfigFile, Debug, Overrides
from flows.start import start_flow, use_state_folder
from schemas.config import RegistryConfig
from schemas.errors import EnvironmentFault
from schemas.retraining import RetrainingDecision
from tasks.home import make_folder, service_environment, state_home


def retrain(
    config: ConfigFile = None,
    overrides: Overrides = None,
    force: Annotated[bool, typer.Option("--force", help="Train whatever is decided.")] = False,
    debug: Debug = False,
) -> None:
    """Look at the watched sources, and train again here when it is worth it."""
    parsed = read_config(config, overrides or ())
    use_state_folder(debug)
    from flows.pipeline import refuse_early
    from flows.retrain import orpo_retrain
    from flows.summary import print_summary

    console = start_flow(partial(refuse_early, parsed))
    result = orpo_retrain(parsed, force)
    console.print(_sources(result.decision))
    console.print(escape(result.decision.because), soft_wrap=True)
    if result.start is not None and parsed.retraining.start == "champion":
        console.print(f"starts {result.start.because}", soft_wrap=True)
    if result.pipeline is not None:
        print_summary(result.pipeline, console)
    if result.pruned is not None and result.pruned.removed:
        folders = sum(removal.count for removal in result.pruned.removed)
        freed = f"{result.pruned.bytes / 2**20:,.1f} MiB"
        console.print(f"[bold]Pruned[/]    {folders:,} folders that nothing needs, {freed}")


def announce(debug: Debug = False) -> None:
    """Tell the Prefect server that data has arrived: it starts `orpo-retrain/orpo-retrain`."""
    from tasks.prefect_api import DATA_ARRIVED, announce_data
    from tasks.servers_file import running_prefect_api

    home = state_home()
    api = os.environ.get("PREFECT_API_URL") or running_prefect_api(home)
    if not api:
        raise EnvironmentFault(
            f"No Prefect server is known: none runs on {home}, and PREFECT_API_URL is not set.",
            "a server to announce the data to.",
            "Start one (`make up`), or set PREFECT_API_URL.",
        )
    announce_data(api)
    print(f"Announced {DATA_ARRIVED} to {api}")


def forget(
    rows: Annotated[list[str], typer.Argument(help="Row ids, or their first digits.")],
    because: Annotated[str, typer.Option(help="Why; the list keeps it.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Take them off the list.")] = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Leave rows out of every later preparation, and name the versions trained on them."""
    registry = read_config(config, overrides or ()).registry
    home = state_home()
    make_folder(home)
    from orpo_pipeline.data.forgotten import mark_forgotten, unmark_forgotten
    from orpo_pipeline.data.row_search import near_duplicates_of, resolve_row_id

    row_ids = {resolve_row_id(home, row) for row in rows}
    console = Console()
    if undo:
        _print_marked("No longer forgotten", unmark_forgotten(home, row_ids), row_ids, console)
        return
    _print_marked("Forgotten from now on", mark_forgotten(home, row_ids, because), row_ids, console)
    near = near_duplicates_of(home, row_ids)
    if near:
        console.print(
            f"Nearly the same, and left out until now: {', '.join(sorted(near))}. One of them may "
            "take the place: name them too if they must go.",
            soft_wrap=True,
        )
    _print_versions(registry, row_ids, console)


def _print_marked(what: str, changed: list[str], asked: set[str], console: Console) -> None:
    for row_id in sorted(asked):
        console.print(f"{what}: {row_id}" + " (already so)" * (row_id not in changed))


def _print_versions(registry: RegistryConfig, row_ids: set[str], console: Console) -> None:
    # MLflow reads its settings when it is imported.
    os.environ.update(service_environment(state_home()))
    from tasks.row_deletion import versions_that_used

    found = versions_that_used(registry, state_home(), row_ids)
    if not found:
        console.print("No registered version was trained or evaluated on them.")
        return
    table = Table(title="Registered versions that had them", title_justify="left")
    for column in ("model", "version", "aliases", "trained on", "evaluated on"):
        table.add_column(column)
    for use in found:
        counts = ("unknown" if n is None else str(n) for n in (use.trained, use.evaluated))
        table.add_row(use.model_name, use.version, ", ".join(use.aliases), *counts)
    console.print(table)
    if any(use.trained is None for use in found):
        console.print(
            "unknown: the version's prepared data is not in this state folder.", soft_wrap=True
        )
    console.print("The next `orpo-retrain` leaves them out; --force does so at once.")


def _sources(decision: RetrainingDecision) -> Table:
    table = Table(title="Sources, against the last training", title_justify="left")
    for column in ("source", "rows", "added", "changed", "removed"):
        table.add_column(column, justify="left" if column == "source" else "right")
    for change in decision.changes:
        counts = (change.rows, change.added, change.changed, change.removed)
        table.add_row(change.name, *(f"{count:,}" for count in counts))
    return table
