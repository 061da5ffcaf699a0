"""The facts of a model card, collected when a version is registered."""

from pathlib import Path

from orpo_pipeline.hub import looks_like_hub_id
from orpo_pipeline.model_card.card import CARD, FACTS, render_card
from schemas.config import EMBEDDED
from schemas.data_report import DataReport
from schemas.figures import HEADLINES, in_words
from schemas.model_card import CardFigure, CardSource, ModelCard
from schemas.results import EvaluationReport, PreparedData, TrainedAdapter
from schemas.serving import ServingSettings
from tasks.tracking import Tracker

RECIPE = ("training.", "lora.", "chat.max_length", "plan.engine", "plan.optimizer", "plan.hardware")
"""Run parameters that a card repeats, by the beginning of their names."""

NOT_RECIPE = tuple(
    f"training.{name}"
    for name in (
        *("save_steps", "gradient_checkpointing", "token_budget", "engine", "optimizer"),
        *("processes", "sharding"),
    )
)
"""They decide nothing of the weights, or the plan says what was decided."""

EMBEDDED_DATA_LICENCE = "CC0-1.0"


def card_files(
    tracker: Tracker,
    run_id: str,
    prepared: PreparedData,
    adapter: TrainedAdapter,
    evaluation: EvaluationReport,
    serving: ServingSettings,
) -> dict[str, str]:
    """README.md, and its facts as JSON for the card of an export, by file name."""
    params = dict(tracker.client.get_run(run_id).data.params)
    base = prepared.base_model
    report = DataReport.model_validate_json(
        (prepared.path / "report.json").read_text(encoding="utf-8")
    )
    source = params.get("data.source", "not recorded")
    card = ModelCard(
        model_name=tracker.config.model_name,
        base_name=base.name,
        base_address=serving.base_model,
        base_is_local=serving.base_is_local,
        base_revision=base.revision,
        base_licence=base.licence,
        quantization=serving.quantization,
        dtype=serving.dtype,
        dataset_id=prepared.dataset_id,
        prepared_id=prepared.prepared_id,
        data_source=source,
        data_hub_id=source if looks_like_hub_id(source) and not Path(source).exists() else None,
        data_licence=EMBEDDED_DATA_LICENCE if source == EMBEDDED else None,
        rows_in=prepared.rows_in,
        train_pairs=prepared.train_pairs,
        eval_pairs=prepared.eval_pairs,
        rows_quarantined=prepared.rows_quarantined,
        duplicates=prepared.duplicates,
        sources=tuple(
            CardSource(name=part.source, pairs=part.pairs) for part in report.sources if part.source
        ),
        adapter_id=adapter.adapter_id,
        steps=adapter.steps,
        skipped_steps=adapter.skipped_steps,
        started_from=adapter.started_from,
        recipe={
            name: value
            for name, value in sorted(params.items())
            if name.startswith(RECIPE) and name not in NOT_RECIPE
        },
        eval_scored=evaluation.pairs,
        figures=card_figures(evaluation),
        smallest_difference=evaluation.smallest_difference,
        alarms=evaluation.alarms,
        run_id=run_id,
    )
    return {CARD: render_card(card), FACTS: card.model_dump_json(indent=1)}


def card_figures(evaluation: EvaluationReport) -> tuple[CardFigure, ...]:
    """The headlines of base model and candidate as the card shows them."""
    against_base = evaluation.comparison("base")
    differences = against_base.differences if against_base else {}
    return tuple(
        CardFigure(
            name=name,
            base=in_words(figure, evaluation.base.figures.get(figure)),
            candidate=in_words(figure, evaluation.candidate.figures.get(figure)),
            difference=in_words(figure, differences.get(figure)),
        )
        for figure, name in HEADLINES.items()
    )
