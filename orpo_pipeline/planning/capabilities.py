"""Which dtype, attention, quantisation and optimizer a machine can run, and who says so.

Every function answers for the device that training will use (`target`: a `Probe` of that kind).
`True`: known to work there. `False`: cannot work. `None`: nobody has said; `auto` then stays away
from it, and an explicit request is tried.
"""

import re
from typing import NamedTuple

from schemas.hardware import Probe

FLASH_ATTN_INSTALL = "pip install flash-attn --no-build-isolation"
BITSANDBYTES_INSTALL = "pip install bitsandbytes"
GALORE_INSTALL = "pip install 'orpo-pipeline[galore]'"

FLASH_ATTN_MINIMUM = (2, 3, 3)
"""transformers 5.23, `is_flash_attn_2_available`."""

FLASH_ATTN_CAPPED = (2, 6)
"""First release that knows `softcap`, by its README."""

FLASH_ATTN_BLACKWELL = (2, 7, 3)
"""First release whose build lists sm_100 and sm_120 (Dao-AILab/flash-attention#1436)."""

BF16_GFX = ("gfx90a", "gfx94", "gfx95", "gfx11", "gfx12")
"""MI200, MI300, MI350, RDNA 3 and 4: matrix instructions for bfloat16."""

FLASH_ATTN_GFX = ("gfx90a", "gfx942", "gfx950")
"""flash-attn's README: MI200, MI300, MI350. On RDNA 3 it has no backward pass."""

BITSANDBYTES_GFX = (
    *("gfx908", "gfx90a", "gfx942", "gfx950", "gfx1250"),
    *("gfx101", "gfx103", "gfx110", "gfx115", "gfx120"),
)
"""Prefixes of the AMD architectures in bitsandbytes 0.50's support table."""

BITSANDBYTES_SM_MAJORS = (6, 7, 8, 9, 10, 12)
"""Compiled into bitsandbytes 0.50.2: SM 6.0 up to CUDA 12.6, 7.0 up to 12.8, 10.0 and 12.0 from
12.8; SM 7.5 to 9.0 always."""


class Verdict(NamedTuple):
    """Whether something can run, and why: one sentence without a full stop."""

    possible: bool | None
    because: str


def describe_sm(target: Probe) -> str:
    """`SM 8.6`, as bitsandbytes, flash-attn and NVIDIA's tables write it."""
    if target.compute_capability is None:
        return "an unknown compute capability"
    major, minor = target.compute_capability
    return f"SM {major}.{minor}"


def can_use_bfloat16(target: Probe) -> Verdict:
    """Native bfloat16. `None` also where it is only emulated: correct, but slower than float32."""
    if target.kind == "cpu":
        return _can_use_bfloat16_on_cpu(target)
    if target.kind == "mps":
        return Verdict(None, "Metal emulates bfloat16 on M1 and M2, and half precision is unproven")
    if target.kind == "rocm":
        if target.gfx_arch is None:
            return Verdict(None, "the AMD architecture is unknown")
        native = target.gfx_arch.startswith(BF16_GFX)
        return Verdict(
            native or None, f"{target.gfx_arch} has {'' if native else 'no '}native bfloat16"
        )
    if target.compute_capability is None:
        return Verdict(None, "the compute capability is unknown")
    if target.compute_capability >= (8, 0):
        return Verdict(True, f"{describe_sm(target)} >= 8.0 has native bfloat16")
    return Verdict(False, f"{describe_sm(target)} has no bfloat16 units (they came with SM 8.0)")


def _can_use_bfloat16_on_cpu(target: Probe) -> Verdict:
    for flag in ("amx_bf16", "avx512_bf16", "bf16"):
        if flag in target.cpu_isa:
            return Verdict(True, f"the CPU has {flag} instructions")
    known = ", ".join(sorted(target.cpu_isa)) or "no known extension"
    return Verdict(None, f"the CPU ({known}) would emulate bfloat16, slower than float32")


def can_use_flash_attention(target: Probe, *, capped: bool = False) -> Verdict:
    """FlashAttention 2 for training, through the flash-attn package; `capped`: scores are."""
    if target.kind in ("cpu", "mps"):
        return Verdict(False, f"FlashAttention needs a CUDA or ROCm GPU, not {target.kind}")
    if target.compute_capability is not None and target.compute_capability < (8, 0):
        return Verdict(False, f"{describe_sm(target)} is below FlashAttention 2's SM 8.0")
    if target.gfx_arch is not None and not target.gfx_arch.startswith(FLASH_ATTN_GFX):
        return Verdict(False, f"flash-attn does not list {target.gfx_arch} for training")
    if target.flash_attn is None:
        known = target.compute_capability or target.gfx_arch
        command = f" (`{FLASH_ATTN_INSTALL}`)" if known else ", and the GPU is unknown"
        return Verdict(False, f"flash-attn is not installed{command}")
    installed = release_numbers(target.flash_attn)
    if installed < FLASH_ATTN_MINIMUM:
        return Verdict(
            False,
            f"flash-attn {target.flash_attn} is older than the 2.3.3 that transformers needs "
            f"(`{FLASH_ATTN_INSTALL} --upgrade`)",
        )
    if capped and installed < FLASH_ATTN_CAPPED:
        return Verdict(
            False,
            f"flash-attn {target.flash_attn} caps no scores, 2.6 is the first that does "
            f"(`{FLASH_ATTN_INSTALL} --upgrade`)",
        )
    if target.kind == "rocm":
        return Verdict(None, "flash-attn on AMD is unproven here; torch's SDPA has flash kernels")
    if target.compute_capability is None:
        return Verdict(None, "the compute capability is unknown")
    return _can_use_flash_attention_on_sm(target, installed)


def _can_use_flash_attention_on_sm(target: Probe, installed: tuple[int, ...]) -> Verdict:
    """`target` is CUDA of SM 8.0 or newer with a usable flash-attn."""
    found = f"{describe_sm(target)} >= 8.0 and flash-attn {target.flash_attn}"
    major = (target.compute_capability or (0, 0))[0]
    if major in (8, 9) or (major in (10, 12) and installed >= FLASH_ATTN_BLACKWELL):
        return Verdict(True, found)
    if major in (10, 12):
        return Verdict(None, f"{found}, which is not built for it: 2.7.3 is the first")
    return Verdict(None, f"{found}, whose builds do not name this architecture")


def can_use_nf4(target: Probe) -> Verdict:
    """4-bit NormalFloat weights through bitsandbytes."""
    if target.bitsandbytes is None:
        return Verdict(False, f"bitsandbytes is not installed (`{BITSANDBYTES_INSTALL}`)")
    if target.kind == "mps":
        # It loads there (0.50), through plain PyTorch unless a kernel is fetched from the hub.
        return Verdict(False, "bitsandbytes has only unoptimised NF4 code for mps")
    return _bitsandbytes_backend(target)


def can_use_8bit_optimizer(target: Probe) -> Verdict:
    """AdamW with block-wise 8-bit states through bitsandbytes."""
    if target.bitsandbytes is None:
        return Verdict(False, f"bitsandbytes is not installed (`{BITSANDBYTES_INSTALL}`)")
    if target.kind == "mps":
        return Verdict(False, "bitsandbytes has no 8-bit optimizers on mps")
    return _bitsandbytes_backend(target)


def can_use_galore(target: Probe) -> Verdict:
    """Gradients projected by galore-torch, which is plain torch: any device runs it."""
    if target.galore_torch is None:
        return Verdict(False, f"galore-torch is not installed (`{GALORE_INSTALL}`)")
    return Verdict(True, f"galore-torch {target.galore_torch}")


def _bitsandbytes_backend(target: Probe) -> Verdict:
    """bitsandbytes 0.50's support table; `target` is not mps."""
    package = f"bitsandbytes {target.bitsandbytes}"
    if target.kind == "cpu":
        if target.cpu_isa & {"avx2", "neon"}:
            return Verdict(True, f"{package} runs on this CPU")
        return Verdict(None, f"{package} asks for AVX2 on x86, and neither it nor NEON was found")
    if target.kind == "rocm":
        if (target.gfx_arch or "").startswith(BITSANDBYTES_GFX):
            return Verdict(True, f"{package} lists {target.gfx_arch}")
        return Verdict(None, f"{package} does not list {target.gfx_arch or 'an unknown AMD GPU'}")
    if target.compute_capability is None:
        return Verdict(None, f"whether {package} supports an unknown compute capability is unknown")
    if target.compute_capability < (6, 0):
        return Verdict(False, f"{describe_sm(target)} is below the SM 6.0 that {package} needs")
    if target.compute_capability[0] not in BITSANDBYTES_SM_MAJORS:
        return Verdict(None, f"{package} does not name {describe_sm(target)}")
    if target.compute_capability < (7, 5):
        return Verdict(
            True, f"{package} supports {describe_sm(target)} on torch for CUDA 12 (best from 7.5)"
        )
    return Verdict(True, f"{package} supports {describe_sm(target)}")


def release_numbers(version: str) -> tuple[int, ...]:
    """`2.8.3.post1+cu12` -> (2, 8, 3)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in match[0].split(".")) if match else ()
