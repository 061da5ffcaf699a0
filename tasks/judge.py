"""Task `judge`: another model compares the answers. Optional.

In this process and not in a stage's child: it needs the network and a key, and neither torch nor
the loaded models, which would wait in memory for an endpoint.
"""

from datetime import timedelta

from prefect import task

from orpo_pipeline.evaluation.judge.judge import (
    ask_judge,
    judgement_folder,
    read_key,
    with_judgement,
)
from orpo_pipeline.evaluation.judge.questions import read_questions
from schemas.config import RegistryConfig
from schemas.judge_config import JudgeConfig
from schemas.results import EvaluationReport, TrainedAdapter
from tasks.home import state_home
from tasks.policies import stage_task
from tasks.progress import StageProgress
from tasks.tracking import recorded_run


@task(**stage_task("judge", timedelta(days=1)))
def judge(
    config: JudgeConfig,
    registry: RegistryConfig,
    adapter: TrainedAdapter,
    evaluation: EvaluationReport,
) -> EvaluationReport:
    """The evaluation with the judge's win rates; without them where too many questions failed."""
    key = read_key(config)
    home = state_home()
    folder = judgement_folder(config, evaluation.path, home)
    questions = {
        comparison.against: read_questions(evaluation.path, comparison.against)
        for comparison in evaluation.comparisons
    }
    with recorded_run(registry, home, adapter.adapter_id), StageProgress("judge") as progress:
        return with_judgement(evaluation, ask_judge(config, key, questions, folder, progress))
