"""Each rank holds a share of the base model's layers, and has one of them whole at a time.

Sharded with FSDP2 (`torch.distributed.fsdp.fully_shard`), which gathers a layer's NF4 values before
its forward and its backward pass and drops them after. What is trained stays whole on every rank,
and so do embeddings, output layer and NF4's scales: a step, its checkpoint and the saved adapter
are those of a training without shards.
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
    from torch.nn.parallel import DistributedDataParallel

    mesh = init_device_mesh(device, (dist.get_world_size(),))
    for layer in decoder_layers(model):
        layer.to(device)
        trained = {weight for weight in layer.parameters() if weight.requires_grad}
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    model.to(device)
    # For accelerate, which refuses a quantised model that was loaded elsewhere than it is trained,
    # and wraps it for data parallelism: that would send the shares around as if they were equal.
    model.hf_device_map = {"": device}
    shares = [name for name, weight in model.named_parameters() if isinstance(weight, DTensor)]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, shares)


def decoder_layers(model: Any) -> Any:
    """The stack of transformer layers: `layers` in Llama and most others, `h` in GPT-2."""
    import torch

    depth = model.config.get_text_config().num_hidden_layers
    stacks = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == depth]
    return stacks[0] if stacks else []
