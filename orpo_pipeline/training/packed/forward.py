"""Packed pairs through a causal language model: summed log-probs of each pair's parts."""

from typing import Any

import torch

from orpo_pipeline.training.packed.batch import PackedBatch
from orpo_pipeline.training.packed.token_logps import token_logps


def causal_lm_of(model: Any) -> Any:
    """The causal language model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def sum_logps(model: Any, batch: PackedBatch) -> torch.Tensor:
    """fp32 sums of log-probs in nats, (B, 3): over prompt (without its first token), chosen,
    rejected. A part without targets is 0.

    `model`, PEFT-wrapped or not, is inside `packed_attention`.
    """
    causal_lm = causal_lm_of(model)
    head = causal_lm.get_output_embeddings().weight
    if head.requires_grad and torch.is_autocast_enabled(head.device.type):
        # As autocast does for a linear layer; inside an autograd function it would do so only in
        # the forward pass.
        head = head.to(torch.get_autocast_dtype(head.device.type))
    hidden = causal_lm.get_decoder()(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        use_cache=False,
        layout=batch.layout,
    ).last_hidden_state[0]  # (T, H)
    logps = token_logps(
        hidden.index_select(0, batch.predictors),
        head,
        batch.targets,
        getattr(causal_lm.config, "final_logit_softcapping", None),
    )
    parts = logps.split([count for pair in batch.counts for count in pair])
    return torch.stack([part.sum() for part in parts]).view(-1, 3)
