"""`orpo-pipeline doctor` on the command line."""

from typing import Annotated

import typer
from rich.console import Console

from flows.configuration import read_config
from flows.options import ConfigFile, Debug, Overrides
from tasks.home import state_home, use_services


def doctor(
    config: ConfigFile = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    model: Annotated[
        str | None,
        typer.Option(help="Only this: what GPUs of common sizes could do with the model."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Say what a run with this configuration would stumble over, and how to mend it."""
    named = [f"model.base_model={model}"] if model else []
    parsed = read_config(config, [*(overrides or ()), *named])
    # Not `use_state_folder`: a server that is away is a finding here, and nothing is made.
    use_services(state_home())
    from flows.doctor import print_cards, print_findings

    if model:
        print_cards(parsed, Console())
        return
    raise typer.Exit(print_findings(parsed, Console(), as_json))
