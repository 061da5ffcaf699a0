"""What this machine has and can do, asked in processes of their own.

This process then never holds a GPU context, and what crashes there ends nothing here.
"""

import subprocess
import sys
from functools import cache

from orpo_pipeline.planning.trial import Trial
from schemas.config import RunConfig
from schemas.errors import EnvironmentFault
from schemas.hardware import Probe
from tasks.stage_process import child_environment

PROBE_SECONDS = 300


@cache
def probe_in_child() -> Probe:
    """The probe of this machine. Done once."""
    said = _ask("The hardware probe", "orpo_pipeline.planning.hardware")
    return Probe.model_validate_json(said)


def try_in_child(config: RunConfig) -> Trial:
    """The probe, and a 4-bit layer and a timed matrix product on the configuration's device."""
    said = _ask("The trial", "orpo_pipeline.planning.trial", config.model_dump_json())
    return Trial.model_validate_json(said)


def _ask(what: str, *module: str) -> str:
    """The last line that the module prints. Raises EnvironmentFault when it fails."""
    call = f"python -m {module[0]}"
    try:
        finished = subprocess.run(
            [sys.executable, "-m", *module],
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            env=child_environment(),
        )
    except subprocess.TimeoutExpired as error:
        raise _failed(what, f"no answer in {PROBE_SECONDS} s", call) from error
    if finished.returncode != 0:
        said = finished.stderr.strip()[-800:] or f"exit code {finished.returncode}"
        raise _failed(what, said, call)
    return finished.stdout.strip().splitlines()[-1]


def _failed(what: str, reason: str, call: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"{what} failed: {reason}",
        "torch that can be imported and a working driver.",
        f"Run `{call}` and mend what it reports.",
    )
