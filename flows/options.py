"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="SECTION.FIELD=VALUE; may be repeated.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show stack traces and all logs.")]
