"""The registered model: one version per adapter."""

import json
from typing import Any

import polars as pl

from orpo_pipeline.adapter_files import CONFIG, WEIGHTS
from orpo_pipeline.data.prepared_files import QUARANTINE
from orpo_pipeline.data.tokens.chat_template import load_chat_format
from orpo_pipeline.evaluation.curves import training_curves
from orpo_pipeline.evaluation.figures import data_funnel, margin_histogram
from orpo_pipeline.evaluation.generation import stop_token_ids
from orpo_pipeline.evaluation.judge.judge import VERDICTS
from orpo_pipeline.evaluation.optional_metrics import optional_metrics
from orpo_pipeline.planning.plan import plan_table
from orpo_pipeline.training.train import read_metrics
from schemas.figures import HEADLINES, Figure, in_words
from schemas.plan import TrainingPlan
from schemas.results import EvaluationReport, PreparedData, RegisteredVersion, TrainedAdapter
from schemas.serving import ServingSettings
from tasks.lineage import lineage_links, link_run_and_version
from tasks.model_card import card_files
from tasks.tracking import ADAPTER_TAG, RECORDED_TAG, Tracker
from tasks.version_tags import (
    BASE_MODEL_TAG,
    BASE_REVISION_TAG,
    DATASET_TAG,
    PREPARED_TAG,
    PRUNED_TAG,
    STARTED_FROM_TAG,
)
from tasks.versions import SERVING

ADAPTER_FILES = (
    CONFIG,
    WEIGHTS,
    "chat_template.jinja",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
SERVING_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")
DIGEST_LENGTH = 36  # MLflow's limit; the whole id is a tag


def record_run(
    tracker: Tracker,
    run_id: str,
    prepared: PreparedData,
    plan: TrainingPlan,
    adapter: TrainedAdapter,
    evaluation: EvaluationReport,
) -> bool:
    """Log everything of a run that is not logged yet: data, plan, curves, figures, answers.

    False when it was all there.
    """
    client = tracker.client
    recorded = client.get_run(run_id).data.tags.get(RECORDED_TAG)
    if recorded == evaluation.identity:
        return False
    points = read_metrics(adapter.path / "metrics.jsonl")
    tracker.points.deliver(run_id, points)
    tracker.log_dataset(run_id, prepared.dataset_id[:DIGEST_LENGTH])
    tracker.points.correct(run_id, figure_points(adapter, evaluation))
    client.log_artifact(run_id, str(prepared.path / "report.json"), "data")
    client.log_artifacts(run_id, str(prepared.path / QUARANTINE), f"data/{QUARANTINE}")
    client.log_artifact(run_id, str(evaluation.path / "pairs.parquet"), "evaluation")
    client.log_text(run_id, evaluation.model_dump_json(indent=1), "evaluation/report.json")
    client.log_text(run_id, plan_markdown(plan), "plan.md")
    scores = pl.read_parquet(evaluation.path / "pairs.parquet", glob=False)
    client.log_figure(run_id, data_funnel(_funnel(prepared)), "figures/data_funnel.png")
    client.log_figure(run_id, training_curves(points), "figures/training_curves.png")
    client.log_figure(run_id, margin_histogram(scores), "figures/margins.png")
    answers = json.loads((evaluation.path / "generations.json").read_text(encoding="utf-8"))
    if answers:
        log_answers(tracker, run_id, answers, again=recorded is not None)
    if evaluation.judgement and evaluation.judgement.path.is_dir():
        client.log_artifact(run_id, str(evaluation.judgement.path / VERDICTS), "evaluation")
    client.set_tag(run_id, RECORDED_TAG, evaluation.identity)
    return True


def figure_points(adapter: TrainedAdapter, evaluation: EvaluationReport) -> list[dict[str, Any]]:
    """Each figure as a line from the base model, at step 0, to the candidate, at the last step.

    So a chart shows what training did, and tables and comparisons of runs the candidate's value.
    """
    before = {figure.value: e.value for figure, e in evaluation.base.figures.items()}
    after = {figure.value: e.value for figure, e in evaluation.candidate.figures.items()}
    if evaluation.champion is not None:
        champion = evaluation.champion.figures
        after |= {f"champion/{figure.value}": e.value for figure, e in champion.items()}
    after |= {"train/seconds": adapter.seconds, **optional_metrics(evaluation)}
    return [{"step": 0, "values": before}, {"step": adapter.steps, "values": after}]


def log_answers(tracker: Tracker, run_id: str, answers: list[dict[str, str]], again: bool) -> None:
    """The side-by-side answers as a table. MLflow's own call appends, so a second one replaces."""
    columns = list(answers[0])
    if not again:
        table = {name: [row[name] for row in answers] for name in columns}
        tracker.client.log_table(run_id, table, "generations.json")
        return
    rows = [[row[name] for name in columns] for row in answers]
    tracker.client.log_dict(run_id, {"columns": columns, "data": rows}, "generations.json")


def plan_markdown(plan: TrainingPlan) -> str:
    """The plan as a table."""
    rows = [f"| {name} | {value} | {because} |" for name, value, because in plan_table(plan)]
    head = [f"# Training plan for {plan.probe.name}", "", "| choice | value | because |"]
    return "\n".join([*head, "|---|---|---|", *rows]) + "\n"


def _funnel(prepared: PreparedData) -> dict[str, int]:
    kept = {"training": prepared.train_pairs, "evaluation": prepared.eval_pairs}
    return {**kept, "duplicates": prepared.duplicates, **prepared.quarantined}


def register_version(
    tracker: Tracker,
    run_id: str,
    prepared: PreparedData,
    plan: TrainingPlan,
    adapter: TrainedAdapter,
    evaluation: EvaluationReport,
) -> tuple[str, bool]:
    """The version of this adapter and whether it was there already; logged and made if not."""
    name = tracker.config.model_name
    found = version_of(tracker, adapter.adapter_id)
    if found is not None:
        version = found
    else:
        tracker.ensure_model(name)
        serving = serving_config(prepared, plan)
        card = card_files(tracker, run_id, prepared, adapter, evaluation, serving)
        model_uri, model_id = tracker.log_model(
            run_id,
            adapter_files={file: adapter.path / file for file in ADAPTER_FILES},
            texts={SERVING: serving.model_dump_json(indent=1), **card},
            packages=SERVING_PACKAGES,
        )
        created = tracker.client.create_model_version(
            name,
            model_uri,
            run_id=run_id,
            model_id=model_id,
            tags={
                ADAPTER_TAG: adapter.adapter_id,
                DATASET_TAG: prepared.dataset_id,
                PREPARED_TAG: prepared.prepared_id,
                BASE_MODEL_TAG: prepared.base_model.name,
                BASE_REVISION_TAG: prepared.base_model.revision,
                **({STARTED_FROM_TAG: adapter.started_from} if adapter.started_from else {}),
            },
        )
        version = str(created.version)
    describe(tracker, version, prepared, adapter, evaluation)
    link_run_and_version(tracker, run_id, version, prepared)
    return version, found is not None


def version_of(tracker: Tracker, adapter_id: str) -> str | None:
    """The version that has this adapter; not one whose weights retention has deleted."""
    tag = f"tags.`{ADAPTER_TAG}` = '{adapter_id}'"
    condition = f"name = '{tracker.config.model_name}' and {tag}"
    same = tracker.client.search_model_versions(condition)
    return next((str(one.version) for one in same if PRUNED_TAG not in one.tags), None)


def describe(
    tracker: Tracker,
    version: str,
    prepared: PreparedData,
    adapter: TrainedAdapter,
    evaluation: EvaluationReport,
) -> None:
    """The version's text and figures: those of its newest evaluation."""
    name = tracker.config.model_name
    figures = {"eval_pairs": str(evaluation.pairs)}
    for model, key in (("candidate", "pair_accuracy"), ("base", "pair_accuracy_of_base")):
        accuracy = evaluation.models[model].figures.get(Figure.ACCURACY)
        if accuracy is not None:
            figures[key] = f"{accuracy.value:.4f}"
    for key, value in figures.items():
        tracker.client.set_model_version_tag(name, version, key, value)
    text = describe_version(prepared, adapter, evaluation)
    run_id = tracker.client.get_model_version(name, version).run_id
    text += lineage_links(tracker, run_id, prepared)
    tracker.client.update_model_version(name, version, description=text)


def serving_config(prepared: PreparedData, plan: TrainingPlan) -> ServingSettings:
    """What the model's code needs to load the same base model in the same precision."""
    base = prepared.base_model
    stops = stop_token_ids(load_chat_format(prepared.path / "tokenizer", None))
    return ServingSettings(
        base_model=base.address,
        base_is_local=not base.is_hub_snapshot,
        base_name=base.name,
        base_revision=base.revision,
        stop_token_ids=tuple(stops),
        dtype=plan.dtype.value,
        quantization=plan.quantization.value,
    )


def describe_version(
    prepared: PreparedData, adapter: TrainedAdapter, evaluation: EvaluationReport
) -> str:
    """Markdown for the version's page."""
    models = [evaluation.base, evaluation.candidate]
    rows = [
        [in_words(figure, model.figures.get(figure)) for model in models] for figure in HEADLINES
    ]
    lines = [
        f"| {HEADLINES[figure]} | {base} | {candidate} |"
        for figure, (base, candidate) in zip(HEADLINES, rows, strict=True)
    ]
    left_out = f" ({adapter.skipped_steps} left out: not finite)" if adapter.skipped_steps else ""
    trained = f"{adapter.steps} steps{left_out} on {prepared.train_pairs} pairs"
    if adapter.started_from:
        trained = (
            f"{adapter.steps} steps{left_out} from version {adapter.started_from} on new pairs and "
            "some known ones"
        )
    return (
        f"ORPO adapter for **{prepared.base_model.name}**, {trained} "
        f"(data set `{prepared.dataset_id[:12]}`).\n\n"
        f"| on {evaluation.pairs} held-out pairs | base model | this version |\n|---|---|---|\n"
        + "\n".join(lines)
        + "\n"
    )


def registered(tracker: Tracker, run_id: str, version: str, reused: bool) -> RegisteredVersion:
    """The record of a version."""
    return RegisteredVersion(
        model_name=tracker.config.model_name,
        version=version,
        run_id=run_id,
        experiment_id=tracker.experiment_id(),
        tracking_uri=tracker.uri,
        reused=reused,
    )
