"""The command line: `orpo-pipeline run`, `config`, `plan`, `doctor`, `data`, `up` and the rest."""

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from flows.configuration import read_config
from flows.data_cli import app as data_app
from flows.lineage_cli import lineage
from flows.model_cli import chat, export
from flows.options import ConfigFile, Debug, Overrides
from flows.registry_cli import promote, promotions, rollback
from schemas.errors import EnvironmentFault, PipelineError
from tasks.home import make_folder, service_environment, state_home
from tasks.process_group import mark_run

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
TERMINATED = 143  # 128 + SIGTERM

app = typer.Typer(
    help="Preference data in, a better chat model out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(data_app, name="data")
app.command()(chat)
app.command()(export)
app.command()(lineage)
app.command()(promotions)
app.command()(promote)
app.command()(rollback)


@app.command()
def run(config: ConfigFile = None, overrides: Overrides = None, debug: Debug = False) -> None:
    """Run the whole pipeline here: prepare, plan, train, evaluate, register."""
    parsed = read_config(config, overrides or ())
    use_state_folder(debug)
    # An exit, not a death by signal: only so is Prefect's temporary server stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    mark_run(state_home())
    from flows.pipeline import orpo_pipeline
    from flows.summary import print_summary
    from tasks.temporary_server import start_temporary_server

    start_temporary_server()
    console = Console()
    console.print(f"state folder {state_home()}", style="dim", soft_wrap=True)
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
    from tasks.plan import probe_in_child, refuse_impossible_requests
    from tasks.prepare import prepare_data

    refuse_impossible_requests(parsed)
    prepared = prepare_data(parsed)
    check_usable(prepared, parsed)
    decided = plan_training(parsed, probe_in_child(), prepared.base_model.shape, prepared.longest)
    Console().print(plan_as_table(decided))


@app.command()
def doctor(
    config: ConfigFile = None,
    model: Annotated[str | None, typer.Option(help="Instead of model.base_model.")] = None,
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Say what this machine has, and what GPUs of common sizes could train."""
    named = [f"model.base_model={model}"] if model else []
    parsed = read_config(config, [*(overrides or ()), *named])
    use_state_folder(debug)
    from flows.doctor import print_diagnosis

    print_diagnosis(parsed, Console())


@app.command()
def up(
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect server.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow server.")] = 5000,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the browser.")] = False,
    debug: Debug = False,
) -> None:
    """Start Prefect, MLflow and a worker on 127.0.0.1, until Ctrl-C."""
    from tasks.servers import run_servers

    raise typer.Exit(run_servers(state_home(), prefect_port, mlflow_port, open_browser))


def use_state_folder(debug: bool) -> None:
    """Point Prefect and MLflow at the state folder, and at the server of `up` when it runs.

    Both read their settings when they are imported, so this comes first.
    """
    from tasks.prefect_api import answers
    from tasks.servers_file import running_prefect_api

    home = state_home()
    # Prefect logs each failed task with its stack trace; without --debug one paragraph says it.
    level = "DEBUG" if debug else os.environ.get("PREFECT_LOGGING_LEVEL", "CRITICAL")
    api = os.environ.get("PREFECT_API_URL") or running_prefect_api(home)
    if api and not answers(f"{api}/health"):
        raise EnvironmentFault(
            f"The Prefect server {api} does not answer.",
            "a running Prefect server in PREFECT_API_URL, or none named.",
            "Start it (`make up`), or `unset PREFECT_API_URL` to run without a server.",
        )
    os.environ.update(
        service_environment(home), PREFECT_LOGGING_LEVEL=level, PREFECT_LOGGING_INTERNAL_LEVEL=level
    )
    make_folder(Path(os.environ["PREFECT_HOME"]))  # its SQLite does not make the folder
    if api:
        os.environ["PREFECT_API_URL"] = api


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
