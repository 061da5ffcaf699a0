"""The command line: `orpo-pipeline run`, `config`, `plan`, `doctor`, `data`, `up` and the rest."""

import sys
import traceback
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from flows.backup_cli import backup, restore
from flows.configuration import read_config
from flows.data_cli import app as data_app
from flows.doctor_cli import doctor
from flows.lineage_cli import lineage
from flows.model_cli import chat, export
from flows.options import ConfigFile, Debug, Overrides
from flows.prune_cli import prune
from flows.registry_cli import promote, promotions, rollback
from flows.retrain_cli import announce, forget, retrain
from flows.start import start_flow, use_state_folder
from schemas.errors import PipelineError
from tasks.home import state_home

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it

app = typer.Typer(
    help="Preference data in, a better chat model out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def run(config: ConfigFile = None, overrides: Overrides = None, debug: Debug = False) -> None:
    """Run the whole pipeline here: prepare, plan, train, evaluate, register, promote."""
    parsed = read_config(config, overrides or ())
    use_state_folder(debug)
    from flows.pipeline import orpo_pipeline, refuse_early
    from flows.summary import print_summary

    console = start_flow(partial(refuse_early, parsed))
    print_summary(orpo_pipeline(parsed), console)


@app.command()
def config(
    file: Annotated[Path | None, typer.Argument(help="YAML file; none: the defaults.")] = None,
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Print the resolved configuration as JSON, for `prefect deployment run -p config=...`."""
    print(read_config(file, overrides or ()).model_dump_json(indent=2))


@app.command()
def plan(config: ConfigFile = None, overrides: Overrides = None, debug: Debug = False) -> None:
    """Prepare the data and print how it would be trained on this machine."""
    parsed = read_config(config, overrides or ())
    use_state_folder(debug)
    from flows.summary import plan_as_table
    from orpo_pipeline.data.preparation import check_usable
    from orpo_pipeline.planning.plan import plan_training
    from tasks.plan import refuse_impossible_requests
    from tasks.prepare import prepare_data
    from tasks.probe import probe_in_child

    refuse_impossible_requests(parsed)
    prepared = prepare_data(parsed)
    check_usable(prepared, parsed)
    decided = plan_training(parsed, probe_in_child(), prepared.base_model.shape, prepared.longest)
    Console().print(plan_as_table(decided))


@app.command()
def up(
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect server.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow server.")] = 5000,
    host: Annotated[
        str, typer.Option(help="A name or IPv4 address of this machine; it needs ORPO_AUTH.")
    ] = "127.0.0.1",
    open_browser: Annotated[bool, typer.Option("--open", help="Open the browser.")] = False,
    debug: Debug = False,
) -> None:
    """Start Prefect, MLflow and a worker, until Ctrl-C; without --host for this machine alone."""
    from tasks.access.listening import Listening
    from tasks.servers import run_servers

    listening = Listening(prefect_port, mlflow_port, host)
    raise typer.Exit(run_servers(state_home(), listening, open_browser))


@app.command()
def worker(debug: Debug = False) -> None:
    """Execute the runs of the Prefect server in PREFECT_API_URL, as its pool's only worker."""
    from tasks.lone_worker import run_worker

    run_worker()


# In the order of `--help`: behind the commands above, by what one meets first.
app.add_typer(data_app, name="data")
for command in (
    doctor,
    chat,
    export,
    lineage,
    promotions,
    promote,
    rollback,
    retrain,
    announce,
    forget,
    prune,
    backup,
    restore,
):
    app.command()(command)


def main() -> None:
    """Entry point: an error that a person can act on is one paragraph and an exit code."""
    try:
        app()
    except PipelineError as error:
        from orpo_pipeline.pages.rendering import show_controls

        if "--debug" in sys.argv:
            print(show_controls(traceback.format_exc()), file=sys.stderr)
        console = Console(stderr=True)
        for label, text in (
            ("Error", error.found),
            ("  expected", error.expected),
            ("  fix", error.fix),
        ):
            # Errors quote data and file names, which may hold a terminal's control sequences.
            shown = escape(show_controls(text))
            console.print(f"[bold]{label}:[/] {shown}", soft_wrap=True, highlight=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
