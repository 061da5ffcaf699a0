"""The plan for machines that this test has never seen: probes in, choices out."""

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpo_pipeline.planning.capabilities import release_numbers
from orpo_pipeline.planning.memory import GIB
from orpo_pipeline.planning.plan import plan_table, plan_training
from schemas.config import RunConfig
from schemas.errors import UserError
from schemas.hardware import Probe
from schemas.plan import ModelShape, TrainingPlan

SMOLLM2 = ModelShape(
    architecture="LlamaForCausalLM",
    parameters=134_515_008,
    layers=30,
    hidden_size=576,
    vocab_size=49_152,
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
    fields = {"bitsandbytes": BITSANDBYTES, **more}
    return Probe(
        kind="cpu", name="a CPU", ram=int(ram * GIB), cpu_cores=8, cpu_isa=frozenset(isa), **fields
    )


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
    probe: Probe, shape: ModelShape = SMOLLM2, longest_pair: int = 1024, **fields: Any
) -> TrainingPlan:
    return plan_training(configure(**fields), probe, shape, longest_pair)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_machine_gets_its_plan(machine: str) -> None:
    probe, expected = MACHINES[machine]
    decided = plan(probe)
    values = [value for _, value, _ in plan_table(decided)]
    assert " ".join(values[:5]) == expected
    assert decided.probe == probe


@pytest.mark.parametrize("machine", MACHINES)
def test_every_choice_has_a_reason(machine: str) -> None:
    rows = plan_table(plan(MACHINES[machine][0]))
    assert [name for name, _, _ in rows] == [
        "device",
        "dtype",
        "attention",
        "quantization",
        "optimizer",
        "gradient_checkpointing",
        "micro_batch_size",
        "engine",
    ]
    assert all(len(because) > 10 and not because.endswith(".") for _, _, because in rows)


def test_plan_table_is_text() -> None:
    rows = {name: value for name, value, _ in plan_table(plan(AVX2))}
    assert rows["gradient_checkpointing"] == "off"
    assert rows["micro_batch_size"] == "2"


@pytest.mark.parametrize(
    ("probe", "choice", "words"),
    [
        (T4, "dtype", "loss scaling"),
        (T4, "attention", "SM 7.5 is below FlashAttention 2's SM 8.0"),
        (L4, "attention", "pip install flash-attn --no-build-isolation"),
        (MACHINES["L4, old flash-attn"][0], "attention", "2.1.0 is older than the 2.3.3"),
        (MACHINES["L4, no bitsandbytes"][0], "quantization", "pip install bitsandbytes"),
        (MACHINES["an unknown GPU"][0], "dtype", "compute capability is unknown"),
        (MACHINES["a GPU of the future"][0], "attention", "do not name this architecture"),
        (MACHINES["a GPU of the future"][0], "quantization", "does not name SM 13.0"),
        (MACHINES["unknown AMD"][0], "dtype", "AMD architecture is unknown"),
        (MACHINES["AVX512 without bf16"][0], "dtype", "emulate bfloat16, slower than float32"),
        (MACHINES["V100"][0], "quantization", "SM 7.0 on torch for CUDA 12"),
        (H100, "device", "NVIDIA H100, SM 9.0, 79.1 GiB"),
        (AVX2, "optimizer", "nothing pages on a CPU"),
        (L4, "gradient_checkpointing", "estimate 14.5 GiB of 19.1 GiB (85% of 22.5 GiB)"),
    ],
)
def test_reasons_say_what_decided(probe: Probe, choice: str, words: str) -> None:
    assert words in plan(probe).choices()[choice].because


@pytest.mark.parametrize("probe", [T4, AVX2, APPLE_M3, MACHINES["unknown AMD"][0]])
def test_pip_command_only_where_flash_attention_could_run(probe: Probe) -> None:
    without = probe.model_copy(update={"flash_attn": None})
    assert "pip" not in plan(without).attention.because


def test_several_gpus_are_named_and_the_first_is_used() -> None:
    four = H100.model_copy(update={"devices": 4})
    assert plan(four).device.because.endswith("the first of 4")


def test_cpu_on_a_gpu_machine_is_planned_as_a_cpu() -> None:
    decided = plan(H100, model__device="cpu")
    values = [value for _, value, _ in plan_table(decided)]
    assert values[:5] == ["cpu", "float32", "sdpa", "nf4", "adamw"]
    assert decided.micro_batch_size.value == 2
    assert "of 64.0 GiB" in decided.micro_batch_size.because
    assert "H100" not in decided.device.because


def test_possible_overrides_win() -> None:
    wishes: dict[str, Any] = {
        "model__dtype": "float16",
        "model__attention": "eager",
        "model__quantization": "none",
        "training__optimizer": "adamw",
        "training__gradient_checkpointing": "on",
        "training__micro_batch_size": 4,
    }
    decided = plan(H100, **wishes)
    for name, wanted in wishes.items():
        choice = decided.choices()[name.split("__")[1]]
        assert choice.value == (True if wanted == "on" else wanted)
        assert f"asked for by {name.replace('__', '.')}" in choice.because


def test_unproven_but_possible_overrides_are_tried() -> None:
    future = MACHINES["a GPU of the future"][0]
    decided = plan(future, model__attention="flash_attention_2", model__quantization="nf4")
    assert decided.attention.value == "flash_attention_2"
    assert decided.quantization.value == "nf4"
    assert plan(AVX2, model__dtype="bfloat16").dtype.value == "bfloat16"
    assert plan(APPLE_M3, model__dtype="bfloat16").dtype.value == "bfloat16"
    mi300x = MACHINES["MI300X"][0]
    flash = plan(mi300x, model__attention="flash_attention_2").attention
    assert flash.value == "flash_attention_2"
    paged = plan(AVX2, training__optimizer="paged_adamw_8bit").optimizer
    assert paged.value == "paged_adamw_8bit"
    assert "no paging on a CPU" in paged.because


@pytest.mark.parametrize(
    ("probe", "fields", "words"),
    [
        (AVX2, {"model__device": "cuda"}, ["model.device is cuda", "cpu (a CPU)"]),
        (H100, {"model__device": "mps"}, ["model.device is mps", "cpu and cuda (NVIDIA H100)"]),
        (APPLE_M3, {"model__device": "cuda"}, ["model.device is cuda", "cpu and mps"]),
        (T4, {"model__dtype": "bfloat16"}, ["model.dtype is bfloat16", "SM 7.5", "SM 8.0"]),
        (AVX2, {"model__dtype": "float16"}, ["model.dtype is float16", "CPU"]),
        (H100, {"model__device": "cpu", "model__dtype": "float16"}, ["float16", "on a CPU"]),
        (T4, {"model__attention": "flash_attention_2"}, ["SM 7.5 is below", "SM 8.0"]),
        (
            L4,
            {"model__attention": "flash_attention_2"},
            ["not installed", "pip install flash-attn"],
        ),
        (AVX2, {"model__attention": "flash_attention_2"}, ["needs a CUDA or ROCm GPU, not cpu"]),
        (
            H100,
            {"model__attention": "flash_attention_2", "model__dtype": "float32"},
            ["the dtype is float32"],
        ),
        (
            MACHINES["an unknown GPU"][0],
            {"model__attention": "flash_attention_2"},
            ["the dtype is float32"],
        ),
        (
            rocm("AMD Radeon RX 7900 XTX", "gfx1100", 24, flash_attn=FLASH),
            {"model__attention": "flash_attention_2"},
            ["does not list gfx1100"],
        ),
        (
            cpu("avx2", bitsandbytes=None),
            {"model__quantization": "nf4"},
            ["model.quantization is nf4", "not installed", "pip install bitsandbytes"],
        ),
        (APPLE_M3, {"model__quantization": "nf4"}, ["model.quantization is nf4", "mps"]),
        (
            cuda("Tesla M40", (5, 2), 12),
            {"model__quantization": "nf4"},
            ["SM 5.2 is below the SM 6.0"],
        ),
        (
            cpu("avx2", bitsandbytes=None),
            {"training__optimizer": "adamw_8bit"},
            ["training.optimizer is adamw_8bit", "not installed"],
        ),
        (APPLE_M3, {"training__optimizer": "paged_adamw_8bit"}, ["no 8-bit optimizers on mps"]),
        (
            H100,
            {"training__micro_batch_size": 3, "training__batch_size": 8},
            ["micro_batch_size is 3", "batch_size of 8", "one of 1, 2, 4, 8"],
        ),
    ],
)
def test_impossible_overrides_name_both_sides(
    probe: Probe, fields: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UserError) as failure:
        plan(probe, **fields)
    for word in words:
        assert word in str(failure.value)
    for sentence in (failure.value.found, failure.value.expected, failure.value.fix):
        assert sentence.endswith(".")


def test_all_impossible_overrides_come_in_one_error() -> None:
    with pytest.raises(UserError) as failure:
        plan(
            T4.model_copy(update={"bitsandbytes": None}),
            model__dtype="bfloat16",
            model__attention="flash_attention_2",
            model__quantization="nf4",
            training__optimizer="adamw_8bit",
            training__micro_batch_size=5,
        )
    for field in ("dtype", "attention", "quantization", "optimizer", "micro_batch_size"):
        assert f".{field} is " in failure.value.found
    assert str(pickle.loads(pickle.dumps(failure.value))) == str(failure.value)


def test_a_model_that_cannot_fit_is_refused_with_its_parts() -> None:
    with pytest.raises(UserError) as failure:
        plan(L4, LLAMA_70B)
    # (70,553,706,496 - 2 * 128,256 * 8192) * 0.52 + 2 * 128,256 * 8192 * 2 bytes = 37.1 GiB
    assert "weights 37.1 GiB" in failure.value.found
    assert "19.1 GiB (85% of 22.5 GiB) of NVIDIA L4" in failure.value.expected
    assert "model.quantization nf4" not in failure.value.fix
    with pytest.raises(UserError, match=r"model\.quantization nf4"):
        plan(L4, LLAMA_70B, model__quantization="none")
    # The weights alone exceed the GPU: no micro batch could be tried.
    assert "micro_batch_size" not in failure.value.fix
    with pytest.raises(UserError, match="a machine with more memory"):
        plan(L4, LLAMA_70B, training__micro_batch_size=1)


def test_an_explicit_micro_batch_is_tried_against_the_estimate() -> None:
    small = cuda("NVIDIA RTX 3050", (8, 6), 7.6)
    with pytest.raises(UserError, match="tries it against the estimate"):
        plan(small, MISTRAL_7B, longest_pair=2048)
    decided = plan(small, MISTRAL_7B, longest_pair=2048, training__micro_batch_size=1)
    assert decided.gradient_checkpointing.value is True
    assert "may run out of memory" in decided.micro_batch_size.because


@pytest.mark.parametrize(
    ("probe", "shape", "checkpointing", "micro_batch"),
    [
        (H100, SMOLLM2, False, 8),
        (L4, SMOLLM2, False, 4),
        (L4, MISTRAL_7B, True, 4),
        (H100, MISTRAL_7B, False, 2),
        (T4, MISTRAL_7B, True, 2),
        (cpu("avx2", ram=24), SMOLLM2, False, 2),
        (cpu("avx2", ram=8), SMOLLM2, True, 2),
        (cpu("avx2", ram=6), SMOLLM2, True, 1),
        (cpu("amx_bf16", "avx2", ram=48), MISTRAL_7B, False, 1),
    ],
)
def test_batch_and_checkpointing_follow_memory(
    probe: Probe, shape: ModelShape, checkpointing: bool, micro_batch: int
) -> None:
    decided = plan(probe, shape)
    assert decided.gradient_checkpointing.value is checkpointing
    assert decided.micro_batch_size.value == micro_batch


def test_checkpointing_names_what_did_not_fit_without_it() -> None:
    because = plan(L4, MISTRAL_7B).gradient_checkpointing.because
    assert because.startswith("without it, 2 pairs a pass need 41.4 GiB; limit 19.1 GiB")
    # 2 does not divide 9, so 3 is the smallest micro batch worth a pass without checkpointing.
    because = plan(L4, MISTRAL_7B, training__batch_size=9).gradient_checkpointing.because
    assert because.startswith("without it, 3 pairs a pass")


def test_unknown_memory_gets_the_smallest_batch_and_checkpointing() -> None:
    decided = plan(cuda("GPU", (8, 6), 0))
    assert decided.micro_batch_size.value == 1
    assert decided.gradient_checkpointing.value is True
    assert "memory of GPU is unknown" in decided.micro_batch_size.because


def test_host_memory_is_not_taken_for_device_memory() -> None:
    tight = cuda("small GPU", (8, 6), 6)
    roomy = tight.model_copy(update={"ram": 1024 * GIB})
    assert plan(tight).choices() == plan(roomy).choices()


@given(
    batch=st.integers(1, 96),
    longest_pair=st.integers(16, 4096),
    memory=st.integers(8, 200),
    on_cpu=st.booleans(),
)
def test_micro_batch_divides_batch_and_plans_are_pure(
    batch: int, longest_pair: int, memory: int, on_cpu: bool
) -> None:
    probe = cpu("avx2", ram=memory) if on_cpu else cuda("GPU", (8, 6), memory)
    wishes: dict[str, Any] = {"training__batch_size": batch, "longest_pair": longest_pair}
    try:
        decided = plan(probe, **wishes)
    except UserError as refused:
        assert "Training needs an estimated" in refused.found
        return
    assert batch % decided.micro_batch_size.value == 0
    assert not on_cpu or decided.micro_batch_size.value <= 2
    assert plan(probe, **wishes) == decided


def test_more_memory_never_gives_a_slower_plan() -> None:
    plans = [plan(cuda("GPU", (8, 6), memory), MISTRAL_7B) for memory in range(12, 200, 4)]
    ranks = [
        (not decided.gradient_checkpointing.value, decided.micro_batch_size.value)
        for decided in plans
    ]
    assert ranks == sorted(ranks)


def test_a_plan_survives_json() -> None:
    decided = plan(H100)
    assert TrainingPlan.model_validate_json(decided.model_dump_json()) == decided


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("2.8.3.post1+cu12", (2, 8, 3)), ("2.10", (2, 10)), ("main", ())],
)
def test_release_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert release_numbers(text) == numbers
