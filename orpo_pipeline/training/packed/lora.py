"""LoRA on a frozen linear layer in one autograd step: PEFT's layer with a shorter way through it.

Same parameters, same names, same saved adapter. PEFT's own way keeps for each layer a scaled copy
of the update and adds it in another pass over memory, and the backward pass mirrors that.
"""

from typing import Any

import peft
import torch
import torch.nn.functional as F
from peft.tuners import lora
from torch import nn


class LeanLoraLinear(lora.Linear):
    """y = W x + s B A x with W frozen; anything beyond that is PEFT's."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not self._is_plain(args, kwargs):
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        return _LoraLinear.apply(
            x,
            self.lora_A[name].weight,
            self.lora_B[name].weight,
            FrozenLinear(self.get_base_layer()),
            self.scaling[name],
        )

    def _is_plain(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        active = self.active_adapters
        return (
            not (args or kwargs or self.disable_adapters or self.merged or self.lora_variant)
            and len(active) == 1
            and active[0] in self.lora_A
            and isinstance(self.lora_dropout[active[0]], nn.Identity)
            and not any(p.requires_grad for p in self.get_base_layer().parameters())
        )


def use_lean_layers(config: peft.LoraConfig) -> None:
    """Adapters made by this configuration take the shorter way wherever they can."""
    layers: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: LeanLoraLinear}
    config._register_custom_module(layers)


class FrozenLinear:
    """A base layer whose weight is made from NF4 when it is needed, and then forgotten."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def weight(self, dtype: torch.dtype) -> torch.Tensor:
        """(out, in)."""
        weight = self.layer.weight
        # The layer's, and not the weight's: one that FSDP has gathered is an ordinary parameter.
        state = getattr(self.layer, "quant_state", None)
        if state is not None:
            from bitsandbytes.functional import dequantize_4bit

            weight = dequantize_4bit(weight.data, state)
        return weight.to(dtype)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        bias = self.layer.bias
        return F.linear(x, self.weight(x.dtype), None if bias is None else bias.to(x.dtype))


class _LoraLinear(torch.autograd.Function):
    """x (..., in) -> (..., out). A (r, in), B (out, r), both trained; s a number."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        frozen: FrozenLinear,
        scale: float,
    ) -> torch.Tensor:
        dtype = _compute_dtype(x)
        rows = x.reshape(-1, x.shape[-1]).to(dtype)
        low = rows @ a.to(dtype).T  # (T, r)
        y = frozen(rows).addmm_(low, b.to(dtype).T, alpha=scale)
        ctx.frozen, ctx.scale, ctx.x_dtype = frozen, scale, x.dtype
        ctx.save_for_backward(rows, low, a, b)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        (gradient,) = gradients
        rows, low, a, b = ctx.saved_tensors
        dy = gradient.reshape(-1, gradient.shape[-1]).to(rows.dtype)
        # Products are rounded to 16 bits once: s, which may be any number, comes after that.
        dlow = dy @ b.to(rows.dtype)  # (T, r), without s
        da = (dlow.T @ rows).to(a.dtype).mul_(ctx.scale) if ctx.needs_input_grad[1] else None
        db = (dy.T @ low).to(b.dtype).mul_(ctx.scale) if ctx.needs_input_grad[2] else None
        dx = None
        if ctx.needs_input_grad[0]:
            dx = dy @ ctx.frozen.weight(rows.dtype)
            dx.addmm_(dlow, a.to(rows.dtype), alpha=ctx.scale)
            dx = dx.view(*gradient.shape[:-1], -1).to(ctx.x_dtype)
        return dx, da, db, None, None


def _compute_dtype(x: torch.Tensor) -> torch.dtype:
    """As torch's own linear layers choose it: autocast's, if it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
