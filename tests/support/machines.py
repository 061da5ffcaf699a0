"""Machines that no test has at hand, as probes; the plan that each gets; and three models."""

from typing import Any

from orpo_pipeline.planning.memory import GIB
from orpo_pipeline.planning.plan import plan_training
from schemas.config import RunConfig
from schemas.hardware import Probe
from schemas.plan import ModelShape, TrainingPlan
from schemas.tokens import Longest

SMOLLM2 = ModelShape(
    architecture="LlamaForCausalLM",
    parameters=134_515_008,
    layers=30,
    hidden_size=576,
    vocab_size=49_152,
    tied_embeddings=True,
)
MISTRAL_7B = ModelShape(
    architecture="MistralForCausalLM",
    parameters=7_241_732_096,
    layers=32,
    hidden_size=4096,
    vocab_size=32_000,
)
LLAMA_70B = ModelShape(
    architecture="LlamaForCausalLM",
    parameters=70_553_706_496,
    layers=80,
    hidden_size=8192,
    vocab_size=128_256,
)
FLASH = "2.8.3"
BITSANDBYTES = "0.50.2"


def cpu(*isa: str, ram: float = 24, **more: Any) -> Probe:
    fields = {"bitsandbytes": BITSANDBYTES, "cpu_cores": 8, **more}
    return Probe(kind="cpu", name="a CPU", ram=int(ram * GIB), cpu_isa=frozenset(isa), **fields)


def cuda(name: str, capability: tuple[int, int] | None, memory: float, **more: Any) -> Probe:
    fields = {"bitsandbytes": BITSANDBYTES, "cpu_isa": frozenset({"avx2"}), **more}
    return Probe(
        kind="cuda",
        name=name,
        compute_capability=capability,
        device_memory=int(memory * GIB),
        ram=64 * GIB,
        cpu_cores=16,
        **fields,
    )


def rocm(name: str, gfx_arch: str | None, memory: float, **more: Any) -> Probe:
    fields = {"bitsandbytes": BITSANDBYTES, **more}
    return Probe(
        kind="rocm",
        name=name,
        gfx_arch=gfx_arch,
        device_memory=int(memory * GIB),
        ram=256 * GIB,
        cpu_cores=64,
        **fields,
    )


APPLE_M3 = Probe(
    kind="mps",
    name="Apple M3 Max",
    device_memory=36 * GIB,
    ram=36 * GIB,
    cpu_cores=14,
    cpu_isa=frozenset({"neon", "bf16"}),
    bitsandbytes=BITSANDBYTES,
)
T4 = cuda("Tesla T4", (7, 5), 14.6, flash_attn=FLASH)
L4 = cuda("NVIDIA L4", (8, 9), 22.5)
H100 = cuda("NVIDIA H100", (9, 0), 79.1, flash_attn=FLASH)
AVX2 = cpu("avx2")

# probe -> device, dtype, attention, quantization, optimizer
MACHINES: dict[str, tuple[Probe, str]] = {
    "AVX2": (AVX2, "cpu float32 sdpa nf4 adamw"),
    "AVX512 without bf16": (cpu("avx2", "avx512f"), "cpu float32 sdpa nf4 adamw"),
    "AVX512 bf16": (cpu("avx2", "avx512f", "avx512_bf16"), "cpu bfloat16 sdpa nf4 adamw"),
    "AMX": (cpu("avx2", "avx512f", "amx_bf16"), "cpu bfloat16 sdpa nf4 adamw"),
    "Arm with bf16": (cpu("neon", "bf16"), "cpu bfloat16 sdpa nf4 adamw"),
    "Arm without bf16": (cpu("neon"), "cpu float32 sdpa nf4 adamw"),
    "unknown CPU": (cpu(), "cpu float32 sdpa none adamw"),
    "CPU, no bitsandbytes": (cpu("avx2", bitsandbytes=None), "cpu float32 sdpa none adamw"),
    "V100": (cuda("Tesla V100", (7, 0), 15.8), "cuda float16 sdpa nf4 paged_adamw_8bit"),
    "T4 with flash-attn": (T4, "cuda float16 sdpa nf4 paged_adamw_8bit"),
    "A100": (
        cuda("NVIDIA A100 80GB PCIe", (8, 0), 79.3, flash_attn=FLASH),
        "cuda bfloat16 flash_attention_2 nf4 paged_adamw_8bit",
    ),
    "RTX 3090": (
        cuda("NVIDIA GeForce RTX 3090", (8, 6), 23.7),
        "cuda bfloat16 sdpa nf4 paged_adamw_8bit",
    ),
    "RTX 4090": (
        cuda("NVIDIA GeForce RTX 4090", (8, 9), 23.5, flash_attn="2.8.3.post1"),
        "cuda bfloat16 flash_attention_2 nf4 paged_adamw_8bit",
    ),
    "L4": (L4, "cuda bfloat16 sdpa nf4 paged_adamw_8bit"),
    "L4, old flash-attn": (
        cuda("NVIDIA L4", (8, 9), 22.5, flash_attn="2.1.0"),
        "cuda bfloat16 sdpa nf4 paged_adamw_8bit",
    ),
    "L4, no bitsandbytes": (
        cuda("NVIDIA L4", (8, 9), 22.5, bitsandbytes=None),
        "cuda bfloat16 sdpa none adamw",
    ),
    "H100": (H100, "cuda bfloat16 flash_attention_2 nf4 paged_adamw_8bit"),
    "B200": (
        cuda("NVIDIA B200", (10, 0), 178, flash_attn=FLASH),
        "cuda bfloat16 flash_attention_2 nf4 paged_adamw_8bit",
    ),
    "RTX 5090": (
        cuda("NVIDIA GeForce RTX 5090", (12, 0), 31.4, flash_attn=FLASH),
        "cuda bfloat16 flash_attention_2 nf4 paged_adamw_8bit",
    ),
    "RTX 5090, flash-attn before Blackwell": (
        cuda("NVIDIA GeForce RTX 5090", (12, 0), 31.4, flash_attn="2.7.2"),
        "cuda bfloat16 sdpa nf4 paged_adamw_8bit",
    ),
    "a GPU of the future": (
        cuda("NVIDIA Tomorrow", (13, 0), 500, flash_attn=FLASH),
        "cuda bfloat16 sdpa none adamw",
    ),
    "an unknown GPU": (
        cuda("GPU", None, 40, flash_attn=FLASH),
        "cuda float32 sdpa none adamw",
    ),
    "MI300X": (
        rocm("AMD Instinct MI300X", "gfx942", 191.7, flash_attn=FLASH),
        "cuda bfloat16 sdpa nf4 adamw_8bit",
    ),
    "MI100": (rocm("AMD Instinct MI100", "gfx908", 32), "cuda float16 sdpa nf4 adamw_8bit"),
    "unknown AMD": (rocm("AMD Radeon Graphics", None, 16), "cuda float32 sdpa none adamw"),
    "Apple M3": (APPLE_M3, "mps float32 sdpa none adamw"),
}


def configure(**fields: Any) -> RunConfig:
    """`model__dtype="float16"` sets model.dtype."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in fields.items():
        section, field = name.split("__")
        sections.setdefault(section, {})[field] = value
    return RunConfig.model_validate(sections)


def plan(
    probe: Probe,
    shape: ModelShape = SMOLLM2,
    longest_pair: int = 1024,
    **fields: Any,
) -> TrainingPlan:
    """The plan for pairs of this length; by default of answers alone, the longest that can be."""
    longest = Longest(longest_pair, 2 * longest_pair)
    return plan_training(configure(**fields), probe, shape, longest)
