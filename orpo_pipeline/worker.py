"""Entry point of a stage's child process: `python -m orpo_pipeline.worker JOB_FILE --events FD`.

Events go to the file descriptor as JSON lines (schemas.jobs). Standard input is the lifeline: it
closes when the parent dies, however it dies, and the child then stops as on SIGTERM.
"""

import argparse
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from orpo_pipeline.retention.use import in_use
from orpo_pipeline.training.engine import Interrupted
from schemas.errors import PipelineError
from schemas.jobs import (
    JOB,
    LOADING,
    Done,
    Event,
    Failed,
    Job,
    Metrics,
    PrepareJob,
    Progress,
    TrainJob,
)
from schemas.record import Record

PROGRESS_INTERVAL = 0.2  # seconds between progress lines; the last of a kind is always sent
INTERRUPTED = 143  # 128 + SIGTERM, as a shell reports it


class Events:
    """The pipe to the parent. A parent that is gone is not an error here: the lifeline tells."""

    def __init__(self, descriptor: int) -> None:
        self.pipe = os.fdopen(descriptor, "w", encoding="utf-8")
        self.last_progress = 0.0

    def send(self, event: Event) -> None:
        try:
            self.pipe.write(event.model_dump_json() + "\n")
            self.pipe.flush()
        except BrokenPipeError:
            pass

    def progress(self, what: str, done: int = 0, total: int = 0) -> None:
        now = time.monotonic()
        if done < total and done and now - self.last_progress < PROGRESS_INTERVAL:
            return
        self.last_progress = now
        self.send(Progress(what=what, done=done, total=total))

    def fail(self, error: PipelineError) -> None:
        self.send(
            Failed(
                exit_code=error.exit_code, found=error.found, expected=error.expected, fix=error.fix
            )
        )

    def step(self, step: int, steps: int, values: dict[str, float]) -> None:
        self.send(Metrics(step=step, values=values))
        self.progress("training steps", step, steps)


def run_job(job: Job, events: Events, stop: threading.Event) -> Record:
    """Do one stage. Imports wait until the job is known: most need torch, some do not."""
    # The plan is for so many GPUs, and the Trainer would take all that it sees.
    gpus = job.plan.processes.value if isinstance(job, TrainJob) else 1
    every = ",".join(str(gpu) for gpu in range(gpus))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", every)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible.split(",")[:gpus])
    if isinstance(job, PrepareJob):
        from orpo_pipeline.data.preparation import prepare

        return prepare(job.config, job.home, events.progress)
    if isinstance(job, TrainJob):
        from orpo_pipeline.training.ranks import started_ranks
        from orpo_pipeline.training.train import train

        def on_loss(error: PipelineError) -> None:
            events.fail(error)
            os._exit(error.exit_code)

        events.progress(LOADING)
        with started_ranks(job, on_loss):
            return train(job, events.step, stop.is_set, lambda: events.progress("training"))
    from orpo_pipeline.evaluation.evaluate import evaluate

    return evaluate(job, events.progress)


def watch_lifeline() -> None:
    """Turn the end of standard input into SIGTERM to ourselves."""
    while os.read(0, 1):  # not sys.stdin: its lock, held here, would abort the interpreter's exit
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """Run the job of the file named on the command line; the exit code is the error's."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job_file", type=Path)
    parser.add_argument("--events", type=int, required=True)
    arguments = parser.parse_args()
    events = Events(arguments.events)
    job = JOB.validate_json(arguments.job_file.read_text(encoding="utf-8"))
    stop = threading.Event()

    def on_sigterm(*_: object) -> None:
        stop.set()
        if not isinstance(job, TrainJob):  # only training has something to save first
            os._exit(INTERRUPTED)

    signal.signal(signal.SIGTERM, on_sigterm)
    threading.Thread(target=watch_lifeline, daemon=True).start()
    try:
        with in_use(job.home):  # a parent that was killed holds it no longer
            record = run_job(job, events, stop)
    except PipelineError as error:
        traceback.print_exc()
        events.fail(error)
        return error.exit_code
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        return INTERRUPTED
    events.send(Done(record=record.model_dump_json()))
    return 0


if __name__ == "__main__":
    code = main()
    if "RANK" in os.environ:  # it was one of several
        from orpo_pipeline.training.ranks import leave

        leave(code)
    sys.exit(code)
