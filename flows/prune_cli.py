"""`orpo-pipeline prune`: what a retraining removes at its end, by hand."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from flows.configuration import read_config
from flows.options import ConfigFile, Debug, Overrides
from schemas.retention import PruneResult
from tasks.home import make_folder, state_home, use_services


def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Remove from the state folder what no kept version and no unfinished work needs."""
    parsed = read_config(config, overrides or ())
    home = state_home()
    make_folder(home)
    use_services(home)
    from tasks.retention.pruning import prune_home

    print_pruned(prune_home(parsed, home, dry_run), Console(), dry_run)


def print_pruned(result: PruneResult, console: Console, dry_run: bool = False) -> None:
    """A table of what went, or would go."""
    verb = "Would be removed" if dry_run else "Removed"
    if not result.removed and not result.pruned_versions:
        console.print("Nothing to remove.")
        return
    table = Table(title=verb, title_justify="left")
    for column in ("what", "how many", "frees"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for removal in result.removed:
        table.add_row(removal.kind, f"{removal.count:,}", f"{removal.bytes / 2**20:,.1f} MiB")
    console.print(table)
    if result.pruned_versions:
        listed = ", ".join(result.pruned_versions)
        console.print(f"Weights deleted from the registry: {listed}", soft_wrap=True)
