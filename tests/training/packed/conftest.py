"""A packed step computed outside the Trainer, and models to compute it with."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
import pytest
import torch

from orpo_pipeline.data.prepared_files import TOKEN_COLUMNS
from orpo_pipeline.training.loss import FIGURES, share_of_step
from orpo_pipeline.training.packed.attention import packed_attention
from orpo_pipeline.training.packed.forward import causal_lm_of, sum_logps
from orpo_pipeline.training.packed.steps import Step, StepCollator
from orpo_pipeline.training.packed.tokens import PairTokens
from schemas.config import ALL_LINEAR_PROJECTIONS
from schemas.tokens import TokenizedPair

Gradients = dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def random_pairs() -> Callable[..., list[TokenizedPair]]:
    """`random_pairs([(prompt, chosen, rejected), ...])`: pairs of these lengths, ids from 3."""

    def make(lengths: Sequence[tuple[int, int, int]], vocabulary: int = 300) -> list[TokenizedPair]:
        draw = torch.Generator().manual_seed(1)

        def ids(length: int) -> list[int]:
            return torch.randint(3, vocabulary, (length,), generator=draw).tolist()

        return [TokenizedPair(*map(ids, parts)) for parts in lengths]

    return make


@pytest.fixture(scope="session")
def collate() -> Callable[..., Step]:
    """`collate(pairs, budget=100)`: these pairs as an optimizer step; other fields as named."""

    def make(pairs: Sequence[TokenizedPair], **fields: Any) -> Step:
        columns = [[getattr(p, name.removesuffix("_ids")) for p in pairs] for name in TOKEN_COLUMNS]
        frame = pl.DataFrame(dict(zip(TOKEN_COLUMNS, columns, strict=True)))
        fields = {"budget": 10_000, "prompt_targets": True, **fields}
        return StepCollator(PairTokens(frame), **fields)(range(len(pairs)))

    return make


@pytest.fixture(scope="session")
def compute_step() -> Callable[..., tuple[dict[str, float], Gradients]]:
    """`compute_step(model, step, orpo_lambda)`: its figures and the gradients of its loss."""

    def compute(
        model: Any, step: Step, orpo_lambda: float = 0.5
    ) -> tuple[dict[str, float], Gradients]:
        model.zero_grad()
        figures = torch.zeros(len(FIGURES))
        with packed_attention(causal_lm_of(model)):
            for batch in step.batches:
                counts = torch.tensor(batch.counts)
                loss, share = share_of_step(sum_logps(model, batch), counts, step.size, orpo_lambda)
                loss.backward()
                figures += share
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        return dict(zip(FIGURES, figures.tolist(), strict=True)), gradients

    return compute


@pytest.fixture(scope="session")
def unigram_model() -> Any:
    """A Llama to whom token 0 has probability 1/2, 1 has 1/4, 2 and 3 have 1/8, whatever precedes.

    Its layers add nothing to embeddings of ones, so the head sees ones: logits are row sums.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    width = 8
    sizes = {"hidden_size": width, "intermediate_size": width, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": 4}
    ids = {"bos_token_id": None, "eos_token_id": None}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, **ids, rms_norm_eps=1e-12))
    layer = model.model.layers[0]
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.fill_(1)
        logits = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 8]).log()
        model.lm_head.weight.copy_((logits / width)[:, None].expand(4, width))
    return model


@pytest.fixture(scope="session")
def with_adapter() -> Callable[[Any], Any]:
    """Wrap a model in LoRA on all projections, as if trained: no part of the update is 0."""
    import peft

    def wrap(model: Any) -> Any:
        torch.manual_seed(2)
        config = peft.LoraConfig(
            task_type="CAUSAL_LM", r=4, target_modules=list(ALL_LINEAR_PROJECTIONS)
        )
        wrapped = peft.get_peft_model(model, config)
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1 / math.sqrt(config.r))
        return wrapped

    return wrap
