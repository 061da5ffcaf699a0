"""What a person reads when a run has ended."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orpo_pipeline.evaluation.gate import GATE_COLUMNS, gate_rows
from orpo_pipeline.planning.plan import plan_table
from schemas.gate_decision import GateDecision
from schemas.plan import TrainingPlan
from schemas.results import PipelineResult


def print_summary(result: PipelineResult, console: Console) -> None:
    """Rows, figures before and after, the registered version, the time, the way to the browser."""
    prepared, version = result.prepared, result.version
    console.print()
    console.print(f"[bold]Data[/]      {_rows(result)}")
    if prepared.quarantined:
        listed = ", ".join(f"{code} {count}" for code, count in prepared.quarantined.items())
        console.print(f"          quarantined: {listed}", soft_wrap=True)
    console.print(plan_as_table(result.plan))
    console.print(f"[bold]Training[/]  {_training(result)}")
    console.print(_figures(result))
    promotion = result.promotion
    aliases = ", ".join(promotion.aliases) or "no alias"
    console.print(f"[bold]Model[/]     {version.model_name} version {version.version}: {aliases}")
    console.print(escape(f"          {promotion.because}"), soft_wrap=True)
    if promotion.decision is not None:
        console.print(gate_as_table(promotion.decision))
    console.print(f"[bold]Time[/]      {result.seconds:.0f} s")
    console.print("[bold]See it[/]    make up OPEN=1")


def gate_as_table(decision: GateDecision) -> Table:
    """The gate's verdict with every check behind it."""
    table = Table(title=f"Gate: {decision.verdict.value}", title_justify="left")
    for column in GATE_COLUMNS:
        table.add_column(column)
    for row in gate_rows(decision):
        table.add_row(*map(escape, row))
    return table


def plan_as_table(plan: TrainingPlan) -> Table:
    """Every hardware-dependent choice with its reason."""
    table = Table(title=f"Plan for {plan.probe.name}", title_justify="left")
    for column in ("choice", "value", "because"):
        table.add_column(column)
    for row in plan_table(plan):
        table.add_row(*row)
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
    text = f"{adapter.steps} steps on {result.prepared.base_model.name} in {adapter.seconds:.0f} s"
    if adapter.reused:
        return f"{text} (reused)"
    return f"{text}, continued from step {adapter.resumed_from}" if adapter.resumed_from else text


def _figures(result: PipelineResult) -> Table:
    base, candidate = result.evaluation.base, result.evaluation.candidate
    table = Table(title=f"On {base.pairs:,} held-out pairs", title_justify="left")
    table.add_column("figure")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    table.add_column("counted over")
    over = f"{base.pairs:,} pairs"
    table.add_row("pair accuracy", f"{base.accuracy:.1%}", f"{candidate.accuracy:.1%}", over)
    table.add_row("ORPO loss", f"{base.orpo_loss:.4f}", f"{candidate.orpo_loss:.4f}", over)
    margins = f"{base.log_odds_margin:+.4f}", f"{candidate.log_odds_margin:+.4f}"
    table.add_row("log-odds margin", *margins, over)
    nll = f"{base.chosen_nll:.4f}", f"{candidate.chosen_nll:.4f}"
    table.add_row("NLL of chosen", *nll, f"{base.chosen_tokens:,} tokens")
    return table
