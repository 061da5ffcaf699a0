"""While `up` runs: flow runs whose process died are continued, and none is forgotten."""

import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from orpo_pipeline.stages import remove_all_abandoned
from schemas.errors import EnvironmentFault
from tasks.process_group import end_flow_run, living_flow_runs
from tasks.recovery import flow_runs, mlflow_runs
from tasks.recovery.flow_runs import Outcome, Run
from tasks.stage_process import STOP_GRACE_SECONDS

LOOK_SECONDS = 2.0
SLOW_LOOK_SECONDS = 30.0
SILENCE = timedelta(minutes=10)
LOOK_TIMEOUT_SECONDS = 5.0
ABSENCE_SECONDS = 60.0

RECENTLY = timedelta(days=1)
"""A crash that is longer ago when `up` starts is known to somebody, and is left alone."""

PATIENCE_SECONDS = {"CRASHED": 5.0, "RUNNING": 15.0, "CANCELLING": 15.0, "PENDING": 120.0}
"""How long a run must be seen without a process before we act; its worker mostly does, at once.

A pending one is waiting for its process to start. Of one that crashed the worker looks for hooks,
in a process of the run, and reports the crash once more after that: this must not hit the run that
goes on."""

Say = Callable[[str], None]


class Answers:
    """How long the Prefect server has answered our looks.

    Where it did not, or we did not look, runs may have been silent for want of a server.
    """

    def __init__(self) -> None:
        self.last = self.since = -math.inf

    def note(self, wall: float, now: float) -> None:
        """An answer at the time `wall` by the wall clock, which goes on while the machine sleeps,
        and `now` by the monotonic one."""
        if wall - self.last > ABSENCE_SECONDS:
            self.since = now
        self.last = wall

    def lasted(self, now: float) -> float:
        """Seconds since the first of the answers that came without a gap."""
        return now - self.since if math.isfinite(self.since) else 0.0


class RunWatcher:
    """What is on record about runs, made to agree with the processes that there are."""

    def __init__(self, home: Path, api: str, mlflow_url: str, say: Say) -> None:
        self.home, self.api, self.mlflow_url, self.say = home, api, mlflow_url, say
        self.since = datetime.now(UTC) - RECENTLY
        self.seen: dict[tuple[str, str], float] = {}
        self.alone: dict[tuple[str, str], float] = {}
        """Since when each run is seen in its state, and since when it has no process."""
        self.next_look = self.next_slow_look = 0.0
        self.answers = Answers()

    def sweep(self) -> None:
        """At the start, while none of our processes lives: settle what the last `up` left."""
        runs = flow_runs.unfinished_runs(self.api) + flow_runs.stopped_runs(self.api)
        self._settle_all(runs + flow_runs.crashed_runs(self.api, self.since))
        self._count("concurrency slots that nobody held, freed", flow_runs.release_slots(self.api))
        removed = remove_all_abandoned(self.home)
        self._count("half-written stages, removed", removed)

    def worker_died(self) -> None:
        """Settle the runs of a worker that is gone, and whose processes were ended."""
        runs = flow_runs.unfinished_runs(self.api)
        self._settle_all(runs + flow_runs.crashed_runs(self.api, self.since))

    def look(self) -> None:
        """Called often: every few seconds it looks. A server that is away is asked again later."""
        now = time.monotonic()
        with suppress(EnvironmentFault):
            if now >= self.next_look:
                self.next_look = now + LOOK_SECONDS
                self._look_at_runs(now)
        with suppress(EnvironmentFault):
            if now >= self.next_slow_look:
                self.next_slow_look = now + SLOW_LOOK_SECONDS
                self._look_outside(now)

    def _look_at_runs(self, now: float) -> None:
        runs = flow_runs.unfinished_runs(self.api, LOOK_TIMEOUT_SECONDS)
        self.answers.note(time.time(), now)
        runs += flow_runs.crashed_runs(self.api, self.since, LOOK_TIMEOUT_SECONDS)
        living = living_flow_runs(self.home) if runs else set()
        current = {(run["id"], run["state_id"]): run for run in runs}
        self.seen = {key: self.seen.get(key, now) for key in current}
        alone = [key for key in current if key[0] not in living]
        self.alone = {key: self.alone.get(key, now) for key in alone}
        for key, run in current.items():
            if key in self.alone:
                if now - self.alone[key] >= PATIENCE_SECONDS[run["state_type"]]:
                    self._settle(run)
            elif run["state_type"] == "CRASHED" and now - self.seen[key] > STOP_GRACE_SECONDS:
                end_flow_run(self.home, run["id"])  # its training should have saved and ended

    def _look_outside(self, now: float) -> None:
        """At what no worker of ours executes, but an `orpo-pipeline run` in another terminal."""
        closed = mlflow_runs.close_abandoned(self.mlflow_url, LOOK_TIMEOUT_SECONDS)
        self._count("MLflow runs whose process is gone, closed as KILLED", closed)
        if self.answers.lasted(now) >= SILENCE.total_seconds():
            silent = flow_runs.crash_silent_runs(self.api, SILENCE, LOOK_TIMEOUT_SECONDS)
            self._count("flow runs of `orpo-pipeline run` whose process is gone, ended", silent)

    def _settle_all(self, runs: list[Run]) -> None:
        outcomes = Counter(flow_runs.settle(self.api, run) for run in runs)
        self._count("flow runs that were cut off, going on", outcomes[Outcome.CONTINUED])
        self._count("flow runs cut off too often, given up", outcomes[Outcome.GIVEN_UP])
        self._count("flow runs that were to be cancelled, cancelled", outcomes[Outcome.CANCELLED])

    def _settle(self, run: Run) -> None:
        outcome = flow_runs.settle(self.api, run)
        self.say(f"Flow run {run['name']} was cut off: {outcome.value}.")

    def _count(self, what: str, count: int) -> None:
        if count:
            self.say(f"{count} {what}.")
