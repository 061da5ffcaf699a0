"""Limits of time and memory for rendering a chat template.

Jinja's sandbox keeps a template from files and attributes, but a template that comes with a model
may still loop for hours or multiply a string until the memory is full.
"""

import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import psutil

from schemas.errors import UserError

SECONDS = 20.0
BYTES = 2**30  # beyond what the process holds already
AGAIN = 0.5  # seconds until the clock strikes once more, should a first stroke be swallowed

# The memory limit is the process's: a second thread would take the first one's for the original.
_one_at_a_time = threading.RLock()


class _Expired(BaseException):
    """No Exception, because Jinja takes those for constants that it cannot fold, and goes on."""


@contextmanager
def rendering_limits(seconds: float = SECONDS, spare: int = BYTES) -> Iterator[None]:
    """Raise UserError when the block takes longer, or `spare` bytes more, than a template may.

    The clock is a signal, so in other threads than the main one only the memory is limited.
    """
    with _one_at_a_time:
        try:
            with _memory(spare), _clock(seconds):
                yield
        except (_Expired, MemoryError):
            raise UserError(
                f"The chat template did not finish within {seconds:g} s and "
                f"{spare / 2**30:.3g} GiB.",
                "a template that writes a conversation's text.",
                "Do not use this template; set chat.template to another one.",
            ) from None


@contextmanager
def _memory(spare: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = psutil.Process().memory_info().vms + spare
    if soft != resource.RLIM_INFINITY:
        allowed = min(allowed, soft)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))
    except (ValueError, OSError):  # macOS has the name, but no such limit
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def _clock(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    running = True

    def expired(number: int, frame: FrameType | None) -> None:
        if running:
            raise _Expired

    before = signal.signal(signal.SIGALRM, expired)
    started = time.monotonic()
    # Another timer (a task's time-out, say) waits and gets its remaining time back.
    waiting, interval = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        running = False
        left = max(waiting - (time.monotonic() - started), 1e-3) if waiting else 0.0
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, left, interval)
