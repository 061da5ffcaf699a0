"""Data parallel training on one machine: the stage's process is rank 0 and starts the others.

    python -m orpo_pipeline.training.ranks JOB_FILE STORE RANK

Every rank loads the model and computes its share of each step's pairs; rank 0 alone locks, records
and publishes. No other rank outlives it: their standard input is a pipe that rank 0 holds.

These functions change the process for good (environment, threads, device): it is a rank and then
ends.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn, TypeVar

from orpo_pipeline.training.engine import Interrupted
from orpo_pipeline.training.out_of_memory import SMALLER, memory_kills
from schemas.errors import OutOfMemory, PipelineError
from schemas.jobs import JOB, TrainJob

T = TypeVar("T")

PATIENCE_SECONDS = 30.0
"""How long rank 0 may take to notice by itself that another rank has ended. Gloo tells at once;
NCCL would wait for minutes."""

END_SECONDS = 10.0
RECENT_LOOKS = 4
"""A kill for memory within the last two seconds is taken to be the lost rank's."""

ORPHANED = 143  # 128 + SIGTERM, as a shell reports it


@contextmanager
def started_ranks(job: TrainJob, on_loss: Callable[[PipelineError], None]) -> Iterator[None]:
    """Be rank 0 of `plan.processes` ranks while the block runs; nothing changes for one.

    Args:
        on_loss: must end this process. Called from another thread when a rank has ended early and
            this one has not noticed.

    Raises PipelineError, instead of what the block raises, when another rank ended early.
    """
    ranks = job.plan.processes.value
    if ranks == 1:
        yield
        return
    with TemporaryDirectory(prefix="ranks-") as scratch:
        job_file, store = Path(scratch) / "job.json", Path(scratch) / "store"
        job_file.write_text(job.model_dump_json(), encoding="utf-8")
        command = [sys.executable, "-m", "orpo_pipeline.training.ranks", str(job_file), str(store)]
        # In this process's group, so that who stops it stops them.
        others = OtherRanks([[*command, str(rank)] for rank in range(1, ranks)])
        over = threading.Event()
        threading.Thread(target=_watch, args=(others, over, on_loss), daemon=True).start()
        try:
            with joined(job, 0, store):
                yield
        except (PipelineError, Interrupted):
            raise
        except Exception as error:
            # What the others' broken connections make of it; they take a moment to end themselves.
            lost = others.first_lost(END_SECONDS)
            if lost is None:
                raise
            raise lost from error
        finally:
            over.set()
            others.end()


@contextmanager
def joined(job: TrainJob, rank: int, store: Path) -> Iterator[None]:
    """Be one rank of the group that meets at the file `store` while the block runs."""
    import torch
    import torch.distributed as dist

    ranks = job.plan.processes.value
    threads = max(1, min(torch.get_num_threads(), job.plan.probe.cpu_cores // ranks))
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    # torch meets at the file; these are for transformers and accelerate, as torchrun sets them.
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(ranks),
        LOCAL_WORLD_SIZE=str(ranks),
        OMP_NUM_THREADS=str(threads),
        # Ranks of one machine: no other needs to reach them.
        GLOO_SOCKET_IFNAME=loopback,
        NCCL_SOCKET_IFNAME=loopback,
    )
    torch.set_num_threads(threads)
    on_gpu = job.plan.device.value == "cuda"
    if on_gpu:
        torch.cuda.set_device(rank)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=store.as_uri(), rank=rank, world_size=ranks
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def told_by_first(value: T) -> T:
    """Rank 0's value on every rank; the value itself where there is but one."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return value
    told = [value]
    dist.broadcast_object_list(told)
    return told[0]


def on_any_rank(here: bool, device: Any) -> bool:
    """Whether it is so on any rank: one that went on alone would wait for the others' gradients."""
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        return here
    asked = torch.tensor(int(here), device=device)
    dist.all_reduce(asked, dist.ReduceOp.MAX)
    return bool(asked)


class OtherRanks:
    """The processes of the ranks from 1 on."""

    def __init__(self, commands: list[list[str]]) -> None:
        """`commands`: of rank 1, 2, ..."""
        self.memory_kills = deque([memory_kills()], maxlen=RECENT_LOOKS)
        self.processes = [subprocess.Popen(one, stdin=subprocess.PIPE) for one in commands]

    def first_lost(self, patience: float = 0.0) -> PipelineError | None:
        """The error of the rank that has ended early, or does so within `patience` seconds."""
        deadline = time.monotonic() + patience
        while True:
            codes = [process.poll() for process in self.processes]
            ended = {rank: code for rank, code in enumerate(codes, start=1) if code}
            # With 1 end those that lose their connection to another: that one says more.
            telling = {rank: code for rank, code in ended.items() if code != 1}
            if telling or None not in codes or time.monotonic() >= deadline:
                break
            time.sleep(0.1)
        for rank, code in (telling or ended).items():
            return self._loss(rank, code)
        self.memory_kills.append(memory_kills())
        return None

    def _loss(self, rank: int, code: int) -> PipelineError:
        killed = code == -signal.SIGKILL and memory_kills() > self.memory_kills[0]
        how = " (the system killed it, because memory had run out)" * killed
        found = f"Rank {rank} of the training ended with exit code {code}{how}."
        if killed or code == OutOfMemory.exit_code:
            return OutOfMemory(found, "memory for the model and one pass, on each rank.", SMALLER)
        return PipelineError(
            found,
            f"all {len(self.processes) + 1} ranks to train to the end.",
            "The log says what happened to it; the same command continues from the last "
            "checkpoint.",
        )

    def end(self) -> None:
        """Close what they live by, and wait until they have ended."""
        deadline = time.monotonic() + END_SECONDS
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self.processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _watch(
    others: OtherRanks, over: threading.Event, on_loss: Callable[[PipelineError], None]
) -> None:
    """Call `on_loss` when a rank has ended early and rank 0 still waits for it."""
    while not over.wait(0.5):
        if others.first_lost() is None:
            continue
        if not over.wait(PATIENCE_SECONDS) and (lost := others.first_lost()) is not None:
            on_loss(lost)
        return


def _die_with_first() -> None:
    while os.read(0, 1):
        pass
    os._exit(ORPHANED)  # it has nothing to save: rank 0 writes the checkpoints


def leave(code: int) -> NoReturn:
    """End a process that was a rank, when all that it had to do is done.

    In an orderly exit gloo's threads may abort it (`terminate called`, -6).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> NoReturn:
    """Train as the rank that the command line names."""
    from orpo_pipeline.training.train import run_engine

    parser = argparse.ArgumentParser()
    parser.add_argument("job_file", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("rank", type=int)
    given = parser.parse_args()
    job = JOB.validate_json(given.job_file.read_text(encoding="utf-8"))
    assert isinstance(job, TrainJob)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # rank 0 is told too, and decides for all
    threading.Thread(target=_die_with_first, daemon=True).start()
    try:
        with joined(job, given.rank, given.store):
            run_engine(job, told_by_first(None), lambda *_: None, lambda: False)
    except PipelineError as error:
        traceback.print_exc()
        leave(error.exit_code)
    leave(0)


if __name__ == "__main__":
    main()
