"""What is computed once more in the backward pass of training, rather than kept for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Any], *arguments: Any) -> Any:
    """
    `function(*arguments)`, without randomness, of whose inner results none is kept: for what is quick to compute and
    large to keep, as all that has pixels for every instance.
    """
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)


@contextmanager
def made_again(
    make: Callable[..., torch.Tensor], *inputs: torch.Tensor, unless: bool = False
) -> Iterator[torch.Tensor]:
    """
    `make(*inputs)`, which those that read it within the block do not keep, but have made again: for what is quick to
    make of inputs that are kept anyway, such as norms. Nobody may change it or the inputs in place.

    Args:
        make: without randomness.
        inputs: of `make`.
        unless: keep it as ever, as within a layer that is itself computed once more (gradient checkpointing).
    """
    result = make(*inputs)
    if unless or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        yield result
        return
    device, storage = result.device.type, result.untyped_storage().data_ptr()
    autocast = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def pack(tensor: torch.Tensor) -> torch.Tensor | tuple:
        if tensor.untyped_storage().data_ptr() != storage:
            return tensor
        return tensor.size(), tensor.stride(), tensor.storage_offset()

    def unpack(packed: torch.Tensor | tuple) -> torch.Tensor:
        if isinstance(packed, torch.Tensor):
            return packed
        with torch.no_grad(), torch.autocast(device, autocast[1], enabled=autocast[0]):
            return make(*inputs).as_strided(*packed)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield result
