"""Resident memory of this process, and its high-water mark, as the kernel counts them (bytes)."""

from pathlib import Path


def reset_peak() -> int:
    """Set the high-water mark to what is resident now, and say how much that is."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return resident()


def resident() -> int:
    return _status("VmRSS")


def peak() -> int:
    """The most that was resident since the last `reset_peak`."""
    return _status("VmHWM")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
