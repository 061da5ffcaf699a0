"""The long-lived processes of one `up`: each is started again when it dies, unless too often."""

import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress

from schemas.errors import EnvironmentFault
from tasks.process_group import KILL_WAIT_SECONDS, Child
from tasks.recovery.restarts import LIMIT, Deaths, ending


class KeptServers:
    """Started once by name, and kept running from then on.

    `launch` starts a process; `say` prints a line; `clear_away` ends what a dead one has left and
    answers whether it may be started now.
    """

    def __init__(
        self,
        launch: Callable[[str, list[str]], Child],
        clear_away: Callable[[str], bool],
        say: Callable[[str], None],
    ) -> None:
        self.launch, self.clear_away, self.say = launch, clear_away, say
        self.children: dict[str, Child] = {}
        self.commands: dict[str, list[str]] = {}
        self.deaths: defaultdict[str, Deaths] = defaultdict(Deaths)
        self.restart_at: dict[str, float] = {}
        """When each of the dead ones is due, on the monotonic clock."""

    def start(self, role: str, command: list[str]) -> None:
        """Start what is to be kept."""
        self.commands[role] = command
        self.children[role] = self.launch(role, command)

    def pids(self) -> dict[str, int]:
        """Process ids by name."""
        return {role: child.process.pid for role, child in self.children.items()}

    def living(self) -> dict[str, int]:
        """The same of those that have not ended."""
        alive = {r for r, child in self.children.items() if child.process.poll() is None}
        return {role: pid for role, pid in self.pids().items() if role in alive}

    def kill(self, role: str, why: str) -> None:
        """End one that lives and does not do its work; `mend` then starts it again."""
        self.say(f"`{role}` {why}; its process is killed.")
        process = self.children[role].process
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # it may hang in the kernel
            process.wait(KILL_WAIT_SECONDS)

    def require_alive(self) -> None:
        """Raise EnvironmentFault when one has died: while all is starting, it would die again."""
        for child in self.children.values():
            if child.process.poll() is not None:
                raise ended(child, "it to run on.")

    def mend(self) -> bool:
        """Start again what has died and is due; whether anything was started.

        Raises EnvironmentFault for one that has died too often.
        """
        dead = [child for child in self.children.values() if child.process.poll() is not None]
        return any([self._restart(child) for child in dead])

    def _restart(self, child: Child) -> bool:
        role, now = child.role, time.monotonic()
        if role not in self.restart_at:
            wait = self.deaths[role].record(now)
            if wait is None:
                raise ended(child, "it to run on.", f", the {LIMIT}th death in ten minutes")
            self.restart_at[role] = now + wait
            log = child.log.with_suffix(".log.1")  # where a new one moves it
            how = ending(child.process.returncode)
            self.say(f"`{role}` ended with {how}; it is started again. Its log: {log}")
        if now < self.restart_at[role] or not self.clear_away(role):
            return False
        del self.restart_at[role]
        self.start(role, self.commands[role])
        return True


def ended(child: Child, expected: str, how_often: str = "") -> EnvironmentFault:
    """The error of a process that ended and should not have, or not so."""
    how = ending(child.process.returncode)
    return EnvironmentFault(
        f"`{child.role}` ended with {how}{how_often}. Its last lines:\n{child.log_tail()}\n",
        expected,
        f"The whole log is {child.log}",
    )
