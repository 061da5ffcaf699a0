"""Whether ranks share the base model's layers, on GPUs that were never here."""

from typing import Any

import pytest
from machines import L4, LLAMA_70B, SMOLLM2, configure, cpu

from orpo_pipeline.planning.memory import GIB
from orpo_pipeline.planning.plan import plan_training, predict_memory
from schemas.errors import UserError
from schemas.hardware import Probe
from schemas.plan import ModelShape, TrainingPlan
from schemas.tokens import Longest

LONGEST = Longest(1024, 2048)
LLAMA_13B = ModelShape(
    architecture="LlamaForCausalLM",
    parameters=13_015_864_320,
    layers=40,
    hidden_size=5120,
    vocab_size=32_000,
)


def cards(number: int, gib: float) -> Probe:
    return L4.model_copy(update={"devices": number, "device_memory": int(gib * GIB)})


def planned(probe: Probe, shape: ModelShape, **asked: Any) -> TrainingPlan:
    return plan_training(configure(**asked), probe, shape, LONGEST)


def test_whole_models_where_they_fit() -> None:
    decided = planned(cards(2, 24), LLAMA_13B)
    assert (decided.processes.value, decided.sharding.value) == (2, False)


def test_shares_where_only_they_fit() -> None:
    probe = cards(2, 11)
    with pytest.raises(UserError, match="at its smallest") as refused:
        planned(probe, LLAMA_13B, training__sharding="off")
    assert "training.sharding auto" in refused.value.fix
    decided = planned(probe, LLAMA_13B)
    assert decided.sharding.value
    assert "fits on none of 2 GPUs" in decided.sharding.because
    assert decided.dequantised_layers.value == 0
    estimate = predict_memory(configure(), decided, LLAMA_13B, LONGEST)
    assert estimate.total <= 0.85 * probe.device_memory


def test_the_estimate_counts_a_share_and_two_whole_layers() -> None:
    decided = planned(cards(4, 48), LLAMA_13B, training__sharding="on")
    weights = predict_memory(configure(), decided, LLAMA_13B, LONGEST).weights
    # 327,680,000 in embeddings of 2 bytes. 12,688,184,320 in layers: a quarter of 4 bits each,
    # 2 of 40 layers whole, 0.02 bytes of scales.
    assert weights == 655_360_000 + 1_586_023_040 + 317_204_608 + 253_763_686


def test_a_pass_that_is_asked_for_is_tried_in_shares_as_well() -> None:
    decided = planned(cards(2, 11), LLAMA_13B, training__token_budget=2048)
    assert decided.sharding.value
    assert "may run out of memory" not in decided.forward_pass.because


def test_host_memory_holds_a_model_for_each_process() -> None:
    probe = cards(8, 11).model_copy(update={"ram": 32 * GIB})
    with pytest.raises(UserError, match="each of 8 processes loads the model into host memory"):
        planned(probe, LLAMA_13B)


def test_what_no_single_card_could_evaluate_is_not_trained() -> None:
    with pytest.raises(UserError, match="evaluating it takes all of it on one device"):
        planned(cards(8, 24), LLAMA_70B)


def test_one_card_has_nothing_to_share() -> None:
    with pytest.raises(UserError, match="one process: there is one GPU"):
        planned(cards(1, 24), LLAMA_13B, training__sharding="on")
    with pytest.raises(UserError, match="at its smallest"):
        planned(cards(1, 8), LLAMA_13B)


def test_a_cpu_shards_when_asked() -> None:
    asked = {"training__processes": 2}
    assert planned(cpu("avx2"), SMOLLM2, **asked, training__sharding="on").sharding.value
    assert not planned(cpu("avx2"), SMOLLM2, **asked).sharding.value


def test_dora_is_not_sharded() -> None:
    with pytest.raises(UserError, match="DoRA reads whole weights"):
        planned(cards(2, 24), LLAMA_13B, training__sharding="on", lora__use_dora=True)
    with pytest.raises(UserError, match="at its smallest"):
        planned(cards(2, 11), LLAMA_13B, lora__use_dora=True)
