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
    device = result.device.type
    plain = torch.compiler.is_compiling() or not torch.amp.is_autocast_available(device)  # such as "meta"
    if unless or plain or not torch.is_grad_enabled():
        yield result
        return
    storage = result.untyped_storage().data_ptr()
    autocast = torch.autocast(device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))

    def pack(tensor: torch.Tensor) -> torch.Tensor | tuple:
        if tensor.untyped_storage().data_ptr() != storage:
            return tensor
        return tensor.size(), tensor.stride(), tensor.storage_offset()

    def unpack(packed: torch.Tensor | tuple) -> torch.Tensor:
        if isinstance(packed, torch.Tensor):
            return packed
        with torch.no_grad(), autocast:
            return make(*inputs).as_strided(*packed)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield result
