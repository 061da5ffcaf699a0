"""The plan for machines that this test has never seen: probes in, choices out."""

import pytest
from machines import APPLE_M3, AVX2, H100, L4, MACHINES, SMOLLM2, T4, configure, cpu, plan

from orpo_pipeline.planning.capabilities import release_numbers
from orpo_pipeline.planning.memory import describe_bytes
from orpo_pipeline.planning.plan import plan_table, plan_training, predict_memory
from schemas.errors import UserError
from schemas.hardware import Probe
from schemas.plan import TrainingPlan
from schemas.tokens import Longest

LONGEST = Longest(1024, 2048)


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
        "engine",
        "processes",
        "sharding",
        "gradient_checkpointing",
        "forward_pass",
        "dequantised_layers",
    ]
    assert all(len(because) > 10 and not because.endswith(".") for _, _, because in rows)


def test_plan_table_is_text() -> None:
    rows = {name: value for name, value, _ in plan_table(plan(AVX2))}
    assert rows["gradient_checkpointing"] == "off"
    assert rows["engine"] == "packed"
    assert rows["forward_pass"] == "1024"


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
        (L4, "engine", "LlamaForCausalLM: each prompt once, no padding, no kept logits"),
        (L4, "forward_pass", "tokens; estimate 12.5 GiB"),
        (L4, "gradient_checkpointing", "estimate 12.5 GiB of 19.1 GiB (85% of 22.5 GiB)"),
    ],
)
def test_reasons_say_what_decided(probe: Probe, choice: str, words: str) -> None:
    assert words in plan(probe).choices()[choice].because


@pytest.mark.parametrize("probe", [T4, AVX2, APPLE_M3, MACHINES["unknown AMD"][0]])
def test_pip_command_only_where_flash_attention_could_run(probe: Probe) -> None:
    without = probe.model_copy(update={"flash_attn": None})
    assert "pip" not in plan(without).attention.because


def test_each_of_several_gpus_gets_a_rank_that_has_a_pair() -> None:
    four = H100.model_copy(update={"devices": 4})
    decided = plan(four)
    assert decided.device.because.endswith("one of 4")
    assert (decided.processes.value, decided.processes.because) == (4, "4 GPUs, 8 pairs a step")
    assert plan(four, training__batch_size=3).processes.value == 3
    assert plan(four, model__device="cpu").processes.value == 1
    reference = plan(four, training__engine="trl").processes
    assert (reference.value, reference.because) == (1, "4 GPUs, but trl uses one")


def test_ranks_on_a_cpu_share_its_memory() -> None:
    machine = cpu("avx2", ram=24, cpu_cores=4)
    alone, shared = plan(machine), plan(machine, training__processes=4)
    assert "(70% of 24.0 GiB)" in alone.forward_pass.because
    assert "(70% of 6.0 GiB)" in shared.forward_pass.because


def test_cpu_on_a_gpu_machine_is_planned_as_a_cpu() -> None:
    decided = plan(H100, model__device="cpu")
    values = [value for _, value, _ in plan_table(decided)]
    assert values[:5] == ["cpu", "float32", "sdpa", "nf4", "adamw"]
    assert decided.forward_pass.value == 1024
    assert "of 64.0 GiB" in decided.forward_pass.because
    assert "H100" not in decided.device.because


def test_capped_scores_have_no_fused_attention_but_flash() -> None:
    gemma = SMOLLM2.model_copy(update={"architecture": "Gemma2ForCausalLM"})
    found = plan(AVX2, gemma)
    assert (found.attention.value, found.engine.value) == ("eager", "packed")
    assert "no other kernel caps the scores" in found.attention.because
    assert plan(H100, gemma).attention.value == "flash_attention_2"
    older = H100.model_copy(update={"flash_attn": "2.5.9"})
    assert plan(older).attention.value == "flash_attention_2"
    assert plan(older, gemma).attention.value == "eager"
    with pytest.raises(UserError, match=r"flash-attn 2\.5\.9 caps no scores"):
        plan(older, gemma, model__attention="flash_attention_2")
    with pytest.raises(UserError, match="caps its scores"):
        plan(AVX2, gemma, model__attention="sdpa")


def test_predicted_memory_is_the_estimate_that_the_plan_quotes() -> None:
    for engine, quoted in (("packed", "12.5 GiB"), ("trl", "12.0 GiB")):
        config = configure(training__engine=engine, model__dequantised_cache="off")
        decided = plan_training(config, L4, SMOLLM2, LONGEST)
        assert f"estimate {quoted}" in decided.forward_pass.because
        assert describe_bytes(predict_memory(config, decided, SMOLLM2, LONGEST).total) == quoted


def test_predicted_memory_holds_dequantised_layers_too() -> None:
    off, auto = configure(model__dequantised_cache="off"), configure()
    without, kept = (plan_training(config, L4, SMOLLM2, LONGEST) for config in (off, auto))
    assert kept.dequantised_layers.value == 30
    added = predict_memory(auto, kept, SMOLLM2, LONGEST).weights
    added -= predict_memory(off, without, SMOLLM2, LONGEST).weights
    # all parameters but the tied embedding, in bfloat16
    assert added == (134_515_008 - 49_152 * 576) * 2


def test_a_plan_survives_json() -> None:
    decided = plan(H100)
    assert TrainingPlan.model_validate_json(decided.model_dump_json()) == decided


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("2.8.3.post1+cu12", (2, 8, 3)), ("2.10", (2, 10)), ("main", ())],
)
def test_release_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert release_numbers(text) == numbers
