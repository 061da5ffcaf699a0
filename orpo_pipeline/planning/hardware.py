"""One look at the machine: the only part of planning that is not a pure function.

`python -m orpo_pipeline.planning.hardware` prints the `Probe` as JSON. The orchestrator runs that
in a child process, because asking torch about a GPU opens a CUDA context that lives as long as its
process.
"""

import json
import os
import platform
import subprocess
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

import psutil

from schemas.hardware import Probe

CPUINFO_NAMES = {
    "avx2": "avx2",
    "avx512f": "avx512f",
    "avx512_bf16": "avx512_bf16",
    "amx_bf16": "amx_bf16",
    "asimd": "neon",
    "neon": "neon",
    "bf16": "bf16",
}
"""Words of /proc/cpuinfo (`flags` on x86, `Features` on Arm) -> our names."""

SYSCTL_NAMES = {
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.neon": "neon",
    "hw.optional.AdvSIMD": "neon",
    "hw.optional.arm.FEAT_BF16": "bf16",
}
"""Keys of macOS `sysctl hw.optional` -> our names."""


def probe_hardware() -> Probe:
    """What this machine can do. With several accelerators: the first one, and their count."""
    import torch

    cpuinfo = _read_text(Path("/proc/cpuinfo"))
    sysctl = _sysctl("hw.optional", "machdep.cpu.brand_string")
    ram = usable_ram(psutil.virtual_memory().total)
    with warnings.catch_warnings():
        # A torch build without a matching driver warns here; the answer "no GPU" is all we need.
        warnings.simplefilter("ignore")
        accelerator = _find_accelerator(ram)
    return Probe(
        **(accelerator or {"kind": "cpu", "name": cpu_name(cpuinfo, sysctl)}),
        ram=ram,
        cpu_cores=_cpu_cores(),
        cpu_isa=isa_from_cpuinfo(cpuinfo) | isa_from_sysctl(sysctl),
        flash_attn=_installed_version("flash-attn"),
        bitsandbytes=_installed_version("bitsandbytes"),
        galore_torch=_installed_version("galore-torch"),
        torch=str(torch.__version__),
    )


def _find_accelerator(ram: int) -> dict[str, Any] | None:
    """Probe fields of the first accelerator; None when torch sees none."""
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        shared = {
            "name": properties.name or "unknown GPU",
            "devices": torch.cuda.device_count(),
            "device_memory": properties.total_memory,
        }
        if torch.version.hip:
            # Such as `gfx942:sramecc+:xnack-`: what follows the colon are the driver's settings.
            gfx_arch = getattr(properties, "gcnArchName", "").split(":")[0] or None
            return {**shared, "kind": "rocm", "gfx_arch": gfx_arch}
        capability = (properties.major, properties.minor)
        return {**shared, "kind": "cuda", "compute_capability": capability}
    if torch.backends.mps.is_available():
        name = cpu_name("", _sysctl("machdep.cpu.brand_string"))
        return {"kind": "mps", "name": name, "device_memory": ram}
    return None


def isa_from_cpuinfo(text: str) -> frozenset[str]:
    """Instruction sets from the text of /proc/cpuinfo."""
    lines = (line.partition(":") for line in text.splitlines())
    words = {
        word
        for key, _, value in lines
        if key.strip() in ("flags", "Features")
        for word in value.split()
    }
    return frozenset(ours for theirs, ours in CPUINFO_NAMES.items() if theirs in words)


def isa_from_sysctl(text: str) -> frozenset[str]:
    """Instruction sets from the output of macOS `sysctl hw.optional`."""
    values = _colon_table(text)
    return frozenset(ours for key, ours in SYSCTL_NAMES.items() if values.get(key) == "1")


def cpu_name(cpuinfo: str, sysctl: str) -> str:
    """As Linux or macOS names the processor, else its architecture."""
    names = (
        _colon_table(cpuinfo).get("model name"),
        _colon_table(sysctl).get("machdep.cpu.brand_string"),
        platform.processor(),
        f"{platform.machine()} CPU",
    )
    return next(name for name in names if name)


def usable_ram(total: int, root: Path = Path("/")) -> int:
    """Bytes of host memory this process may use: `total`, or less where a cgroup limits it.

    Looks at every cgroup from this process's own up to the root, v1 and v2: the tightest limit
    holds. "No limit" is the word `max` in v2 and a number beyond any memory in v1. `root` is where
    /proc and /sys are found.
    """
    return min([total, *_cgroup_limits(root)])


def _cgroup_limits(root: Path) -> Iterator[int]:
    for line in _read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            mount, file = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, file = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        own = PurePosixPath(group.lstrip("/"))
        for folder in (own, *own.parents):
            limit = _read_text(mount / folder / file).strip()
            if limit.isdigit():
                yield int(limit)


def _cpu_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _colon_table(text: str) -> dict[str, str]:
    """`key: value` lines; of a repeated key the last one."""
    cells = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in cells}


def _read_text(path: Path) -> str:
    """The file's text; empty where the system has no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _sysctl(*names: str) -> str:
    """macOS `sysctl NAME...`; empty elsewhere."""
    if platform.system() != "Darwin":
        return ""
    answer = subprocess.run(
        ["/usr/sbin/sysctl", *names], capture_output=True, text=True, check=False
    )
    return answer.stdout


def _installed_version(package: str) -> str | None:
    """Read from the package's metadata: importing it could start CUDA or print."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    record = probe_hardware().model_dump(mode="json")
    print(json.dumps({**record, "cpu_isa": sorted(record["cpu_isa"])}))
