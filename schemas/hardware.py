"""What a machine can do, as far as training cares."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

DeviceKind = Literal["cpu", "cuda", "rocm", "mps"]


class Probe(BaseModel):
    """One look at the machine. Taken by `orpo_pipeline.planning.hardware`, injected in tests."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: DeviceKind
    name: str
    """As the driver or the operating system names it, e.g. `NVIDIA L4`."""
    devices: int = 1
    compute_capability: tuple[int, int] | None = None
    """CUDA only, e.g. (8, 9)."""
    gfx_arch: str | None = None
    """ROCm only, e.g. `gfx942`."""
    device_memory: int = 0
    """Bytes of one accelerator; 0 on a CPU. On Apple the unified memory."""
    ram: int
    """Bytes of host memory."""
    cpu_cores: int
    cpu_isa: frozenset[str] = frozenset()
    """Of `avx2`, `avx512f`, `avx512_bf16`, `amx_bf16`, `neon`, `bf16`."""
    flash_attn: str | None = None
    """Version of the installed flash-attn package."""
    bitsandbytes: str | None = None
    """Version of the installed bitsandbytes package."""
    galore_torch: str | None = None
    """Version of the installed galore-torch package."""
    torch: str = "unknown"

    @property
    def torch_device(self) -> str:
        """ROCm answers to torch's name `cuda`."""
        return "cuda" if self.kind == "rocm" else self.kind

    @property
    def memory(self) -> int:
        """Bytes that training can use in all."""
        return self.device_memory or self.ram
