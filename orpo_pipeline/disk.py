"""A disk that fails or is full: an error that says where, what is free and what is needed."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from schemas.errors import EnvironmentFault, PipelineError

# polars, safetensors and tokenizers report a full disk like this, and torch.save like that; none
# of them as an OSError.
NO_OS_ERROR = re.compile(r"\(os error \d+\)|transport error|PytorchStreamWriter failed")


@contextmanager
def disk_faults(doing: str, folder: Path, needed: Callable[[], int] = lambda: 0) -> Iterator[None]:
    """Turn what a disk makes the block raise into EnvironmentFault; our own errors pass.

    Args:
        doing: what is being done, with the path.
        folder: on the disk that it is done to.
        needed: how many bytes it takes, looked at when it has failed; 0 where nobody knows.
    """
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and not NO_OS_ERROR.search(str(error)):
            raise
        raise disk_fault(doing, error, folder, needed()) from error


def disk_fault(doing: str, error: Exception, folder: Path, needed: int = 0) -> EnvironmentFault:
    """The error for a disk on which `folder` is, or would be."""
    because = str(error).partition("\n")[0].rstrip(".")
    enough = f", about {_megabytes(needed)} for this" if needed else ""
    return EnvironmentFault(
        f"{doing} failed: {because}.{_free(folder)}",
        f"a state folder that can be written and has space left{enough}.",
        "Free space or set ORPO_HOME to another folder, then start the same command again.",
    )


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below `folder`; those that vanish meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _free(folder: Path) -> str:
    for place in (folder, *folder.parents):
        with suppress(OSError):
            return f" {_megabytes(shutil.disk_usage(place).free)} are free there."
    return ""


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
