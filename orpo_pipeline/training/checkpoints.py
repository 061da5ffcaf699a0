"""Training checkpoints: sealed with a manifest, newest good one found, old ones pruned."""

import json
import logging
import re
import shutil
from pathlib import Path

from orpo_pipeline.stages import MANIFEST, is_complete, seal

KEPT = 2
NAME = re.compile(r"checkpoint-(\d+)")

log = logging.getLogger(__name__)


def seal_checkpoint(folder: Path) -> None:
    """Make a written checkpoint count, then remove all but the newest few.

    The Trainer writes in place; until the manifest stands, a crash leaves a folder that
    `newest_checkpoint` does not take. The age is the step in the name, not the clock's.
    """
    # A pickle of the arguments that nothing reads: we build the arguments from the config.
    (folder / "training_args.bin").unlink(missing_ok=True)
    seal(folder)
    for old in _by_age(folder.parent)[:-KEPT]:
        shutil.rmtree(old)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose every file is as it was written; broken ones leave its name."""
    for checkpoint in reversed(_by_age(folder)):
        if is_complete(checkpoint):
            return checkpoint
        log.warning("%s is incomplete or damaged and is not used", checkpoint.name)
        shutil.rmtree(checkpoint, ignore_errors=True)
    return None


def newest_step(folder: Path) -> int:
    """The step of the newest checkpoint that was sealed; 0 when there is none.

    Its files are not looked at, and nothing is removed: another process may be writing there.
    """
    sealed = [path for path in _by_age(folder) if (path / MANIFEST).is_file()]
    return checkpoint_step(sealed[-1]) if sealed else 0


def is_last(checkpoint: Path) -> bool:
    """Whether training had taken all its steps when this checkpoint was written."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return bool(state["global_step"] >= state["max_steps"])


def checkpoint_step(folder: Path) -> int:
    """The number of optimizer steps behind a checkpoint."""
    match = NAME.fullmatch(folder.name)
    return int(match.group(1)) if match else 0


def _by_age(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("checkpoint-*") if NAME.fullmatch(path.name)]
    return sorted(found, key=checkpoint_step)
