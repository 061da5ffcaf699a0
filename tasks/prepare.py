"""Task `prepare`: source files to train, evaluation and quarantine files."""

from datetime import timedelta

from prefect import task
from prefect.artifacts import create_table_artifact

from orpo_pipeline.base_model import needs_dequantising
from orpo_pipeline.data.inputs import find_inputs
from orpo_pipeline.data.preparation import check_usable, load_prepared, record_evaluated
from schemas.config import RunConfig
from schemas.jobs import Event, PrepareJob, Progress
from schemas.results import PreparedData
from tasks.home import state_home
from tasks.policies import stage_task
from tasks.progress import StageProgress
from tasks.stage_process import run_stage


@task(**stage_task("prepare", timedelta(hours=12), waits=(10, 10)))
def prepare(config: RunConfig) -> PreparedData:
    """Read, check, split and tokenise the configured data; or reuse what is done.

    Raises UserError where a run must not go on with it (`check_usable`).
    """
    prepared = prepare_data(config)
    show_funnel(prepared)
    check_usable(prepared, config)
    record_evaluated(prepared, state_home())
    return prepared


def show_funnel(prepared: PreparedData) -> None:
    """What became of the rows, as an artifact: there also when the data turns out unusable."""
    counts = {
        "rows in": prepared.rows_in,
        "kept to train": prepared.train_pairs,
        "kept to evaluate": prepared.eval_pairs,
        "exact duplicates": prepared.duplicates,
        **prepared.quarantined,
    }
    rows = [{"rows": name, "count": count} for name, count in counts.items()]
    text = f"Data set {prepared.dataset_id}: what became of its rows"
    create_table_artifact(rows, key="data-funnel", description=text)


def prepare_data(config: RunConfig) -> PreparedData:
    """Prepared data, usable for a run or not, of which nothing is held out yet."""
    home = state_home()
    with StageProgress("prepare") as progress:
        if not needs_dequantising(config.model, home):
            done = load_prepared(find_inputs(config, home, progress))
            if done is not None:
                return done

        def on_event(event: Event) -> None:
            if isinstance(event, Progress):
                progress(event.what, event.done, event.total)

        return run_stage(PrepareJob(config=config, home=home), PreparedData, on_event)
