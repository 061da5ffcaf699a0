"""Servers that live and give no sign of it: a process that hangs, or was stopped."""

from collections.abc import Callable

from schemas.errors import EnvironmentFault
from tasks.prefect_api import WORK_POOL, answers, last_heartbeat

SILENT_SECONDS = 180.0
"""A busy 2-core machine has kept one waiting for 100 s."""

LOOK_SECONDS = 10.0
ANSWER_SECONDS = 2.0


class Silence:
    """Since when each server was not heard.

    `heard`, by name: whether the server gives a sign of life now. Times are on the monotonic clock,
    which stands still while the machine sleeps.
    """

    def __init__(self, heard: dict[str, Callable[[], bool]]) -> None:
        self.heard = heard
        self.last: dict[tuple[str, int], float] = {}
        self.next_look = 0.0

    def look(self, pids: dict[str, int], now: float) -> list[str]:
        """Those of the started servers that were silent for SILENT_SECONDS. Called often."""
        if now < self.next_look:
            return []
        self.next_look = now + LOOK_SECONDS
        # By process id, too: one that was started again begins anew.
        self.last = {server: self.last.get(server, now) for server in pids.items()}
        self.last |= {(name, pid): now for name, pid in pids.items() if self.heard[name]()}
        return [name for (name, _), last in self.last.items() if now - last > SILENT_SECONDS]


def answering(url: str) -> Callable[[], bool]:
    """Whether a server of Prefect or MLflow says that it is well."""
    return lambda: answers(f"{url}/health", ANSWER_SECONDS)


class Heartbeats:
    """Those of the worker, by way of the Prefect server."""

    def __init__(self, api: str) -> None:
        self.api = api
        self.last: str | None = None

    def heard(self) -> bool:
        """Whether there is a new one; also while Prefect does not answer who could tell."""
        try:
            newest = last_heartbeat(self.api, WORK_POOL, ANSWER_SECONDS)
        except EnvironmentFault:
            return True
        is_new, self.last = newest != self.last, newest
        return is_new
