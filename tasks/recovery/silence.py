"""Servers that live and give no sign of it: a process that hangs, or was stopped."""

from collections.abc import Callable
from dataclasses import dataclass

from schemas.errors import EnvironmentFault
from tasks.prefect_api import WORK_POOL, answers, last_heartbeat

LOOK_SECONDS = 10.0
ANSWER_SECONDS = 2.0

SERVER_LOOKS = 18
"""Three minutes; a new process has twice as long, since a first start migrates its database."""

WORKER_LOOKS = 60
"""Ten minutes: its heartbeats may fail for other reasons, and with it ends what it executes."""


@dataclass(frozen=True)
class Sign:
    """How a server shows that it works, and after how many looks without that it does not."""

    heard: Callable[[], bool]
    looks: int


class Silence:
    """How many looks in a row each server was not heard.

    Looks are counted, not seconds: while this process or the machine stood still nobody looked.
    """

    def __init__(self, signs: dict[str, Sign]) -> None:
        self.signs = signs
        self.missed: dict[tuple[str, int], int] = {}
        self.next_look = 0.0

    def look(self, pids: dict[str, int], now: float) -> list[str]:
        """Those of the started servers that were silent for too long.

        Called often; `now` is on the monotonic clock.
        """
        if now < self.next_look:
            return []
        self.next_look = now + LOOK_SECONDS
        # By process id, too: one that was started again begins anew, below zero.
        self.missed = {
            server: 0 if self.signs[server[0]].heard() else self._missed_before(server) + 1
            for server in pids.items()
        }
        return [name for (name, _), missed in self.missed.items() if missed >= self._allowed(name)]

    def _missed_before(self, server: tuple[str, int]) -> int:
        return self.missed.get(server, -self._allowed(server[0]))

    def _allowed(self, name: str) -> int:
        return self.signs[name].looks


def answering(url: str) -> Sign:
    """A server of Prefect or MLflow says that it is well."""
    return Sign(lambda: answers(f"{url}/health", ANSWER_SECONDS), SERVER_LOOKS)


def reporting(api: str) -> Sign:
    """The worker's heartbeat, by way of the Prefect server, is a new one.

    While Prefect does not answer nobody can tell: that is a sign, too.
    """
    last: str | None = None

    def heard() -> bool:
        nonlocal last
        try:
            newest = last_heartbeat(api, WORK_POOL, ANSWER_SECONDS)
        except EnvironmentFault:
            return True
        is_new, last = newest != last, newest
        return is_new

    return Sign(heard, WORKER_LOOKS)
