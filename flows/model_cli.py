"""`orpo-pipeline chat` and `export`: use a registered version."""

import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flows.configuration import read_config
from flows.options import ConfigFile, Debug, Overrides
from schemas.serving import Sampling
from tasks.home import state_home, use_services

if TYPE_CHECKING:
    from tasks.export import Exported

TERMINATED = 143  # 128 + SIGTERM, as a shell reports it


def chat(
    who: Annotated[
        str, typer.Argument(help="base, champion, challenger, previous or a version number.")
    ] = "champion",
    compare: Annotated[
        str | None, typer.Option(help="Several side by side instead: base,champion,3")
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 256,
    temperature: Annotated[
        float, typer.Option(min=0, help="0: always the most likely token.")
    ] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1)] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of sampled answers.")] = 0,
    config: ConfigFile = None,
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Talk to a registered version, or to several at once."""
    parsed = read_config(config, overrides or ())
    console = Console()
    sampling = Sampling(
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed
    )
    use_services(state_home())
    from flows.chat_session import ChatSession, parse_names, read_line
    from tasks.chat import ChatModels, require_different

    names = parse_names(compare or who)
    require_different(names, names)  # better before they are loaded
    with TemporaryDirectory() as scratch, console.status("") as status:
        models = ChatModels(parsed, state_home(), Path(scratch), status.update)
        session = ChatSession(models, sampling, console, names, system)
        status.stop()
        if console.is_terminal:
            session.say("/help lists the commands.")
        session.run(read_line)


def export(
    version: Annotated[str, typer.Argument(help="An alias or a version number.")],
    folder: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="bf16 weights with the adapter merged into them.")
    ] = False,
    gguf: Annotated[
        bool, typer.Option("--gguf", help="Merged weights, and the same as a GGUF file.")
    ] = False,
    converter: Annotated[
        Path | None, typer.Option(help="llama.cpp's convert_hf_to_gguf.py; unset: from PATH.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Held-out pairs to measure drift on.")] = 64,
    force: Annotated[
        bool, typer.Option("--force", help="Export merged weights that have drifted, too.")
    ] = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Write a version as a folder for PEFT, TRL and vLLM; or merged; or as GGUF."""
    parsed = read_config(config, overrides or ())
    use_services(state_home())
    from orpo_pipeline.retention.use import in_use
    from tasks.export import ExportRequest, export_version

    # An exit, not a death by signal: only so is the half-written folder removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    console = Console()
    request = ExportRequest(folder, merge, gguf, converter, pairs, force)
    home = state_home()
    at_work = in_use(home) if home.is_dir() else nullcontext()  # a mistyped one is not made
    with at_work, console.status("") as status:
        done = export_version(parsed, home, version, request, status.update)
    _print_export(console, folder, done)


def _print_export(console: Console, folder: Path, done: "Exported") -> None:
    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    say(f"{done.version.name} {done.version.label} in {folder}: {', '.join(done.files)}")
    settings = done.settings
    say(f"base model {settings.base_name}, revision {settings.base_revision}")
    if settings.base_is_local:
        say("The base model is not from a hub: other machines need a folder with these weights.")
    if done.drift is not None:
        onto = "the dequantised NF4 weights" if settings.quantization == "nf4" else "the weights"
        say(f"Merged onto {onto} that the adapter was trained on, and rounded to bfloat16.")
        drift = done.drift
        say(
            f"Drift against base + adapter on {drift.pairs} held-out pairs ({drift.pairs_from}): "
            f"mean KL {drift.mean_kl:.4f} nats per answer token over {drift.tokens:,} tokens, "
            f"{drift.verdict_flips:.1%} of the verdicts changed."
        )
    for warning in done.warnings:
        say(warning)
