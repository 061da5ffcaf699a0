"""`orpo-pipeline doctor`: what a run would stumble over, and what other GPUs could train."""

import json
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orpo_pipeline.base_model import resolve_base_model
from orpo_pipeline.pages.rendering import show_controls
from orpo_pipeline.planning.cards import fit_on_cards
from orpo_pipeline.planning.memory import describe_bytes
from schemas.config import RunConfig
from schemas.findings import Finding, Level, exit_code
from schemas.hardware import Probe
from tasks.doctor.examination import examine
from tasks.home import state_home
from tasks.probe import probe_in_child

STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "bold red"}
WIDEST = len("warning")


def print_findings(config: RunConfig, console: Console, as_json: bool) -> int:
    """Look at everything, print a line for each thing, and return the exit code."""
    findings = examine(config, state_home())
    if as_json:
        found = list(findings)
        code = exit_code(found)
        shown = [finding.model_dump(mode="json") for finding in found]
        print(json.dumps({"exit_code": code, "findings": shown}, indent=1))
        return code
    found = list(_printed(findings, console))
    counts = {level: sum(f.level is level for f in found) for level in Level}
    console.print(", ".join(f"{count} {level.value}" for level, count in counts.items()))
    return exit_code(found)


def _printed(findings: Iterable[Finding], console: Console) -> Iterator[Finding]:
    for finding in findings:
        level = f"[{STYLES[finding.level]}]{finding.level.value:<{WIDEST}}[/]"
        lines = [f"{level} {_safe(finding.what)}: {_safe(finding.found)}"]
        if finding.fix:
            lines.append(f"{'':{WIDEST}} fix: {_safe(finding.fix)}")
        console.print("\n".join(lines), soft_wrap=True, highlight=False)
        yield finding


def _safe(text: str) -> str:
    """Names of files and models may hold a terminal's control sequences, or rich's markup."""
    return escape(show_controls(text))


def print_cards(config: RunConfig, console: Console) -> None:
    """The probe's findings, and a plan for cards that may not be here."""
    here = probe_in_child()
    console.print(_machine(here))
    base = resolve_base_model(
        config.model, state_home(), lambda text: console.print(text, markup=False)
    )
    table = Table(
        title=f"{_safe(base.name)}, up to {config.chat.max_length:,} tokens a pair, "
        "one GPU of SM 8.x",
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
