"""`orpo-pipeline promotions`, `promote` and `rollback`: who is the champion, and why."""

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.configuration import read_config
from flows.options import ConfigFile, Debug, Overrides
from schemas.config import RegistryConfig
from schemas.promotion import PromotionEntry
from tasks.home import state_home, use_services
from tasks.version_tags import CHAMPION

Because = Annotated[str, typer.Option(help="Why, in a sentence; the history keeps it.")]


def promotions(
    config: ConfigFile = None, overrides: Overrides = None, debug: Debug = False
) -> None:
    """Show the history of the champion: who, when, from, to, why."""
    registry = _registry(config, overrides)
    from tasks.promotion_requests import history_and_aliases

    entries, aliases = history_and_aliases(registry, state_home())
    console = Console()
    console.print(_history_table(entries, registry.model_name))
    listed = ", ".join(f"{alias} {version}" for alias, version in sorted(aliases.items()))
    console.print(f"aliases now: {listed or 'none'}")
    moved = [e for e in entries if e.state == "completed"]
    if moved and aliases.get(CHAMPION) != moved[-1].promotion.to_version:
        console.print(
            f"The alias {CHAMPION} was moved without these commands: by the history it is version "
            f"{moved[-1].promotion.to_version}'s.",
            soft_wrap=True,
        )


def promote(
    version: Annotated[str, typer.Argument(help="Number of the registered version.")],
    because: Because,
    config: ConfigFile = None,
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Make VERSION the champion, whatever the gate said; it is smoke-tested first."""
    registry = _registry(config, overrides)
    from flows.summary import gate_as_table
    from tasks.promotion_requests import decision_about, promote_by_hand

    console = Console()
    decision = decision_about(registry, state_home(), version)
    if decision is None:
        console.print(f"The gate has never decided on version {version}.")
    else:
        console.print(gate_as_table(decision))
        console.print(_shown(f"The gate said {decision.verdict.value}: {decision.because}"))
    console.print("Loading it in a fresh process ...", style="dim")
    _print_move(promote_by_hand(registry, state_home(), version, because), console)


def rollback(
    because: Because = "rolled back by hand",
    config: ConfigFile = None,
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Make the previous champion the champion again; it is smoke-tested first."""
    registry = _registry(config, overrides)
    from tasks.promotion_requests import roll_back

    console = Console()
    console.print("Loading the previous version in a fresh process ...", style="dim")
    _print_move(roll_back(registry, state_home(), because), console)


def _registry(config: ConfigFile, overrides: Overrides) -> RegistryConfig:
    """The configuration's registry, with MLflow's settings made before it is imported."""
    registry = read_config(config, overrides or ()).registry
    use_services(state_home())
    return registry


def _print_move(entry: PromotionEntry | None, console: Console) -> None:
    if entry is None:
        console.print("It is the champion already; nothing was moved.")
        return
    promotion = entry.promotion
    before = f"version {promotion.from_version}" if promotion.from_version else "nobody"
    console.print(
        f"Champion of {promotion.model_name}: {before} -> version {promotion.to_version} "
        f"(promotion {entry.number})",
        soft_wrap=True,
    )
    tested = promotion.smoke_test
    shown = f"It answered in a fresh process, log-probs within {tested.difference:.2g} nats a token"
    console.print(f"{shown}: {escape(repr(tested.answer))}", soft_wrap=True)


def _history_table(entries: list[PromotionEntry], model_name: str) -> Table:
    table = Table(title=f"Promotions of {model_name}", title_justify="left")
    for column in ("", "when (UTC)", "from", "to", "by", "gate", "state", "because"):
        table.add_column(column)
    for entry in entries:
        promotion, decision = entry.promotion, entry.promotion.decision
        table.add_row(
            str(entry.number),
            f"{promotion.when:%Y-%m-%d %H:%M:%S}",
            promotion.from_version or "-",
            promotion.to_version,
            _shown(f"{promotion.kind.value}, {promotion.who}"),
            decision.verdict.value if decision else "-",
            entry.state.value,
            _shown(promotion.because),
        )
    return table


def _shown(text: str) -> str:
    """Text of a shared registry, whose control characters must not reach the terminal."""
    from orpo_pipeline.pages.rendering import show_controls

    return escape(show_controls(text))
