"""The probe of this machine, and the texts that other systems would give it."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from orpo_pipeline.planning.hardware import (
    cpu_name,
    isa_from_cpuinfo,
    isa_from_sysctl,
    probe_hardware,
    usable_ram,
)
from schemas.hardware import Probe

GIB = 1024**3


def test_probe_of_this_machine_agrees_with_torch_and_the_system() -> None:
    import torch

    probe = probe_hardware()
    assert (probe.torch_device == "cuda") == torch.cuda.is_available()
    assert probe.torch == torch.__version__
    assert 0 < probe.ram <= psutil.virtual_memory().total
    assert probe.memory > 0
    assert 1 <= probe.cpu_cores <= (psutil.cpu_count() or 1)
    assert probe.name
    assert probe.bitsandbytes
    assert (probe.compute_capability is not None) == (probe.kind == "cuda")


def test_child_process_prints_only_the_probe() -> None:
    child = subprocess.run(
        [sys.executable, "-m", "orpo_pipeline.planning.hardware"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert child.stderr == ""
    assert Probe.model_validate_json(child.stdout) == probe_hardware()


def test_importing_the_probe_imports_neither_torch_nor_the_packages_it_looks_for() -> None:
    code = (
        "import sys, orpo_pipeline.planning.hardware, orpo_pipeline.planning.plan\n"
        "print({'torch', 'bitsandbytes', 'flash_attn'} & set(sys.modules))"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert child.stdout.strip() == "set()"


def test_probing_leaves_bitsandbytes_unimported() -> None:
    code = (
        "import sys\nfrom orpo_pipeline.planning.hardware import probe_hardware\nprobe_hardware()\n"
        "print({'bitsandbytes', 'flash_attn'} & set(sys.modules))"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert child.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("cpuinfo", "isa"),
    [
        ("flags\t\t: fpu avx avx2 avx512f avx512bw\n", {"avx2", "avx512f"}),
        ("flags\t\t: avx2 avx512f avx512_bf16 amx_bf16 amx_tile\n", None),
        ("Features\t: fp asimd bf16 i8mm\n", {"neon", "bf16"}),
        ("Features\t: half thumb neon vfpv4\n", {"neon"}),
        ("model name\t: avx2 in a name only\n", set()),
        ("", set()),
    ],
)
def test_isa_from_cpuinfo(cpuinfo: str, isa: set[str] | None) -> None:
    everything = {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}
    assert isa_from_cpuinfo(cpuinfo) == (everything if isa is None else isa)


def test_isa_from_sysctl() -> None:
    m3 = "hw.optional.arm.FEAT_BF16: 1\nhw.optional.AdvSIMD: 1\nhw.optional.arm.FEAT_SME: 0\n"
    assert isa_from_sysctl(m3) == {"neon", "bf16"}
    m1 = "hw.optional.arm.FEAT_BF16: 0\nhw.optional.neon: 1\n"
    assert isa_from_sysctl(m1) == {"neon"}
    assert isa_from_sysctl("") == frozenset()


def test_cpu_name_prefers_the_systems_own() -> None:
    assert cpu_name("model name\t: AMD EPYC 9654\nflags\t: avx2\n", "") == "AMD EPYC 9654"
    assert cpu_name("", "machdep.cpu.brand_string: Apple M3 Max\n") == "Apple M3 Max"
    assert cpu_name("", "")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_ram_without_a_cgroup_is_all_of_it(tmp_path: Path) -> None:
    assert usable_ram(64 * GIB, tmp_path) == 64 * GIB


def test_ram_respects_the_tightest_cgroup_v2_limit(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/pods/trainer\n")
    groups = tmp_path / "sys/fs/cgroup"
    write(groups / "pods/trainer/memory.max", "max\n")
    assert usable_ram(64 * GIB, tmp_path) == 64 * GIB
    write(groups / "pods/memory.max", f"{8 * GIB}\n")
    assert usable_ram(64 * GIB, tmp_path) == 8 * GIB
    write(groups / "pods/trainer/memory.max", f"{4 * GIB}\n")
    assert usable_ram(64 * GIB, tmp_path) == 4 * GIB


def test_ram_in_a_container_reads_the_limit_at_the_mount(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/\n")
    write(tmp_path / "sys/fs/cgroup/memory.max", f"{2 * GIB}\n")
    assert usable_ram(64 * GIB, tmp_path) == 2 * GIB


def test_ram_respects_a_cgroup_v1_limit(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "9:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/x\n")
    memory = tmp_path / "sys/fs/cgroup/memory"
    write(memory / "memory.limit_in_bytes", "9223372036854771712\n")
    assert usable_ram(64 * GIB, tmp_path) == 64 * GIB
    write(memory / "docker/abc/memory.limit_in_bytes", f"{3 * GIB}\n")
    assert usable_ram(64 * GIB, tmp_path) == 3 * GIB
