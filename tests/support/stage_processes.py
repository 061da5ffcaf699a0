"""Stage processes that a test has started, and what they report."""

from pathlib import Path

import psutil

from schemas.jobs import Event, Metrics, TrainJob


class Cancelled(BaseException):
    """As Prefect cancels: not an ordinary exception."""


def workers(parent: int) -> list[psutil.Process]:
    """The stage processes that this one started."""
    found = []
    for child in psutil.Process(parent).children(recursive=True):
        try:
            if "orpo_pipeline.worker" in child.cmdline():
                found.append(child)
        except psutil.Error:  # it ended meanwhile
            continue
    return found


def work_folder(job: TrainJob) -> Path:
    return job.home / "training" / job.adapter_id


def steps_in(events: list[Event]) -> list[int]:
    return [event.step for event in events if isinstance(event, Metrics)]
