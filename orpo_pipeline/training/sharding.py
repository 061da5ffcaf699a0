"""Each rank holds a share of the base model's layers, and has one of them whole at a time.

Sharded with FSDP2 (`torch.distributed.fsdp.fully_shard`), which gathers a layer's NF4 values before
its forward and its backward pass and drops them after. What is trained stays whole on every rank,
and so do embeddings, output layer and NF4's scales: steps, checkpoints and the saved adapter have
the form that they have without shares.
"""

from typing import Any


def shard_layers(model: Any, device: str) -> None:
    """Keep this rank's share of each decoder layer's frozen weights, on `device`.

    `model` has its adapter, and may lie in host memory: a layer moves when its turn has come, so
    that the device never holds all of them.
    """
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    mesh = init_device_mesh(device, (dist.get_world_size(),))
    layers = decoder_layers(model)
    if not layers:
        raise AssertionError(f"{type(model).__name__} has no stack of layers to shard")
    for layer in layers:
        layer.to(device)
        trained = {weight for weight in layer.parameters() if weight.requires_grad}
        fully_shard(layer, mesh=mesh, ignored_params=trained)
    model.to(device)
    # A root without shares of its own: under it, layers gather in the same streams, and memory of
    # one that is dropped serves the next.
    decoder = model.get_base_model().get_decoder()
    whole = {weight for weight in decoder.parameters() if not isinstance(weight, DTensor)}
    fully_shard(decoder, mesh=mesh, ignored_params=whole)
    # accelerate refuses what it would have to wrap; gradients are summed by the packed trainer.
    model._is_accelerate_prepared = True


def decoder_layers(model: Any) -> Any:
    """The stack of transformer layers: `layers` in Llama and most others, `h` in GPT-2."""
    import torch

    depth = model.config.get_text_config().num_hidden_layers
    stacks = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == depth]
    return stacks[0] if stacks else []
