"""Jobs in child processes: their time, their CPU seconds, and the memory of all their processes."""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from orpo_pipeline.planning.hardware import isa_from_cpuinfo

JOBS = Path(__file__).with_name("preparation_jobs.py")
INTERVAL = 0.2  # seconds between two looks at the memory
ONE_THREAD = {
    "TOKENIZERS_PARALLELISM": "false",
    "RAYON_NUM_THREADS": "1",
    "POLARS_MAX_THREADS": "1",
}
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
PACKAGES = (
    "torch",
    "trl",
    "peft",
    "bitsandbytes",
    "transformers",
    "tokenizers",
    "datasets",
    "polars",
    "pyarrow",
    "numpy",
    "rensa",
)

Result = dict[str, Any]


def run_job(
    job: Result,
    environment: dict[str, str] | None = None,
    jobs: Path = JOBS,
    watched: bool = True,
) -> Result:
    """What the job (see the module `jobs`) gives; if watched, with `peak_pss` and `peak_rss` in
    bytes. Each look at a process of several GB costs it time.

    Raises CalledProcessError when it fails; its words stand on stderr.
    """
    inherited = {k: v for k, v in os.environ.items() if k not in ONE_THREAD}
    with tempfile.TemporaryDirectory(prefix="job-") as folder:
        given, result = Path(folder) / "job.json", Path(folder) / "result.json"
        given.write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, str(jobs), str(given), str(result)]
        # What datasets writes when its cache is off lies in the folder for temporary files.
        own = inherited | OFFLINE | {"TMPDIR": folder, "HF_HOME": folder} | (environment or {})
        process = subprocess.Popen(command, env=own, stdout=subprocess.DEVNULL)
        peaks = _watch(process) if watched else {}
        process.wait()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        found: Result = json.loads(result.read_text(encoding="utf-8"))
    return found | peaks


def _watch(process: subprocess.Popen[bytes]) -> Result:
    """Wait for the process, looking at the memory of it and all its descendants."""
    ended = threading.Event()
    peaks = {"peak_pss": 0, "peak_rss": 0}

    def look() -> None:
        while not ended.wait(INTERVAL):
            pss, rss = memory_of(process.pid)
            peaks.update(peak_pss=max(pss, peaks["peak_pss"]), peak_rss=max(rss, peaks["peak_rss"]))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        process.wait()
    finally:
        process.kill()
        ended.set()
        watcher.join()
    return peaks


def memory_of(pid: int) -> tuple[int, int]:
    """Bytes of a process and its descendants: sum of PSS (USS where there is none), sum of RSS.

    PSS counts a page that k processes share as 1/k in each: the sum is what they really take. RSS
    counts it k times.
    """
    pss = rss = 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0, 0
    for process in processes:
        try:
            memory = process.memory_full_info()
        except psutil.Error:  # it has ended
            continue
        pss += getattr(memory, "pss", memory.uss)
        rss += memory.rss
    return pss, rss


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    return {
        "cpu": _cpu_model(),
        "instructions": " ".join(sorted(isa_from_cpuinfo(_cpu_info()))),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "load": " ".join(f"{value:.1f}" for value in psutil.getloadavg()),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def _cpu_info() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def _cpu_model() -> str:
    lines = _cpu_info().splitlines()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor())


def disk_used(folder: Path) -> int:
    """Bytes that the files below take, each once however many links it has."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            status = path.stat()
            found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def show_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns."""
    cells = [tuple(header), *map(tuple, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    print(f"\n{title}")
    for row in cells:
        first, *others = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join((first, *(cell.strip().rjust(len(cell)) for cell in others))).rstrip())
