"""Multi-scale deformable attention: one function, a readable reference and the place that chooses a fast path.

Source: Deformable DETR (https://arxiv.org/abs/2010.04159), equation 3.

Letters: `N` batch (frames folded in), `S` pixels over all levels, `Q` queries, `M` heads, `D` channels per head,
`L` levels, `P` points per level.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import logging

logger = logging.get_logger(__name__)

KERNEL_CHOICES = ("off", "auto", "cpu", "cuda")

_recorded: list[tuple[Tensor, Tensor]] | None = None
_only_pytorch = False


@contextmanager
def pytorch_only() -> Iterator[None]:
    """Within the block the operator is what any runtime knows, `grid_sample`: for models that leave Python."""
    global _only_pytorch
    outside, _only_pytorch = _only_pytorch, True
    try:
        yield
    finally:
        _only_pytorch = outside


@contextmanager
def recorded_sampling() -> Iterator[list[tuple[Tensor, Tensor]]]:
    """The sampling locations and attention weights of all calls within the block, in their order."""
    global _recorded
    outside, _recorded = _recorded, []
    try:
        yield _recorded
    finally:
        _recorded = outside


def multi_scale_deformable_attention(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Sample every level of `value` at a few points per query and head, and sum the samples with their weights.

    Args:
        value: `(N, S, M, D)`, the levels flattened row by row and concatenated, `S = sum(height * width)`;
            float32, bfloat16, float16 or float64.
        spatial_shapes: `(height, width)` of each level, Python ints. A level without pixels reads zeros.
        sampling_locations: `(N, Q, M, L, P, 2)`, x then y, 0 and 1 being the outer edges of the level;
            float32 whatever the dtype of `value` (float64 with float64). A point outside reads zeros.
        attention_weights: `(N, Q, M, L, P)`, the same dtype as `sampling_locations`.

    Returns:
        `(N, Q, M * D)` in the dtype of `value`.

    Raises:
        ValueError: a shape does not match the others.
        TypeError: `sampling_locations` or `attention_weights` are in half precision.
        ValueError: the environment variable `MSSTSVIS_KERNELS` is none of `off`, `auto` (the default: any compiled
            kernel that the device has), `cpu` and `cuda` (that one only).

    Without a compiled kernel, `MSSTSVIS_COMPILE=1` puts the index arithmetic of inference on the CPU through
    `torch.compile`. That needs a C++ compiler too, and some seconds for every new size of a frame: for many clips of
    one size, where the package's own kernel can't be had.
    """
    _check(value, spatial_shapes, sampling_locations, attention_weights)
    if _recorded is not None:
        _recorded.append((sampling_locations.detach(), attention_weights.detach()))
    levels = [level for level, (height, width) in enumerate(spatial_shapes) if height * width > 0]
    if len(levels) < len(spatial_shapes):
        spatial_shapes = [spatial_shapes[level] for level in levels]
        sampling_locations, attention_weights = sampling_locations[:, :, :, levels], attention_weights[:, :, :, levels]
    if not levels:  # a sum of nothing, but still a function of its inputs
        nothing = value.sum() + sampling_locations.sum() + attention_weights.sum()
        return nothing.to(value.dtype).repeat(value.shape[0], attention_weights.shape[1], value.shape[2:].numel())
    path = "reference" if _only_pytorch else _choose(value.device.type)
    if path == "kernel" and value.dtype != torch.float64:
        half = value.dtype == torch.float16 and value.device.type == "cpu"  # which that kernel doesn't know
        sizes = [size for shape in spatial_shapes for size in shape]
        output = torch.ops.msstsvis.multi_scale_deformable_attention(
            value.float() if half else value, sizes, sampling_locations, attention_weights
        )
        return output.half() if half else output
    inputs = (value, sampling_locations, attention_weights)
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    # Narrow heads and gradients are faster with grid_sample.
    batch, pixels, heads, channels = value.shape
    wide = channels >= 32 and batch * pixels * heads < 2**31  # its rows are counted in int32
    if path == "embedding_bag" and wide and not needs_grad:
        return multi_scale_deformable_attention_embedding_bag(
            value, spatial_shapes, sampling_locations, attention_weights, compiled=_compiles()
        )
    return multi_scale_deformable_attention_reference(value, spatial_shapes, sampling_locations, attention_weights)


def multi_scale_deformable_attention_reference(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """The readable formula, and the oracle of every fast path. Arguments as `multi_scale_deformable_attention`."""
    batch, _, heads, channels = value.shape
    _, queries, _, _, points, _ = sampling_locations.shape
    # grid_sample puts -1 and 1 on the outer edges
    grids = 2 * sampling_locations - 1  # (N, Q, M, L, P, 2)
    output = 0
    levels = value.split([height * width for height, width in spatial_shapes], dim=1)  # L of (N, H * W, M, D)
    for level, ((height, width), pixels) in enumerate(zip(spatial_shapes, levels, strict=True)):
        # In the dtype of the locations: in half precision grid_sample rounds the coordinates, and on CPU its kernel
        # reads wrong addresses once a level exceeds about 32,000 elements of a strided view.
        image = pixels.to(grids.dtype).permute(0, 2, 3, 1)  # (N, H * W, M, D) -> (N, M, D, H * W)
        image = image.reshape(batch * heads, channels, height, width)  # -> (N * M, D, H, W)
        grid = grids[:, :, :, level].transpose(1, 2)  # (N, Q, M, P, 2) -> (N, M, Q, P, 2)
        grid = grid.reshape(batch * heads, queries, points, 2)  # -> (N * M, Q, P, 2)
        weight = attention_weights[:, :, :, level].transpose(1, 2)  # (N, Q, M, P) -> (N, M, Q, P)
        weight = weight.reshape(batch * heads, 1, queries, points)  # -> (N * M, 1, Q, P)
        sampled = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        output = output + (sampled * weight).sum(-1)  # (N * M, D, Q, P) -> (N * M, D, Q)
    output = output.reshape(batch, heads * channels, queries)  # -> (N, M * D, Q)
    return output.transpose(1, 2).to(value.dtype).contiguous()  # -> (N, Q, M * D)


def multi_scale_deformable_attention_embedding_bag(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    compiled: bool = False,
) -> Tensor:
    """The same as a weighted sum of table rows: the fast path of inference on a CPU without a compiled kernel.

    A query and head is a bag of `L * P * 4` rows of `value`, the corners of its points. Frame by frame, so that the
    indices stay in the cache. `compiled` fuses their arithmetic, most of the work, through `torch.compile`: a
    compilation of some seconds for every new size of a frame. Other arguments as `multi_scale_deformable_attention`.
    """
    find_bags = _compile_find_bags() if compiled else _find_bags
    table = value.to(attention_weights.dtype)
    if torch.compiler.is_compiling():  # the number of frames may be symbolic
        return _sum_bags(table, *find_bags(spatial_shapes, sampling_locations, attention_weights)).to(value.dtype)
    frames = zip(table.split(1), sampling_locations.split(1), attention_weights.split(1), strict=True)
    outputs = [_sum_bags(pixels, *find_bags(spatial_shapes, *where)) for pixels, *where in frames]
    return torch.cat(outputs).to(value.dtype)


def _sum_bags(value: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    output = F.embedding_bag(
        rows.flatten(3).flatten(0, 2),  # (N, Q, M, L, P, 4) -> (N * Q * M, L * P * 4)
        value.flatten(0, 2),  # (N, S, M, D) -> (N * S * M, D)
        per_sample_weights=weights.flatten(3).flatten(0, 2),
        mode="sum",
    )
    return output.unflatten(0, rows.shape[:3]).flatten(2)  # (N * Q * M, D) -> (N, Q, M * D)


def _find_bags(
    spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, attention: Tensor
) -> tuple[Tensor, Tensor]:
    """Rows of the table and their weights, both `(N, Q, M, L, P, 4)`: the four pixels around each point."""
    batch, _, heads = attention.shape[:3]
    *starts, pixels = [0, *itertools.accumulate(height * width for height, width in spatial_shapes)]
    integer = {"dtype": torch.int32, "device": locations.device}
    heights, widths = (
        torch.tensor(sides, **integer)[:, None] for sides in zip(*spatial_shapes, strict=True)
    )  # (L, 1)

    # The row of (n, pixel, m) is (n * S + pixel) * M + m. Up to the last sum x and y have terms of their own.
    first = torch.tensor(starts, **integer)[:, None] * heads  # (L, 1)
    first = first + torch.arange(heads, **integer)[:, None, None]  # (M, L, 1)
    first = first + torch.arange(batch, **integer)[:, None, None, None, None] * (pixels * heads)  # (N, 1, M, L, 1)
    columns, column_weights = _neighbours(locations[..., 0], widths)
    lines, line_weights = _neighbours(locations[..., 1], heights)
    columns = [column * heads for column in columns]
    lines = [line * (widths * heads) + first for line in lines]
    line_weights = [weight * attention for weight in line_weights]
    rows = torch.stack([line + column for line in lines for column in columns], -1)
    weights = torch.stack([line * column for line in line_weights for column in column_weights], -1)
    return rows, weights


@functools.cache
def _compile_find_bags() -> Callable[..., tuple[Tensor, Tensor]]:
    compiled, works = torch.compile(_find_bags, dynamic=False), True

    def find_bags(*inputs) -> tuple[Tensor, Tensor]:
        nonlocal works
        if works:
            try:
                return compiled(*inputs)
            except Exception as error:  # whatever torch.compile lacks here, PyTorch does without
                works = False
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                logger.warning(f"MSSTSVIS_COMPILE=1 has no effect on deformable attention here: {reason}")
        return _find_bags(*inputs)

    return find_bags


def _neighbours(locations: Tensor, sides: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The two pixels around each location along one axis, clamped to the level, and their weights, 0 outside it."""
    places = locations * sides - 0.5
    low = places.floor()
    fraction = places - low
    indices = [low.int(), low.int() + 1]
    weights = [
        weight * ((index >= 0) & (index < sides))
        for weight, index in zip((1 - fraction, fraction), indices, strict=True)
    ]
    return [torch.minimum(index.clamp(min=0), sides - 1) for index in indices], weights


@torch.compiler.assume_constant_result
def _compiles() -> bool:
    # Inside another torch.compile or export there is nothing left to gain.
    return os.environ.get("MSSTSVIS_COMPILE") == "1" and not torch.compiler.is_compiling()


@torch.compiler.assume_constant_result
def _choose(device: str) -> str:
    """Which path serves this device type, "kernel", "embedding_bag" or "reference": the one place that chooses."""
    choice = os.environ.get("MSSTSVIS_KERNELS") or "auto"
    if choice not in KERNEL_CHOICES:
        raise ValueError(f"MSSTSVIS_KERNELS is {choice!r}; expected one of {', '.join(KERNEL_CHOICES)}")
    _make_forks_work()
    if device in ("cpu", "cuda") and choice in ("auto", device) and _load_kernel(device):
        return "kernel"
    return "embedding_bag" if device == "cpu" else "reference"


@functools.cache
def _make_forks_work() -> None:
    """Let processes that are forked from now on use one thread, as OpenMP's stay behind and would be waited for."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=functools.partial(torch.set_num_threads, 1))


@functools.cache
def _load_kernel(device: str) -> bool:
    try:
        # Not a plain import: this module also works alone, copied beside a model as remote code.
        kernels = importlib.import_module("transformers_msstsvis.kernels.deformable_attention_kernel")
    except ImportError:
        return False
    return kernels.load_kernel(device, multi_scale_deformable_attention_reference)


def _check(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> None:
    if value.dim() != 4:
        raise ValueError(f"value has shape {tuple(value.shape)}; expected (batch, pixels, heads, channels)")
    batch, pixels, heads, _ = value.shape
    if not spatial_shapes or any(height < 0 or width < 0 for height, width in spatial_shapes):
        raise ValueError(
            f"spatial_shapes is {[tuple(shape) for shape in spatial_shapes]}; "
            "expected at least one level, and no negative height or width"
        )
    expected = sum(height * width for height, width in spatial_shapes)
    if pixels != expected:
        raise ValueError(
            f"value has {pixels} pixels, but spatial_shapes {[tuple(shape) for shape in spatial_shapes]} hold "
            f"{expected}: flatten and concatenate exactly these levels"
        )
    if (
        sampling_locations.dim() != 6
        or sampling_locations.shape[0] != batch
        or sampling_locations.shape[2:4] != (heads, len(spatial_shapes))
        or sampling_locations.shape[5] != 2
    ):
        raise ValueError(
            f"sampling_locations has shape {tuple(sampling_locations.shape)}; expected "
            f"({batch}, queries, {heads}, {len(spatial_shapes)}, points, 2), to match value and spatial_shapes"
        )
    if attention_weights.shape != sampling_locations.shape[:-1]:
        raise ValueError(
            f"attention_weights has shape {tuple(attention_weights.shape)}; expected "
            f"{tuple(sampling_locations.shape[:-1])}, to match sampling_locations"
        )
    expected_dtype = torch.float64 if value.dtype == torch.float64 else torch.float32
    for name, tensor in (("sampling_locations", sampling_locations), ("attention_weights", attention_weights)):
        if tensor.dtype != expected_dtype:
            raise TypeError(
                f"{name} is {tensor.dtype}; expected {expected_dtype}: half precision moves the points, "
                f"so compute it in {expected_dtype} and leave only value in {value.dtype}"
            )
