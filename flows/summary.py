"""What a person reads when a run has ended."""

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orpo_pipeline.planning.plan import plan_table
from schemas.figures import HEADLINES, Figure, in_words
from schemas.gate_decision import GateDecision
from schemas.plan import TrainingPlan
from schemas.results import EvaluationReport, PipelineResult


def print_summary(result: PipelineResult, console: Console) -> None:
    """Rows, figures before and after, the registered version, the time, the way to the browser."""
    prepared, version = result.prepared, result.version
    console.print()
    console.print(f"[bold]Data[/]      {_rows(result)}")
    if prepared.quarantined:
        listed = ", ".join(f"{code} {count}" for code, count in prepared.quarantined.items())
        console.print(f"          quarantined: {listed}", soft_wrap=True)
    console.print(plan_as_table(result.plan))
    console.print(f"[bold]Training[/]  {escape(_training(result))}")
    console.print(_figures(result))
    for line in [*_judged(result.evaluation), *_benchmarks(result.evaluation)]:
        console.print(line, soft_wrap=True)
    for alarm in result.evaluation.alarms:
        console.print(escape(f"          {alarm}"), soft_wrap=True)
    promotion = result.promotion
    aliases = ", ".join(promotion.aliases) or "no alias"
    console.print(
        f"[bold]Model[/]     {escape(version.model_name)} version {version.version}: {aliases}"
    )
    if promotion.decision is None:
        console.print(escape(f"          {promotion.because}"), soft_wrap=True)
    else:
        console.print(gate_as_table(promotion.decision))
    console.print(f"[bold]Time[/]      {result.seconds:.0f} s")
    console.print("[bold]See it[/]    make up OPEN=1")


def gate_as_table(decision: GateDecision) -> Table:
    """The gate's verdict with every check behind it."""
    table = Table(title=f"Gate: {decision.verdict.value}", title_justify="left")
    for column in ("requirement", "outcome", "because"):
        table.add_column(column)
    for check in decision.checks:
        table.add_row(check.name, check.outcome.value, escape(check.because))
    return table


def plan_as_table(plan: TrainingPlan) -> Table:
    """Every hardware-dependent choice with its reason."""
    table = Table(title=f"Plan for {escape(plan.probe.name)}", title_justify="left")
    for column in ("choice", "value", "because"):
        table.add_column(column)
    for row in plan_table(plan):
        table.add_row(*map(escape, row))
    return table


def _rows(result: PipelineResult) -> str:
    prepared = result.prepared
    kept = prepared.train_pairs + prepared.eval_pairs
    reused = " (reused)" if prepared.reused else ""
    return (
        f"{prepared.rows_in:,} rows in = {kept:,} kept ({prepared.train_pairs:,} to train, "
        f"{prepared.eval_pairs:,} to evaluate) + {prepared.rows_quarantined:,} quarantined + "
        f"{prepared.duplicates:,} duplicates{reused}"
    )


def _training(result: PipelineResult) -> str:
    adapter = result.adapter
    began = f"from version {adapter.started_from} " if adapter.started_from else ""
    text = (
        f"{adapter.steps} steps {began}on {result.prepared.base_model.name} in "
        f"{adapter.seconds:.0f} s"
    )
    if adapter.skipped_steps:
        text += f", {adapter.skipped_steps} left out (not finite)"
    if adapter.reused:
        return f"{text} (reused)"
    return f"{text}, continued from step {adapter.resumed_from}" if adapter.resumed_from else text


def _figures(result: PipelineResult) -> Table:
    """Figures with their 95 % intervals, and what these pairs could have shown."""
    evaluation = result.evaluation
    table = Table(title=_measured_on(evaluation), title_justify="left")
    table.add_column("figure [95 % interval]")
    names = {"base": "base model", "candidate": "candidate", "champion": "champion"}
    for name in evaluation.models:
        table.add_column(names[name], justify="right")
    for figure, label in HEADLINES.items():
        models = evaluation.models.values()
        table.add_row(label, *(in_words(figure, model.figures.get(figure)) for model in models))
    return table


def _measured_on(evaluation: EvaluationReport) -> str:
    text = f"On {evaluation.pairs:,} held-out pairs in {evaluation.groups:,} prompt groups"
    smallest = evaluation.smallest_difference
    if smallest is None:
        return text
    return (
        f"{text}; a change of pair accuracy by less than {100 * smallest:.1f} points would "
        "probably go unseen"
    )


def _judged(evaluation: EvaluationReport) -> Iterator[str]:
    """One line a comparison that the judge has decided."""
    for rate in evaluation.judgement.win_rates if evaluation.judgement else ():
        plain, equal = (
            in_words(figure, rate.figures.get(figure))
            for figure in (Figure.JUDGE_WIN_RATE, Figure.JUDGE_WIN_RATE_LENGTH_CONTROLLED)
        )
        if rate.figures:
            yield (
                f"[bold]Judge[/]     {escape(f'{plain} of {rate.judged} answers won')} against "
                f"the {rate.against}; {escape(equal)} at equal length"
            )


def _benchmarks(evaluation: EvaluationReport) -> Iterator[str]:
    """One line a benchmark metric."""
    for benchmark in evaluation.benchmarks:
        found = ", ".join(
            f"{name} {one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"
            for name, one in benchmark.models.items()
        )
        yield f"[bold]Benchmark[/] {escape(f'{benchmark.task} {benchmark.metric}: {found}')}"
