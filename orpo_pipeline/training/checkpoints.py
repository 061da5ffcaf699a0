"""Training checkpoints: published whole, newest good one found, old ones pruned."""

import json
import logging
import re
import shutil
from pathlib import Path

from orpo_pipeline.stages import MANIFEST, is_complete, publish

KEPT = 2
WRITING = "writing"
"""Folder, in that of a training, in which the Trainer writes what does not count yet."""
NAME = re.compile(r"checkpoint-(\d+)")

log = logging.getLogger(__name__)


def publish_checkpoint(work: Path, step: int) -> None:
    """Make what the Trainer wrote of a step count, then remove all but the newest few.

    A crash before that leaves a folder where `newest_checkpoint` does not look. The age of a
    checkpoint is the step in its name, not the clock's.
    """
    written = work / WRITING / f"checkpoint-{step}"
    # A pickle of the arguments that nothing reads: we build the arguments from the config.
    (written / "training_args.bin").unlink(missing_ok=True)
    publish(written, work / written.name)
    for old in _by_age(work)[:-KEPT]:
        shutil.rmtree(old)


def newest_checkpoint(work: Path) -> Path | None:
    """The newest checkpoint whose every file is as it was written.

    Removes broken ones, whose names training will need again, and what was half-written.
    """
    shutil.rmtree(work / WRITING, ignore_errors=True)
    for checkpoint in reversed(_by_age(work)):
        if is_complete(checkpoint):
            return checkpoint
        log.warning("%s is incomplete or damaged and is not used", checkpoint.name)
        shutil.rmtree(checkpoint, ignore_errors=True)
    return None


def newest_step(work: Path) -> int:
    """The step of the newest checkpoint that was published; 0 when there is none.

    Its files are not looked at, and nothing is removed: another process may be writing there.
    """
    published = [path for path in _by_age(work) if (path / MANIFEST).is_file()]
    return checkpoint_step(published[-1]) if published else 0


def is_last(checkpoint: Path) -> bool:
    """Whether training had taken all its steps when this checkpoint was written."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return bool(state["global_step"] >= state["max_steps"])


def checkpoint_step(folder: Path) -> int:
    """The number of optimizer steps behind a checkpoint."""
    match = NAME.fullmatch(folder.name)
    return int(match.group(1)) if match else 0


def _by_age(work: Path) -> list[Path]:
    found = [path for path in work.glob("checkpoint-*") if NAME.fullmatch(path.name)]
    return sorted(found, key=checkpoint_step)
