"""The same loss, figures and gradients as TRL's ORPOTrainer, and where that one is wrong."""

import importlib.resources
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from token_pairs import make_pair, tokenize, tokenize_all

from orpo_pipeline.base_model import embedded_gguf
from orpo_pipeline.data.tokens.chat_template import ChatFormat, load_chat_format
from orpo_pipeline.training.packed.steps import Step
from schemas.pairs import DefectCode
from schemas.tokens import TokenizedPair

Figures = dict[str, float]
Gradients = dict[str, torch.Tensor]
Collate = Callable[..., Step]
ComputeStep = Callable[..., tuple[Figures, Gradients]]

ORPO_LAMBDA = 0.5
LENGTHS = [(9, 5, 7), (3, 12, 2), (15, 4, 9), (2, 1, 1)]
SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.1,
}


@pytest.fixture(scope="module")
def chat(tiny_model: Path) -> ChatFormat:
    return load_chat_format(tiny_model, None)


@pytest.fixture(scope="module")
def tiny_llama(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)


@pytest.fixture(scope="module")
def trl_trainer(
    tiny_llama: Any, chat: ChatFormat, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """`trl_trainer(rows, max_length)`: TRL's own trainer, which tokenises and cuts these texts."""
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    def make(rows: Sequence[dict[str, str]], max_length: int = 1024) -> Any:
        arguments = ORPOConfig(
            output_dir=str(tmp_path_factory.mktemp("trl")),
            beta=ORPO_LAMBDA,
            max_length=max_length,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_dropout=False,
            report_to=[],
        )
        return ORPOTrainer(
            model=tiny_llama,
            args=arguments,
            train_dataset=Dataset.from_list(list(rows)),
            processing_class=chat.tokenizer,
        )

    return make


@pytest.fixture(scope="module")
def trl(trl_trainer: Callable[..., Any]) -> Any:
    return trl_trainer([{"prompt": "Hi!", "chosen": "Hello.", "rejected": "Go away."}])


def trl_rows(pairs: Sequence[TokenizedPair]) -> list[dict[str, list[int]]]:
    """Pairs as `ORPOTrainer.tokenize_row` would give them."""
    rows = []
    for pair in pairs:
        row = {}
        for side, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            row[f"{side}_input_ids"] = pair.prompt + answer
            row[f"{side}_attention_mask"] = [1] * len(pair.prompt + answer)
            row[f"{side}_labels"] = [-100] * len(pair.prompt) + answer
        rows.append(row)
    return rows


def trl_step(
    trainer: Any, model: Any, rows: Sequence[dict[str, list[int]]]
) -> tuple[Figures, Gradients]:
    """Figures and gradients of one micro-batch."""
    model.zero_grad()
    loss, metrics = trainer.get_batch_loss_metrics(model, trainer.data_collator(rows))
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.item(), **metrics}, gradients


def assert_parity(
    found: tuple[Figures, Gradients],
    expected: tuple[Figures, Gradients],
    parameters: int,
    tolerance: float = 1e-5,
) -> None:
    """1e-5 of a figure, or 2e-6 nats where it is a difference near 0; and `tolerance` of the
    largest gradient of the same tensor, since single ones may be near 0."""
    for name, value in found[0].items():
        assert value == pytest.approx(expected[0][name], rel=1e-5, abs=2e-6), name
    assert found[1].keys() == expected[1].keys()
    assert len(expected[1]) == parameters
    for name, wanted in expected[1].items():
        assert wanted.abs().max() > 0, name
        assert (found[1][name] - wanted).abs().max() <= tolerance * wanted.abs().max(), name


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**SIZES))


def mistral() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6))  # of up to 24 tokens


def qwen2() -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**SIZES))


@pytest.mark.parametrize("build", [llama, mistral, qwen2])
@pytest.mark.parametrize("budget", [1, 40, 1000])
def test_random_models(
    build: Callable[[], Any],
    budget: int,
    trl: Any,
    random_pairs: Callable[..., list[TokenizedPair]],
    request: pytest.FixtureRequest,
) -> None:
    """One micro-batch of TRL against any number of forward passes."""
    collate, compute_step, with_adapter = map(
        request.getfixturevalue, ("collate", "compute_step", "with_adapter")
    )
    torch.manual_seed(0)
    model = with_adapter(build())
    model.set_attn_implementation("eager")
    pairs = random_pairs(LENGTHS)
    expected = trl_step(trl, model, trl_rows(pairs))
    found = compute_step(model, collate(pairs, budget=budget), ORPO_LAMBDA)
    assert_parity(found, expected, parameters=2 * 7 * 2)  # A and B, seven projections, two layers


@pytest.mark.parametrize("tied", [True, False])
def test_every_weight_trained(
    tied: bool,
    trl: Any,
    random_pairs: Callable[..., list[TokenizedPair]],
    collate: Collate,
    compute_step: ComputeStep,
) -> None:
    """Tied embeddings get their gradient from both ends, the lookup and the output layer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied))
    model.set_attn_implementation("eager")
    pairs = random_pairs(LENGTHS)
    expected = trl_step(trl, model, trl_rows(pairs))
    found = compute_step(model, collate(pairs, budget=40), ORPO_LAMBDA)
    # Seven projections and two norms a layer, the last norm, one or two vocabulary matrices.
    assert_parity(found, expected, parameters=2 * 9 + 1 + (1 if tied else 2))


def packaged_pairs(chat: ChatFormat) -> list[TokenizedPair]:
    """The four shortest of the first packaged pairs."""
    path = importlib.resources.files("orpo_pipeline.data") / "embedded" / "preferences.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:20]]
    texts = [[row[side][0]["content"] for side in ("prompt", "chosen", "rejected")] for row in rows]
    tokens = [result.tokens for result in tokenize_all([make_pair(*t) for t in texts], chat)]
    return sorted((t for t in tokens if t is not None), key=lambda pair: pair.length)[:4]


def smollm2() -> Any:
    """The packaged weights in fp32. The shape is told: finding it in the file takes as long."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    file = embedded_gguf()
    return LlamaForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        config=shape,
        dtype=torch.float32,
        attn_implementation="eager",
    )


@contextmanager
def exact_logits(causal_lm: Any) -> Iterator[None]:
    """What reads the logits computes in float64 inside the `with` block."""
    head = causal_lm.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, inputs, logits: logits.double())
    yield
    handle.remove()


def test_real_weights_and_real_pairs(
    trl: Any,
    chat: ChatFormat,
    collate: Collate,
    compute_step: ComputeStep,
    with_adapter: Callable[[Any], Any],
) -> None:
    base = smollm2()
    pairs = packaged_pairs(chat)
    rows = trl_rows(pairs)
    with torch.no_grad():
        _, figures = trl.get_batch_loss_metrics(base, trl.data_collator(rows))
    assert figures["nll_loss"] < 6  # it can speak: of tokens at random, log 49,152 = 10.8
    model = with_adapter(base)
    # torch's float32 log-softmax over 49,152 logits is off by 1e-5 nats on a CPU, and TRL's
    # gradients by 3e-4; its formulas are compared, not that.
    with exact_logits(base):
        expected = trl_step(trl, model, rows)
    found = compute_step(model, collate(pairs, budget=250), ORPO_LAMBDA)
    # Through 30 real layers fp32 says no more: TRL's own gradients differ by 1.5e-5 between eager
    # and fused attention. As one vector, all gradients are within the 1e-5.
    assert_parity(found, expected, parameters=2 * 7 * 30, tolerance=5e-5)
    ours, theirs = (
        torch.cat([step[1][name].flatten() for name in expected[1]]) for step in (found, expected)
    )
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_trl_averages_micro_batches_ours_averages_tokens(
    unigram_model: Any, trl: Any, collate: Collate, compute_step: ComputeStep
) -> None:
    """Probabilities of the tokens: 0 1/2, 1 1/4, 2 and 3 1/8. Numbers as in test_steps.py."""
    first = TokenizedPair(prompt=[3, 1], chosen=[0, 0], rejected=[2])
    second = TokenizedPair(prompt=[0], chosen=[1], rejected=[0, 0])
    together = trl_step(trl, unigram_model, trl_rows([first, second]))[0]
    apart = [trl_step(trl, unigram_model, trl_rows([pair]))[0] for pair in (first, second)]
    # 4 log 2 over 3 tokens and 2 log 2 over one: the mean of means is 5/3 log 2 = 1.155245,
    # the mean over tokens 6/4 log 2 = 1.039721.
    assert sum(step["nll_loss"] for step in apart) / 2 == pytest.approx(1.155245, abs=2e-6)
    assert together["nll_loss"] == pytest.approx(1.039721, abs=2e-6)
    for budget in (1, 1000):
        step = collate([first, second], budget=budget)
        found, _ = compute_step(unigram_model, step, ORPO_LAMBDA)
        assert found["nll_loss"] == pytest.approx(1.039721, abs=2e-6)
        assert found["loss"] == pytest.approx(together["loss"], abs=2e-6)


@pytest.fixture
def indifferent(tiny_llama: Any) -> Any:
    """To the tiny Llama with embeddings of 0, which are its head too, all tokens are equally
    likely: every log-prob is -log 49,152 = -10.802673."""
    embeddings = tiny_llama.get_input_embeddings().weight
    before = embeddings.detach().clone()
    with torch.no_grad():
        embeddings.zero_()
        yield tiny_llama
        embeddings.copy_(before)


def test_an_over_long_prompt_is_nan_in_trl_and_left_out_by_us(
    indifferent: Any,
    trl_trainer: Callable[..., Any],
    chat: ChatFormat,
    request: pytest.FixtureRequest,
) -> None:
    collate, compute_step = map(request.getfixturevalue, ("collate", "compute_step"))
    texts = [("Hi!", "Hello.", "Go away."), ("why " * 80, "Because.", "No.")]
    names = ("prompt", "chosen", "rejected")
    trainer = trl_trainer([dict(zip(names, text, strict=True)) for text in texts], max_length=64)
    rows = list(trainer.train_dataset)
    assert set(rows[1]["chosen_labels"]) == {-100}  # the answer is gone, and the batch with it:
    with torch.enable_grad():
        loss, _ = trainer.get_batch_loss_metrics(indifferent, trainer.data_collator(rows))
    assert math.isnan(loss.item())

    results = tokenize_all([make_pair(*text) for text in texts], chat, max_length=64)
    kept = [result.tokens for result in results if result.tokens is not None]
    assert [result.defect.code for result in results if result.defect] == [DefectCode.TOO_LONG]
    with torch.enable_grad():
        found, _ = compute_step(indifferent, collate(kept), ORPO_LAMBDA)
    # log 49,152 for every token; equal odds: 0.5 * log 2 = 0.346574 for the pair.
    assert found["loss"] == pytest.approx(10.802673 + 0.346574, abs=1e-5)


def test_answers_that_truncation_makes_equal_are_a_tie_in_trl_and_left_out_by_us(
    trl_trainer: Callable[..., Any], chat: ChatFormat
) -> None:
    prompt, begin = "why " * 10, "Because of many reasons that I will now list: "
    text = (prompt, begin + "light. " * 60, begin + "darkness. " * 60)
    row = dict(zip(("prompt", "chosen", "rejected"), text, strict=True))
    (cut,) = trl_trainer([row], max_length=16).train_dataset
    assert cut["chosen_labels"] == cut["rejected_labels"]
    # With our template the prompt has some 40 tokens: room for the equal beginning alone.
    whole = tokenize(make_pair(*text), chat).tokens
    assert whole is not None
    room = len(whole.prompt) + 5
    result = tokenize(make_pair(*text), chat, max_length=room, too_long="truncate_answer")
    assert result.tokens is None
    assert result.defect is not None
    assert result.defect.code is DefectCode.TOO_LONG
