"""The CUDA kernels' own device functions, compiled for the host, against the reference in float64."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from transformers_msstsvis.ops.multi_scale_deformable_attention import multi_scale_deformable_attention_reference

CSRC = Path(__file__).parents[2] / "kernels" / "multi_scale_deformable_attention" / "csrc"
SOURCE = Path(__file__).parent / "lanes_on_host.cpp"
KINDS = {torch.float32: 4, torch.bfloat16: 2, torch.float16: -2}
GUARD = 1024  # elements of NaN before and after every array

FLOAT32_TOLERANCE = 4e-6  # of the largest element, times the pixels of the largest side
HALF_TOLERANCE = {torch.bfloat16: 2**-8, torch.float16: 2**-11}  # one rounding of the result


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if not shutil.which("g++") or not CSRC.is_dir():
        pytest.skip("no g++, or no sources")
    path = tmp_path_factory.mktemp("host") / "attention.so"
    flags = ["-std=c++17", "-O1", "-U_FORTIFY_SOURCE", "-fno-strict-aliasing", "-Wall", "-Werror"]
    subprocess.run(["g++", *flags, "-fPIC", "-shared", f"-I{CSRC / 'cuda'}", str(SOURCE), "-o", str(path)], check=True)
    library = ctypes.CDLL(str(path))
    library.attention_on_host.restype = ctypes.c_bool
    return library


class Guarded:
    """An array between NaNs, which show up in a result that read beyond it, and are gone after a write beyond it."""

    def __init__(self, tensor, offset=0):
        self.memory = torch.full((tensor.numel() + 2 * GUARD + offset,), torch.nan, dtype=tensor.dtype)
        self.inside = slice(GUARD + offset, GUARD + offset + tensor.numel())
        self.memory[self.inside] = tensor.flatten()
        self.tensor = self.memory[self.inside].view(tensor.shape)

    def pointer(self):
        return ctypes.c_void_p(self.tensor.data_ptr())

    def intact(self):
        return bool(self.memory[: self.inside.start].isnan().all() and self.memory[self.inside.stop :].isnan().all())


def on_host(library, value, shapes, locations, weights, grad_output, threads=128, offset=0):
    """The output and the three gradients."""
    batch, pixels, heads, channels = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    sizes = (ctypes.c_int64 * 7)(batch, pixels, heads, channels, queries, levels, points)
    sides = (ctypes.c_int64 * (2 * levels))(*[side for shape in shapes for side in shape])
    inputs = [Guarded(grad_output), Guarded(value, offset), Guarded(locations), Guarded(weights)]
    outputs = [
        Guarded(torch.full_like(grad_output, torch.nan)),
        Guarded(torch.zeros(value.shape)),
        Guarded(torch.full_like(locations, torch.nan)),
        Guarded(torch.full_like(weights, torch.nan)),
    ]
    aligned = inputs[1].tensor.data_ptr() % 16 == 0
    assert aligned == (offset == 0)
    pointers = [array.pointer() for array in inputs + outputs]
    assert library.attention_on_host(sizes, sides, KINDS[value.dtype], threads, aligned, *pointers), "lanes diverged"
    assert all(array.intact() for array in inputs + outputs)
    return [array.tensor for array in outputs]


def make_inputs(batch, shapes, heads, channels, queries, points, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = sum(height * width for height, width in shapes)
    value = torch.randn(batch, pixels, heads, channels, generator=generator).to(dtype)
    locations = torch.rand(batch, queries, heads, len(shapes), points, 2, generator=generator) * 1.4 - 0.2
    weights = torch.rand(batch, queries, heads, len(shapes), points, generator=generator)
    grad_output = torch.randn(batch, queries, heads * channels, generator=generator).to(dtype)
    return value, shapes, locations, weights, grad_output


def in_float64(value, shapes, locations, weights, grad_output):
    inputs = [tensor.double().requires_grad_() for tensor in (value, locations, weights)]
    output = multi_scale_deformable_attention_reference(inputs[0], shapes, *inputs[1:])
    return [output.detach(), *torch.autograd.grad(output, inputs, grad_output.double())]


def assert_close(given, expected, tolerances):
    names = ("output", "grad value", "grad locations", "grad weights")
    for name, a, b, tolerance in zip(names, given, expected, tolerances, strict=True):
        assert a.shape == b.shape, name
        error = (a.double() - b).abs().max().item()
        assert error <= tolerance * max(1.0, b.abs().max().item()), f"{name}: {error}"


def check(library, inputs, **options):
    side = max(max(shape) for shape in inputs[1])
    dtype = inputs[0].dtype
    tolerance = FLOAT32_TOLERANCE * side
    given = on_host(library, *inputs, **options)
    # the gradient of value is summed in float32, and only then rounded
    assert_close(given, in_float64(*inputs), (HALF_TOLERANCE.get(dtype, tolerance), tolerance, tolerance, tolerance))


SIZES = [
    # batch, shapes, heads, channels, queries, points
    (1, [(1, 1)], 1, 1, 1, 1),
    (2, [(3, 4), (1, 1)], 2, 5, 7, 3),
    (2, [(7, 9), (4, 5), (2, 3), (1, 2)], 2, 8, 99, 4),  # queries = pixels: tiles
    (1, [(1, 1)], 3, 32, 1, 16),  # one tile of one pixel
    (1, [(17, 3), (2, 20)], 2, 16, 91, 2),  # tiles narrower and wider than the level
    (2, [(8, 9), (4, 5), (2, 3), (1, 2)], 4, 32, 5, 4),
    (1, [(5, 3)] * 8, 3, 40, 17, 16),
    (1, [(6, 5)] * 3, 8, 64, 3, 5),
    (1, [(6, 5)] * 2, 1, 272, 4, 1),  # more channels than a group holds at once
    (3, [(2, 7)], 3, 37, 2, 7),
    (2, [(1, 17)], 2, 12, 6, 2),
    (1, [(4, 4)], 2, 20, 33, 3),
]


@pytest.mark.parametrize("threads", [128, 256])
@pytest.mark.parametrize("dtype", list(KINDS), ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_reference(library, size, dtype, threads):
    check(library, make_inputs(*size, dtype=dtype), threads=threads)


@pytest.mark.parametrize("channels", range(1, 65))
def test_takes_any_number_of_channels(library, channels):
    points = 1 + channels % 5
    check(library, make_inputs(1, [(3, 4), (2, 1)], 2, channels, 3, points, seed=channels))


@pytest.mark.parametrize("dtype", list(KINDS), ids=str)
def test_value_need_not_be_aligned(library, dtype):
    check(library, make_inputs(2, [(3, 4)], 2, 32, 5, 4, dtype=dtype), offset=1)


@pytest.mark.parametrize("channels", [8, 9])
def test_borders_and_huge_offsets(library, channels):
    # Sides that are powers of two make every coordinate exact, so that both see the same side of each border.
    shapes = [(4, 8), (1, 1)]
    places = torch.tensor([-1e30, -8.0, -0.5, -0.125, -0.0625, 0.0, 0.0625, 0.125, 0.5, 0.875, 1.0, 1.0625, 9.0, 1e30])
    value, _, _, _, _ = make_inputs(1, shapes, 2, channels, 1, 1)
    locations = torch.cartesian_prod(places, places).view(1, -1, 1, 1, 1, 2).expand(1, -1, 2, 2, 1, 2).contiguous()
    weights = torch.rand(locations.shape[:-1], generator=torch.Generator().manual_seed(1))
    grad_output = torch.randn(1, locations.shape[1], 2 * channels, generator=torch.Generator().manual_seed(2))
    check(library, (value, shapes, locations, weights, grad_output))


def test_locations_that_are_not_finite_read_zeros(library):
    inputs = make_inputs(1, [(3, 4)], 1, 8, 3, 1)
    inputs[2][0, :, 0, 0, 0, 0] = torch.tensor([torch.inf, -torch.inf, torch.nan])
    for result in on_host(library, *inputs):
        assert torch.equal(result, torch.zeros_like(result))


def test_half_conversions_are_those_of_torch(library):
    # One pixel read with weight 1 is a conversion to float32 and back.
    bits = torch.arange(2**16).to(torch.uint16)
    for dtype in (torch.float16, torch.bfloat16):
        value = bits.view(dtype)
        finite = value[value.isfinite()]
        count = finite.numel()
        inputs = (finite.view(1, 1, 1, count), [(1, 1)], torch.full((1, 1, 1, 1, 1, 2), 0.5))
        given = on_host(library, *inputs, torch.ones(1, 1, 1, 1, 1), torch.zeros(1, 1, count, dtype=dtype))
        assert torch.equal(given[0].flatten(), finite)
