"""Task `promote`: may the registered version become the champion?"""

from datetime import timedelta

from prefect import task
from prefect.artifacts import create_markdown_artifact

from orpo_pipeline.evaluation.gate import gate_markdown
from schemas.config import RunConfig
from schemas.promotion import PromotionResult
from schemas.results import EvaluationReport, RegisteredVersion
from tasks.evidence import PAGE
from tasks.home import state_home
from tasks.links import mlflow_address, run_link, version_link
from tasks.policies import stage_task
from tasks.promotion_requests import promote_if_better
from tasks.tracking_models import registry


@task(**stage_task("promote", timedelta(hours=2)))
def promote(
    config: RunConfig, version: RegisteredVersion, evaluation: EvaluationReport
) -> PromotionResult:
    """Ask the gate, and move the champion when it says so; doing it twice changes nothing."""
    with registry(config.registry, state_home()) as tracker:
        result = promote_if_better(tracker, config.gate, version, evaluation)
    address = mlflow_address(version.tracking_uri, state_home())
    title = f"## {version_link(address, version.model_name, version.version)}: "
    run = run_link(address, version.experiment_id, version.run_id)
    text = f"{title}{', '.join(result.aliases) or 'no alias'}\n\n{result.because}\n"
    text += f"\nThe decision as a page: `{PAGE}` of {run}\n"
    if result.decision is not None:
        text += f"\n{gate_markdown(result.decision)}"
    create_markdown_artifact(text, key="gate")
    return result
