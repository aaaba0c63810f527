"""Where the queries of a model with deformable attention look at last, for pictures.

Letters: T frames, Q queries, M heads, L levels, P points, F other frames that a query looks at, k places of a query in
all.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from ..ops.multi_scale_deformable_attention import recorded_sampling


class QuerySampling(NamedTuple):
    """
    Attributes:
        points: `(T, Q, k, 2)` x y of the places where the queries of each frame look, in parts of the padded frame.
        weights: `(T, Q, k)` attention to each, 1 in sum.
        frames: `(T, k)` int64, the frame in which each place is.
    """

    points: torch.Tensor
    weights: torch.Tensor
    frames: torch.Tensor


def deformable_cross_attention(model: PreTrainedModel) -> tuple[nn.Module, nn.Module]:
    """
    The last decoder layer of a model, and its deformable attention.

    Raises:
        ValueError: for a model without it.
    """
    layers = getattr(getattr(model.base_model, "decoder", None), "layers", ())
    layer = layers[-1] if len(layers) else None
    found = [] if layer is None else [module for module in layer.modules() if hasattr(module, "sampling_offsets")]
    if not found:
        raise ValueError(
            f"a {model.config.model_type} model has no deformable attention in its decoder, so there are no sampling "
            "points to draw; take a model that looks at places of its own choice"
        )
    return layer, found[-1]


@contextmanager
def recorded_queries(model: PreTrainedModel) -> Iterator[list[QuerySampling]]:
    """
    Where the queries look in the last decoder layer, in every call of the model within the block, with one video each.
    Outside of the block nothing is recorded, and the model runs as ever.

    Raises:
        ValueError: for a model without deformable attention in its decoder.
    """
    layer, attention = deformable_cross_attention(model)
    found: list[QuerySampling] = []
    calls, other_frames = [], []
    # A compiled model would not see the hooks.
    with torch.compiler.set_stance("force_eager"), ExitStack() as hooks, ExitStack() as recording:

        def start(*_) -> None:
            other_frames.clear()
            calls[:] = [recording.enter_context(recorded_sampling())]

        def note_other_frames(_, arguments, named) -> None:
            # An attention to several frames is told for each which others it looks at.
            other_frames.append(named.get("other_frames", arguments[-1]))

        def stop(*_) -> None:
            recording.close()
            found.append(_gathered(*calls, other_frames[0] if other_frames else None))

        hooks.callback(layer.register_forward_pre_hook(start).remove)
        hooks.callback(layer.register_forward_hook(stop).remove)
        if hasattr(attention, "temporal_sampling_offsets"):
            hooks.callback(attention.register_forward_pre_hook(note_other_frames, with_kwargs=True).remove)
        yield found


def _gathered(calls: list[tuple[torch.Tensor, torch.Tensor]], other_frames: torch.Tensor | None) -> QuerySampling:
    """
    Args:
        calls: locations `(n, Q, M, L, P, 2)` and weights `(n, Q, M, L, P)` for n frames at a time; with `other_frames`
            in turns for the own frames and for `F * L` levels of the others.
        other_frames: `(T, F)`.
    """
    turns = 1 if other_frames is None else 2
    parts = []
    for turn in range(turns):
        locations, weights = (torch.cat(tensors).float().cpu() for tensors in zip(*calls[turn::turns], strict=True))
        T, _, M, levels, P = weights.shape
        frames = torch.arange(T)[:, None].expand(T, levels)
        if turn:
            others = other_frames.cpu()
            frames = others.repeat_interleave(levels // others.shape[1], dim=1)  # (T, F * L)
        places = frames[:, None, :, None].expand(T, M, levels, P)
        parts.append((locations.flatten(2, 4), weights.flatten(2) / M, places.flatten(1)))
    points, weights, frames = zip(*parts, strict=True)
    return QuerySampling(torch.cat(points, dim=2), torch.cat(weights, dim=2), torch.cat(frames, dim=1))
