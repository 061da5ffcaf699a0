"""How often a server that dies is started again, and after which wait."""

import signal
from collections import deque

LIMIT = 5
WINDOW_SECONDS = 600.0
FIRST_WAIT_SECONDS = 1.0


class Deaths:
    """The recent deaths of one server."""

    def __init__(self) -> None:
        self.times: deque[float] = deque()

    def record(self, now: float) -> float | None:
        """Seconds to wait before the next start; None when this was one death too many.

        `now` is on the monotonic clock. The wait doubles with each death that is still recent, so
        a server that cannot run costs little, and one that died once is back at once.
        """
        self.times.append(now)
        while now - self.times[0] > WINDOW_SECONDS:
            self.times.popleft()
        if len(self.times) >= LIMIT:
            return None
        return float(FIRST_WAIT_SECONDS * 2 ** (len(self.times) - 1))


def ending(code: int) -> str:
    """In words, how a process ended: `exit code 1`, `signal SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"signal {-code}"
