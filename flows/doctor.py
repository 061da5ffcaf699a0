"""`orpo-pipeline doctor`: this machine, and what GPUs of common sizes could train."""

from rich.console import Console
from rich.table import Table

from orpo_pipeline.base_model import resolve_base_model
from orpo_pipeline.planning.cards import fit_on_cards
from orpo_pipeline.planning.memory import describe_bytes
from schemas.config import RunConfig
from schemas.hardware import Probe
from tasks.home import state_home
from tasks.plan import probe_in_child


def print_diagnosis(config: RunConfig, console: Console) -> None:
    """The probe's findings, and a plan for cards that may not be here."""
    here = probe_in_child()
    console.print(_machine(here))
    base = resolve_base_model(config.model, state_home(), lambda text: console.print(text))
    table = Table(
        title=f"{base.name}, up to {config.chat.max_length:,} tokens a pair, one GPU of SM 8.x",
        title_justify="left",
    )
    for column in ("memory", "a training step", "estimate"):
        table.add_column(column)
    for card in fit_on_cards(config, base.shape, here):
        table.add_row(f"{card.gib} GiB", card.how, card.memory or "does not fit")
    console.print(table)
    console.print("Estimates; no GPU has run these plans yet.", style="dim")


def _machine(here: Probe) -> Table:
    table = Table(title="This machine", title_justify="left", show_header=False)
    rows = {
        "device": here.name,
        "memory": describe_bytes(here.memory),
        "host": f"{here.cpu_cores} cores, {describe_bytes(here.ram)}, "
        f"{', '.join(sorted(here.cpu_isa)) or 'no known CPU extension'}",
        "torch": here.torch,
        "bitsandbytes": here.bitsandbytes or "not installed",
        "flash-attn": here.flash_attn or "not installed",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table
