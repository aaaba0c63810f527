import errno
import importlib
import logging
import math
import multiprocessing
import os
import re
import shutil
import stat
import struct
import subprocess
import sys

import pytest
import torch

from transformers_msstsvis.ops import multi_scale_deformable_attention as ops

multi_scale_deformable_attention = ops.multi_scale_deformable_attention
reference = ops.multi_scale_deformable_attention_reference

FLOAT32_TOLERANCE = 2e-6  # of the largest element, times the pixels of the largest side
BFLOAT16_TOLERANCE = 2**-8  # one rounding of a result whose inputs are the same


def make_inputs(batch, shapes, heads, channels, queries, points, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = sum(height * width for height, width in shapes)
    value = torch.randn(batch, pixels, heads, channels, generator=generator)
    locations = torch.rand(batch, queries, heads, len(shapes), points, 2, generator=generator) * 1.4 - 0.2
    weights = torch.rand(batch, queries, heads, len(shapes), points, generator=generator)
    return value, locations, weights


def run(function, value, shapes, locations, weights, grad_output):
    """The output and the gradients of value, locations and weights."""
    inputs = [tensor.detach().clone().requires_grad_() for tensor in (value, locations, weights)]
    output = function(inputs[0], shapes, *inputs[1:])
    return (output.detach(), *torch.autograd.grad(output, inputs, grad_output.to(output.dtype)))


def assert_close(given, expected, tolerance):
    for name, a, b in zip(("output", "grad value", "grad locations", "grad weights"), given, expected, strict=False):
        assert a.shape == b.shape, name
        if b.numel():
            error = (a.double() - b.double()).abs().max().item()
            assert error <= tolerance * max(1.0, b.abs().max().item()), f"{name}: {error}"


def by_hand(value, shapes, locations, weights):
    """The formula point by point, in Python floats."""
    batch, _, heads, channels = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    output = torch.zeros(batch, queries, heads, channels, dtype=torch.float64)
    for n, q, m in torch.cartesian_prod(*(torch.arange(size) for size in (batch, queries, heads))).tolist():
        start = 0
        for level, (height, width) in enumerate(shapes):
            for p in range(points):
                # the centre of pixel (0, 0) is at (0.5 / width, 0.5 / height)
                x = locations[n, q, m, level, p, 0].item() * width - 0.5
                y = locations[n, q, m, level, p, 1].item() * height - 0.5
                for row in (math.floor(y), math.floor(y) + 1):
                    for column in (math.floor(x), math.floor(x) + 1):
                        if 0 <= row < height and 0 <= column < width:
                            weight = (1 - abs(x - column)) * (1 - abs(y - row)) * weights[n, q, m, level, p].item()
                            output[n, q, m] += weight * value[n, start + row * width + column, m].double()
            start += height * width
    return output.flatten(2)


@pytest.fixture
def kernels():
    """The registered operators, with the CPU kernel loaded."""
    module = pytest.importorskip(
        "transformers_msstsvis.kernels.deformable_attention_kernel", reason="the package is not installed"
    )
    if not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        pytest.skip("no C++ compiler")
    assert ops._load_kernel("cpu"), "the kernel must build, load and pass its self-check"
    return module


@pytest.fixture(params=["reference", "embedding_bag", "kernel"])
def path(request, monkeypatch):
    """Runs a test on each path."""
    if request.param == "kernel":
        request.getfixturevalue("kernels")
    monkeypatch.setattr(ops, "_choose", torch.compiler.assume_constant_result(lambda device: request.param))
    return request.param


# one 2 x 2 level; the location is in units of the level's side
@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (0.25, 0.25, 1.0),  # centre of the first pixel
        (0.75, 0.25, 2.0),
        (0.25, 0.75, 3.0),
        (0.5, 0.5, 2.5),  # between all four
        (0.0, 0.0, 0.25),  # outer corner: one pixel and three zeros
        (1.0, 0.25, 1.0),  # right edge: half a pixel
        (-0.25, 0.25, 0.0),  # one pixel outside
        (1e30, 0.5, 0.0),
    ],
)
def test_samples_between_pixel_centres(path, x, y, expected):
    value = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
    location = torch.tensor([x, y]).view(1, 1, 1, 1, 1, 2)
    output = multi_scale_deformable_attention(value, [(2, 2)], location, torch.ones(1, 1, 1, 1, 1))
    assert output.tolist() == [[[expected]]]


def test_equals_the_formula_by_hand(path):
    shapes = [(3, 5), (1, 1), (4, 2)]
    inputs = make_inputs(2, shapes, 2, 3, 4, 2)
    expected = by_hand(inputs[0], shapes, *inputs[1:])
    torch.testing.assert_close(
        multi_scale_deformable_attention(inputs[0], shapes, *inputs[1:]).double(), expected, atol=1e-5, rtol=0
    )


def test_gradients_of_the_reference():
    shapes = [(3, 4), (2, 1)]
    value, locations, weights = (tensor.double().requires_grad_() for tensor in make_inputs(1, shapes, 2, 3, 2, 2))
    assert torch.autograd.gradcheck(lambda v, l, w: reference(v, shapes, l, w), (value, locations, weights))


SIZES = [
    # batch, shapes, heads, channels, queries, points
    (1, [(1, 1)], 1, 1, 1, 1),
    (2, [(3, 4), (1, 1)], 2, 5, 7, 3),
    (2, [(7, 9), (4, 5), (2, 3), (1, 2)], 2, 8, 99, 4),  # encoder: queries = pixels
    (2, [(8, 9), (4, 5), (2, 3), (1, 2)], 2, 8, 5, 4),  # decoder: few queries
    (2, [(8, 9), (4, 5), (2, 3), (1, 2)], 4, 16, 5, 4),
    (2, [(8, 9), (4, 5), (2, 3), (1, 2)], 4, 16, 80, 4),
    (1, [(5, 3)] * 5, 3, 40, 17, 8),
    (1, [(6, 5)] * 3, 8, 32, 3, 5),
    (1, [(6, 5)] * 3, 1, 64, 31, 6),
    (1, [(6, 5)] * 2, 1, 112, 4, 1),
    (3, [(2, 7)], 3, 37, 2, 7),
    (2, [(1, 17)], 2, 13, 6, 2),
    (300, [(2, 3), (1, 1)], 2, 8, 3, 2),  # many frames
    (2, [(3, 4)], 2, 16, 0, 4),
    (0, [(3, 4)], 2, 16, 3, 4),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_kernel_equals_the_reference(kernels, size):
    batch, shapes, heads, channels, queries, _ = size
    inputs = make_inputs(*size)
    grad_output = torch.randn(batch, queries, heads * channels, generator=torch.Generator().manual_seed(1))
    given = run(multi_scale_deformable_attention, inputs[0], shapes, *inputs[1:], grad_output)
    value, locations, weights = (tensor.double() for tensor in inputs)
    expected = run(reference, value, shapes, locations, weights, grad_output.double())
    assert_close(given, expected, FLOAT32_TOLERANCE * max(max(shape) for shape in shapes))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_embedding_bag_equals_the_reference(size):
    _, shapes, *_ = size
    value, locations, weights = make_inputs(*size)
    given = ops.multi_scale_deformable_attention_embedding_bag(value, shapes, locations, weights)
    expected = reference(value.double(), shapes, locations.double(), weights.double())
    assert given.shape == expected.shape
    assert given.dtype == value.dtype
    assert_close([given], [expected], FLOAT32_TOLERANCE * max(max(shape) for shape in shapes))


@pytest.mark.parametrize("channels", range(1, 65))
def test_kernel_takes_any_number_of_channels(kernels, channels):
    shapes, queries = [(3, 2)], 1 + channels % 3
    inputs = make_inputs(1, shapes, 2, channels, queries, 2, seed=channels)
    grad_output = torch.randn(1, queries, 2 * channels, generator=torch.Generator().manual_seed(channels))
    given = run(multi_scale_deformable_attention, inputs[0], shapes, *inputs[1:], grad_output)
    expected = run(reference, inputs[0], shapes, *inputs[1:], grad_output)
    assert_close(given, expected, 2 * FLOAT32_TOLERANCE * 3)


def test_kernel_equals_the_reference_on_borders(kernels):
    # Sides that are powers of two make every coordinate exact, so that both see the same side of each border.
    shapes = [(4, 8), (1, 1)]
    places = torch.tensor([-1e30, -8.0, -0.5, -0.125, -0.0625, 0.0, 0.0625, 0.125, 0.5, 0.875, 1.0, 1.0625, 9.0, 1e30])
    locations = torch.cartesian_prod(places, places).view(1, -1, 1, 1, 1, 2).expand(1, -1, 2, 2, 1, 2)
    value, _, _ = make_inputs(1, shapes, 2, 16, 1, 1)
    weights = torch.rand(locations.shape[:-1], generator=torch.Generator().manual_seed(1))
    grad_output = torch.randn(1, locations.shape[1], 32, generator=torch.Generator().manual_seed(2))
    given = run(multi_scale_deformable_attention, value, shapes, locations, weights, grad_output)
    expected = run(reference, value, shapes, locations, weights, grad_output)
    assert_close(given, expected, 1e-5)


def test_kernel_survives_locations_that_are_not_finite(kernels):
    value, locations, weights = make_inputs(1, [(3, 4)], 1, 8, 3, 1)
    locations[0, :, 0, 0, 0, 0] = torch.tensor([math.inf, -math.inf, math.nan])
    assert torch.equal(multi_scale_deformable_attention(value, [(3, 4)], locations, weights), torch.zeros(1, 3, 8))


def test_gradients_of_the_kernel(kernels):
    # The output is linear in value and weights, and bilinear in a location within its cell: there, finite differences
    # are exact, whatever their step.
    shapes = [(4, 8), (2, 2)]
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(2, 36, 2, 4, generator=generator)
    cells = torch.stack([torch.randint(-1, shape[axis] + 1, (2, 3, 2, 2)) for shape in shapes for axis in (1, 0)], -1)
    inside = cells.view(2, 3, 2, 2, 2, 2) + 0.5 + 0.25 + 0.5 * torch.rand(2, 3, 2, 2, 2, 2, generator=generator)
    locations = inside.transpose(3, 4) / torch.tensor(shapes).flip(1)[:, None]
    weights = torch.rand(2, 3, 2, 2, 2, generator=generator)
    inputs = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    function = torch.ops.msstsvis.multi_scale_deformable_attention
    with pytest.warns(UserWarning, match="double precision"):
        assert torch.autograd.gradcheck(
            lambda v, l, w: function(v, [4, 8, 2, 2], l, w), inputs, eps=2**-6, atol=2e-3, rtol=2e-3
        )


def test_a_level_without_pixels_reads_zeros(path):
    value, locations, weights = make_inputs(2, [(3, 4), (2, 2)], 2, 32, 3, 2)
    shapes = [(3, 4), (0, 5), (2, 2)]
    grad_output = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(1))
    expected = run(multi_scale_deformable_attention, value, [(3, 4), (2, 2)], locations, weights, grad_output)
    levels = [0, 0, 1]  # the points of the empty level are those of the first
    locations, weights = locations[:, :, :, levels], weights[:, :, :, levels]
    given = run(multi_scale_deformable_attention, value, shapes, locations, weights, grad_output)
    assert torch.equal(given[0], expected[0])
    assert torch.equal(given[1], expected[1])
    for a, b in zip(given[2:], expected[2:], strict=True):
        assert torch.equal(a[:, :, :, [0, 2]], b)
        assert not a[:, :, :, 1].any()


def test_no_pixel_at_all_gives_zeros(path):
    value, locations, weights = make_inputs(2, [(0, 3), (0, 0)], 2, 4, 3, 2)
    given = run(multi_scale_deformable_attention, value, [(0, 3), (0, 0)], locations, weights, torch.ones(2, 3, 8))
    assert given[0].shape == (2, 3, 8)
    assert not any(tensor.any() for tensor in given)


def test_autocast_leaves_the_result_alone(path):
    shapes = [(6, 5), (3, 3)]
    value, locations, weights = make_inputs(2, shapes, 2, 32, 4, 3)
    value = value.bfloat16()
    expected = multi_scale_deformable_attention(value, shapes, locations, weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = multi_scale_deformable_attention(value, shapes, locations, weights)
    assert given.dtype == torch.bfloat16
    torch.testing.assert_close(given, expected)


def test_inputs_need_not_be_contiguous(path):
    shapes = [(3, 4), (2, 2)]
    value, locations, weights = make_inputs(2, shapes, 2, 8, 3, 2)
    grad_output = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(1))
    expected = run(multi_scale_deformable_attention, value, shapes, locations, weights, grad_output)
    strided = (tensor.transpose(0, -1).contiguous().transpose(0, -1) for tensor in (value, locations, weights))
    inputs = [tensor.requires_grad_() for tensor in strided]
    output = multi_scale_deformable_attention(inputs[0], shapes, *inputs[1:])
    grads = torch.autograd.grad(output, inputs, grad_output.transpose(0, 1).contiguous().transpose(0, 1))
    assert not inputs[0].is_contiguous()
    assert_close((output, *grads), expected, 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("queries", [4, 40])
def test_half_precision_rounds_value_and_result_only(path, dtype, queries):
    shapes = [(6, 5), (3, 3)]
    value, locations, weights = make_inputs(2, shapes, 2, 24, queries, 3)
    value = value.to(dtype)
    grad_output = torch.randn(2, queries, 48, generator=torch.Generator().manual_seed(1)).to(dtype)
    given = run(multi_scale_deformable_attention, value, shapes, locations, weights, grad_output)
    expected = run(reference, value.double(), shapes, locations.double(), weights.double(), grad_output)
    assert [tensor.dtype for tensor in given] == [dtype, dtype, torch.float32, torch.float32]
    assert_close(given[:2], expected[:2], BFLOAT16_TOLERANCE)
    assert_close(given[2:], expected[2:], 2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_on_a_large_strided_level(path, dtype):
    # grid_sample's own half-precision CPU kernel reads wrong memory here: a strided view of over 32,768 elements
    side = 190
    value = torch.ones(1, side * side, 2, 4, dtype=dtype)
    locations = torch.rand(1, 50, 2, 1, 4, 2, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05
    output = multi_scale_deformable_attention(value, [(side, side)], locations, torch.full((1, 50, 2, 1, 4), 0.25))
    torch.testing.assert_close(output, torch.ones(1, 50, 8, dtype=dtype))


# transformers' own operator may crash here: grid_sample's half-precision CPU kernel reads wrong memory
TRANSFORMERS_IN_HALF = """
import sys
import torch
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

value, shapes, locations, weights = torch.load(sys.argv[1])
sides = torch.tensor(shapes)
starts = torch.cat([sides.new_zeros(1), sides.prod(1).cumsum(0)[:-1]])
output = MultiScaleDeformableAttention()(value, sides, shapes, starts, locations, weights, 64)
error = (output.float() - torch.load(sys.argv[2])).norm() / torch.load(sys.argv[2]).norm()
if not output.isfinite().all():
    print("infinite", (~output.isfinite()).float().mean().item())
else:
    print("wrong" if error > 0.005 else "right", error.item())
"""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_right_where_that_of_transformers_is_not(dtype, monkeypatch, tmp_path):
    shapes = [(190, 190), (12, 20)]
    value, locations, weights = make_inputs(1, shapes, 4, 32, 200, 4)
    expected = reference(value, shapes, locations, weights)
    for choice in ("auto", "off"):
        monkeypatch.setenv("MSSTSVIS_KERNELS", choice)
        given = multi_scale_deformable_attention(value.to(dtype), shapes, locations, weights).float()
        assert given.isfinite().all()
        assert (given - expected).norm() < 0.005 * expected.norm()

    torch.save((value.to(dtype), shapes, locations.to(dtype), weights.to(dtype)), tmp_path / "inputs.pt")
    torch.save(expected, tmp_path / "expected.pt")
    command = [sys.executable, "-c", TRANSFORMERS_IN_HALF, str(tmp_path / "inputs.pt"), str(tmp_path / "expected.pt")]
    result = subprocess.run(command, capture_output=True, text=True)
    # a crash is a negative exit code
    assert result.returncode < 0 or result.stdout.split()[0] in ("infinite", "wrong"), "transformers is right now"


def test_float64_stays_float64(path):
    shapes = [(3, 4)]
    value, locations, weights = (tensor.double() for tensor in make_inputs(1, shapes, 2, 3, 2, 2))
    output = multi_scale_deformable_attention(value, shapes, locations, weights)
    assert output.dtype == torch.float64
    torch.testing.assert_close(output, by_hand(value, shapes, locations, weights))


def test_results_do_not_depend_on_the_number_of_threads(kernels):
    shapes = [(16, 16), (8, 8)]
    inputs = make_inputs(2, shapes, 4, 16, 320, 4)
    grad_output = torch.randn(2, 320, 64, generator=torch.Generator().manual_seed(1))
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 7):
            torch.set_num_threads(count)
            results.append(run(multi_scale_deformable_attention, inputs[0], shapes, *inputs[1:], grad_output))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], result, strict=True))


def test_operators_pass_opcheck(kernels):
    value, locations, weights = make_inputs(2, [(3, 4), (2, 2)], 2, 8, 3, 2)
    arguments = (value, [3, 4, 2, 2], locations, weights)
    with_grad = tuple(x.clone().requires_grad_() if isinstance(x, torch.Tensor) else x for x in arguments)
    torch.library.opcheck(torch.ops.msstsvis.multi_scale_deformable_attention, with_grad)
    torch.library.opcheck(
        torch.ops.msstsvis.multi_scale_deformable_attention_backward, (torch.randn(2, 3, 16), *arguments)
    )


class Attention(torch.nn.Module):
    shapes = [(3, 4), (2, 2)]

    def forward(self, value, locations, weights):
        return multi_scale_deformable_attention(value, self.shapes, locations, weights)


def test_compiles_as_one_graph(path):
    inputs = make_inputs(2, Attention.shapes, 2, 32, 3, 2)
    grad_output = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(1))
    torch._dynamo.reset()
    compiled = torch.compile(Attention(), fullgraph=True, backend="aot_eager")
    given = run(lambda value, _, *rest: compiled(value, *rest), inputs[0], None, *inputs[1:], grad_output)
    assert_close(given, run(reference, inputs[0], Attention.shapes, *inputs[1:], grad_output), 1e-5)


@pytest.mark.parametrize("strict", [False, True])
def test_exports_with_a_free_batch(path, strict):
    batch = torch.export.Dim("batch", min=2, max=16)
    inputs = make_inputs(2, Attention.shapes, 2, 32, 3, 2)
    program = torch.export.export(Attention(), inputs, dynamic_shapes=({0: batch},) * 3, strict=strict)
    others = make_inputs(5, Attention.shapes, 2, 32, 3, 2, seed=1)
    torch.testing.assert_close(program.module()(*others), Attention()(*others))
    targets = [str(node.target) for node in program.graph.nodes]
    operator = {"kernel": "msstsvis.multi_scale_deformable_attention", "reference": "grid_sampler"}.get(path, path)
    assert any(operator in target for target in targets)


def test_the_first_use_may_be_a_trace(kernels):
    ops._load_kernel.cache_clear()
    with torch._subclasses.FakeTensorMode(), torch.no_grad():
        inputs = make_inputs(2, Attention.shapes, 2, 8, 3, 2)
        assert Attention()(*inputs).shape == (2, 3, 16)
    assert ops._load_kernel("cpu")


def test_second_derivative_is_refused(kernels):
    value, locations, weights = make_inputs(1, [(3, 4)], 1, 8, 2, 1)
    value.requires_grad_()
    locations.requires_grad_()
    output = multi_scale_deformable_attention(value, [(3, 4)], locations, weights)
    (grad,) = torch.autograd.grad(output.sum(), value, create_graph=True)
    with pytest.raises(RuntimeError, match=r"first derivative only.*MSSTSVIS_KERNELS=off"):
        grad.sum().backward()


# ------------------------------------------------------------------------------------------------------- errors


def wrong(name):
    value, locations, weights = make_inputs(2, [(3, 4), (2, 2)], 2, 8, 3, 2)
    shapes = [(3, 4), (2, 2)]
    return {
        "dimensions": (value.flatten(2), shapes, locations, weights),
        "pixels": (value, [(3, 4), (2, 3)], locations, weights),
        "empty level": (value, [(4, 4), (0, 2)], locations, weights),
        "negative side": (value, [(4, 4), (-1, 2)], locations, weights),
        "no level": (value[:, :0], [], locations[:, :, :, :0], weights[:, :, :, :0]),
        "levels": (value, [(4, 4)], locations, weights),
        "heads": (value, shapes, locations[:, :, :1], weights),
        "batch": (value, shapes, locations[:1], weights[:1]),
        "weights": (value, shapes, locations, weights[:, :2]),
    }[name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dimensions", r"value has shape \(2, 16, 16\); expected \(batch, pixels, heads, channels\)"),
        ("pixels", r"value has 16 pixels, but spatial_shapes \[\(3, 4\), \(2, 3\)\] hold 18: flatten"),
        ("negative side", r"spatial_shapes is \[\(4, 4\), \(-1, 2\)\]; expected .* no negative height or width"),
        ("no level", r"spatial_shapes is \[\]; expected at least one level"),
        ("levels", r"sampling_locations has shape \(2, 3, 2, 2, 2, 2\); expected \(2, queries, 2, 1, points, 2\)"),
        ("heads", r"sampling_locations has shape \(2, 3, 1, 2, 2, 2\); expected \(2, queries, 2, 2, points, 2\)"),
        ("batch", r"sampling_locations has shape \(1, "),
        ("weights", r"attention_weights has shape \(2, 2, 2, 2, 2\); expected \(2, 3, 2, 2, 2\)"),
    ],
)
def test_shapes_that_do_not_match(name, message):
    with pytest.raises(ValueError, match=message):
        multi_scale_deformable_attention(*wrong(name))


@pytest.mark.parametrize("name", ["sampling_locations", "attention_weights"])
def test_half_precision_locations_and_weights_are_refused(name):
    value, locations, weights = make_inputs(1, [(3, 4)], 1, 8, 2, 1)
    if name == "sampling_locations":
        locations = locations.bfloat16()
    else:
        weights = weights.bfloat16()
    with pytest.raises(TypeError, match=f"{name} is torch.bfloat16; expected torch.float32: .* leave only value"):
        multi_scale_deformable_attention(value.bfloat16(), [(3, 4)], locations, weights)


@pytest.mark.parametrize(
    "name", ["dimensions", "pixels", "empty level", "negative side", "levels", "heads", "batch", "weights"]
)
def test_the_operator_itself_refuses_wrong_shapes(kernels, name):
    value, shapes, locations, weights = wrong(name)
    with pytest.raises(RuntimeError, match=r"value|spatial_shapes|sampling_locations|attention_weights|level"):
        torch.ops.msstsvis.multi_scale_deformable_attention(
            value, [size for shape in shapes for size in shape], locations, weights
        )


# ------------------------------------------------------------------------------------------- choosing and building


def test_embedding_bag_serves_inference_with_wide_heads(monkeypatch):
    monkeypatch.setattr(ops, "_load_kernel", lambda device: False)

    def uses_embedding_bag(channels, requires_grad=False):
        value, locations, weights = make_inputs(1, [(3, 4)], 1, channels, 2, 1)
        value.requires_grad_(requires_grad)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            output = multi_scale_deformable_attention(value, [(3, 4)], locations, weights)
        torch.testing.assert_close(output, reference(value, [(3, 4)], locations, weights))
        return "aten::embedding_bag" in {event.name for event in profile.events()}

    assert uses_embedding_bag(32)
    assert not uses_embedding_bag(16)
    assert not uses_embedding_bag(32, requires_grad=True)
    with torch.no_grad():
        assert uses_embedding_bag(32, requires_grad=True)


@pytest.mark.parametrize(
    ("choice", "used"), [("off", False), ("auto", True), ("", True), ("cpu", True), ("cuda", False)]
)
def test_environment_chooses_the_kernel(kernels, monkeypatch, choice, used):
    monkeypatch.setenv("MSSTSVIS_KERNELS", choice)
    inputs = make_inputs(1, [(3, 4)], 1, 8, 2, 1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        multi_scale_deformable_attention(inputs[0], [(3, 4)], *inputs[1:])
    names = {event.name for event in profile.events()}
    assert ("msstsvis::multi_scale_deformable_attention" in names) == used


def test_unknown_choice(monkeypatch):
    monkeypatch.setenv("MSSTSVIS_KERNELS", "fast")
    inputs = make_inputs(1, [(3, 4)], 1, 8, 2, 1)
    with pytest.raises(ValueError, match="MSSTSVIS_KERNELS is 'fast'; expected one of off, auto, cpu, cuda"):
        multi_scale_deformable_attention(inputs[0], [(3, 4)], *inputs[1:])


def test_without_the_kernels_package(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    ops._load_kernel.cache_clear()
    try:
        inputs = make_inputs(1, [(3, 4)], 1, 8, 2, 1)
        output = multi_scale_deformable_attention(inputs[0], [(3, 4)], *inputs[1:])
        assert not ops._load_kernel("cpu")
    finally:
        ops._load_kernel.cache_clear()
    assert torch.equal(output, reference(inputs[0], [(3, 4)], *inputs[1:]))


@pytest.fixture
def fresh(kernels, monkeypatch, tmp_path, caplog):
    """The state before the first use, with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    caplog.set_level(logging.WARNING)
    ops._load_kernel.cache_clear()
    yield tmp_path
    ops._load_kernel.cache_clear()


def assert_falls_back(caplog, reason):
    inputs = make_inputs(1, [(3, 4)], 1, 8, 2, 1)
    expected = reference(inputs[0], [(3, 4)], *inputs[1:])
    for _ in range(2):
        assert torch.equal(multi_scale_deformable_attention(inputs[0], [(3, 4)], *inputs[1:]), expected)
    warnings = [record.getMessage() for record in caplog.records if "deformable attention" in record.getMessage()]
    assert len(warnings) == 1
    assert "PyTorch is used instead" in warnings[0]
    assert reason in warnings[0]
    assert "\n" not in warnings[0]


def write_compiler(folder, body):
    script = folder / "compiler"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def test_no_compiler(fresh, monkeypatch, caplog):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert_falls_back(caplog, "no C++ compiler found (no-such-compiler)")


def test_compiler_that_fails(fresh, monkeypatch, caplog):
    monkeypatch.setenv("CXX", write_compiler(fresh, "echo 'x.cpp:1: error: too old' >&2; echo more >&2; exit 1"))
    assert_falls_back(caplog, "x.cpp:1: error: too old")
    assert not [path for path in (fresh / "transformers_msstsvis").iterdir() if path.suffix in (".so", ".tmp")]


def test_library_that_does_not_load(fresh, monkeypatch, caplog):
    # the last argument of the command is the file to write
    monkeypatch.setenv("CXX", write_compiler(fresh, 'for last; do :; done; echo "no library" > "$last"'))
    assert_falls_back(caplog, "Could not load this library")


def test_cache_that_cannot_be_written(fresh, monkeypatch, caplog):
    (fresh / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(fresh / "file"))
    assert_falls_back(caplog, "Not a directory")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_read_only_cache(fresh, caplog):
    fresh.chmod(0o500)
    assert_falls_back(caplog, "Permission denied")


def test_cache_on_a_read_only_file_system(fresh, monkeypatch, caplog):
    def read_only(*arguments):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "mkdir", read_only)
    assert_falls_back(caplog, "Read-only file system")


def test_library_of_another_machine_in_the_cache(fresh, kernels, monkeypatch, caplog):
    monkeypatch.setenv("CXX", write_compiler(fresh, 'for last; do :; done; echo library > "$last"'))
    build = importlib.import_module("transformers_msstsvis.kernels.build")
    library = build.build(kernels.SOURCES["cpu"])
    # an ELF header: 64 bits, little-endian, shared object, for a Motorola 68000
    library.write_bytes(b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HHI", 3, 4, 1).ljust(48, b"\0"))
    library.with_suffix(".sha256").write_text(build._checksum(library))
    assert_falls_back(caplog, "Could not load this library")


def test_hub_kernel_without_the_kernels_library(fresh, monkeypatch, caplog):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("MSSTSVIS_HUB_KERNEL", "someone/attention")
    monkeypatch.setitem(sys.modules, "kernels", None)
    assert_falls_back(caplog, "MSSTSVIS_HUB_KERNEL=someone/attention needs `pip install kernels`")


USE_HUB_KERNEL = """
import sys, types
from concurrent.futures import ThreadPoolExecutor
import torch
from transformers_msstsvis.ops import multi_scale_deformable_attention as ops

calls = []

def pairs(sides):
    return list(zip(sides[::2], sides[1::2]))

def backward(grad_output, value, sides, locations, weights):
    inputs = [tensor.detach().requires_grad_() for tensor in (value, locations, weights)]
    output = ops.multi_scale_deformable_attention_reference(inputs[0], pairs(sides), *inputs[1:])
    return torch.autograd.grad(output, inputs, grad_output)

class Kernel:
    def multi_scale_deformable_attention(value, sides, locations, weights):
        calls.append("forward")
        return SCALE * ops.multi_scale_deformable_attention_reference(value, pairs(sides), locations, weights)

    def multi_scale_deformable_attention_backward(*inputs):
        with ThreadPoolExecutor(1) as executor:  # autograd is off in a kernel's own thread
            return executor.submit(backward, *inputs).result()

def get_kernel(repository, version, backend, trust_remote_code):
    assert (repository, version, backend, trust_remote_code) == ("someone/attention", 1, "cpu", True)
    return Kernel

sys.modules["kernels"] = types.SimpleNamespace(get_kernel=get_kernel)
value, locations, weights = torch.ones(1, 4, 1, 8), torch.full((1, 1, 1, 1, 1, 2), 0.5), torch.ones(1, 1, 1, 1, 1)
checks = ops._load_kernel("cpu"), len(calls)
output = ops.multi_scale_deformable_attention(value, [(2, 2)], locations, weights)
print(checks[0], len(calls) - checks[1], output.mean().item())
"""


# a wrong kernel is refused by the self-check, like any other
@pytest.mark.parametrize(("scale", "printed"), [(1.0, "True 1 1.0"), (1.5, "False 0 1.0")])
def test_hub_kernel(fresh, scale, printed):
    environment = os.environ | {"CXX": "no-such-compiler", "MSSTSVIS_HUB_KERNEL": "someone/attention"}
    code = USE_HUB_KERNEL.replace("SCALE", str(scale))
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.stdout.strip() == printed, result.stderr
    assert ("off by" in result.stderr) == (scale != 1.0)


@pytest.mark.parametrize(
    ("choice", "device", "loads", "path"),
    [
        ("auto", "cpu", True, "kernel"),
        ("auto", "cpu", False, "embedding_bag"),
        ("auto", "cuda", True, "kernel"),
        ("auto", "cuda", False, "reference"),
        ("auto", "mps", True, "reference"),
        ("cuda", "cuda", True, "kernel"),
        ("cuda", "cpu", True, "embedding_bag"),
        ("cpu", "cuda", True, "reference"),
        ("off", "cpu", True, "embedding_bag"),
        ("off", "cuda", True, "reference"),
    ],
)
def test_path_of_each_device(monkeypatch, choice, device, loads, path):
    monkeypatch.setenv("MSSTSVIS_KERNELS", choice)
    monkeypatch.setattr(ops, "_load_kernel", lambda device: loads)
    assert ops._choose(device) == path


def test_cuda_kernel_without_a_device(kernels, monkeypatch, caplog):
    def no_device():
        raise RuntimeError("Found no NVIDIA driver\nmore")

    monkeypatch.setattr(torch.cuda, "current_device", no_device)
    caplog.set_level(logging.WARNING)
    assert not kernels.load_kernel("cuda", reference)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(
        "The CUDA kernel of deformable attention is off, PyTorch is used instead: Found no NVIDIA"
    )


def test_no_cuda_compiler(fresh, kernels, monkeypatch):
    build = importlib.import_module("transformers_msstsvis.kernels.build")
    monkeypatch.setenv("CUDA_HOME", str(fresh))
    with pytest.raises(build.BuildError, match="no CUDA compiler found"):
        build.build(kernels.SOURCES["cuda"], [(9, 0)])


def test_cuda_build_is_for_the_devices(fresh, kernels, monkeypatch):
    build = importlib.import_module("transformers_msstsvis.kernels.build")
    (fresh / "bin").mkdir()
    script = write_compiler(
        fresh,
        f'echo "$@" >> "{fresh}/log"; for last; do :; done; case "$last" in -*) ;; *) echo library > "$last";; esac',
    )
    os.rename(script, fresh / "bin" / "nvcc")
    monkeypatch.setenv("CUDA_HOME", str(fresh))
    libraries = {build.build(kernels.SOURCES["cuda"], archs) for archs in ([(9, 0)], [(9, 0), (8, 0), (9, 0)])}
    assert len(libraries) == 2
    assert build.build(kernels.SOURCES["cuda"], [(8, 0), (9, 0)]) in libraries
    compilations = [line for line in (fresh / "log").read_text().splitlines() if line != "--version"]
    assert [re.findall("code=(sm_[0-9]+)", line) for line in compilations] == [["sm_90"], ["sm_80", "sm_90"]]


@pytest.mark.slow
def test_cuda_source_compiles(kernels, monkeypatch, tmp_path):
    build = importlib.import_module("transformers_msstsvis.kernels.build")
    try:
        build._cuda_compiler()
    except build.BuildError:
        pytest.skip("no CUDA compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.ops.load_library(build.build(kernels.SOURCES["cuda"], [(8, 0), (9, 0)]))
    for name in (kernels.NAME, f"{kernels.NAME}_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"msstsvis::{name}", "CUDA")


def test_compiled_index_part(monkeypatch):
    shapes = [(3, 4), (2, 2)]
    value, locations, weights = make_inputs(2, shapes, 2, 32, 3, 2)
    expected = reference(value, shapes, locations, weights)
    calls = []
    monkeypatch.setattr(
        torch, "compile", lambda function, **_: lambda *inputs: (calls.append(1), function(*inputs))[1]
    )
    monkeypatch.setattr(ops, "_load_kernel", lambda device: False)
    ops._compile_find_bags.cache_clear()
    try:
        torch.testing.assert_close(multi_scale_deformable_attention(value, shapes, locations, weights), expected)
        assert not calls
        monkeypatch.setenv("MSSTSVIS_COMPILE", "1")
        torch.testing.assert_close(multi_scale_deformable_attention(value, shapes, locations, weights), expected)
        assert calls
    finally:
        ops._compile_find_bags.cache_clear()


def test_index_part_that_does_not_compile(monkeypatch, caplog):
    def broken(*inputs):
        raise RuntimeError("no compiler here\nmore")

    monkeypatch.setattr(torch, "compile", lambda function, **_: broken)
    caplog.set_level(logging.WARNING)
    inputs = make_inputs(2, [(3, 4)], 2, 32, 3, 2)
    ops._compile_find_bags.cache_clear()
    try:
        for _ in range(2):
            given = ops.multi_scale_deformable_attention_embedding_bag(inputs[0], [(3, 4)], *inputs[1:], compiled=True)
    finally:
        ops._compile_find_bags.cache_clear()
    torch.testing.assert_close(given, reference(inputs[0], [(3, 4)], *inputs[1:]))
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == "MSSTSVIS_COMPILE=1 has no effect on deformable attention here: no compiler here"


def test_kernel_that_disagrees_with_the_reference(kernels, caplog):
    assert not kernels.load_kernel("cpu", lambda *inputs: reference(*inputs) * 1.01)
    assert "off by" in caplog.text
    assert "self-check" in caplog.text


def test_loading_leaves_the_random_state_alone(kernels):
    state = torch.get_rng_state()
    assert kernels.load_kernel("cpu", reference)
    assert torch.equal(torch.get_rng_state(), state)


def _build(source):
    importlib.import_module("transformers_msstsvis.kernels.build").build(source)


def test_processes_build_once(fresh, kernels, monkeypatch):
    log = fresh / "log"
    body = f'echo called >> "{log}"; sleep 0.3; for last; do :; done; echo library > "$last"'
    monkeypatch.setenv("CXX", write_compiler(fresh, body))
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_build, args=(kernels.SOURCES["cpu"],)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert log.read_text() == "called\n"


DAMAGE = {
    "cut": lambda library: library.write_bytes(library.read_bytes()[: library.stat().st_size // 2]),
    "empty": lambda library: library.write_bytes(b""),
    "text": lambda library: library.write_text("no library"),
    "one byte": lambda library: library.write_bytes(b"?" + library.read_bytes()[1:]),
    "gone": lambda library: library.unlink(),
    "no checksum": lambda library: library.with_suffix(".sha256").unlink(),
    "empty checksum": lambda library: library.with_suffix(".sha256").write_bytes(b""),
    "no text as checksum": lambda library: library.with_suffix(".sha256").write_bytes(b"\xff\xfe\xff"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_library_is_built_anew(fresh, kernels, monkeypatch, damage):
    build = importlib.import_module("transformers_msstsvis.kernels.build")
    monkeypatch.setenv(
        "CXX", write_compiler(fresh, f'echo called >> "{fresh}/log"; for last; do :; done; echo lib > "$last"')
    )
    library = build.build(kernels.SOURCES["cpu"])
    DAMAGE[damage](library)
    for _ in range(2):
        assert build.build(kernels.SOURCES["cpu"]) == library
        assert library.read_text() == "lib\n"
    assert (fresh / "log").read_text() == "called\n" * 2


def test_a_cut_library_does_not_end_the_process(fresh, kernels):
    """As the loader reads it from a map of the file, it would: with a signal, and no word."""
    build = importlib.import_module("transformers_msstsvis.kernels.build")
    library = build.build(kernels.SOURCES["cpu"])
    whole = library.read_bytes()
    library.write_bytes(whole[: len(whole) // 2])
    code = (
        "from transformers_msstsvis.ops import multi_scale_deformable_attention as ops; assert ops._load_kernel('cpu')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert library.read_bytes() == whole or library.stat().st_size == len(whole)


def test_processes_mend_a_damaged_library_once(fresh, kernels, monkeypatch):
    log = fresh / "log"
    body = f'echo called >> "{log}"; sleep 0.3; for last; do :; done; echo library > "$last"'
    monkeypatch.setenv("CXX", write_compiler(fresh, body))
    library = importlib.import_module("transformers_msstsvis.kernels.build").build(kernels.SOURCES["cpu"])
    library.write_bytes(b"lib")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_build, args=(kernels.SOURCES["cpu"],)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert library.read_text() == "library\n"
    assert log.read_text() == "called\n" * 2


def test_leftovers_of_killed_builds_are_removed(fresh, kernels, monkeypatch):
    build = importlib.import_module("transformers_msstsvis.kernels.build")
    monkeypatch.setenv("CXX", write_compiler(fresh, 'for last; do :; done; echo library > "$last"'))
    library = build.build(kernels.SOURCES["cpu"])
    library.unlink()
    library.with_suffix(".999999.tmp").write_bytes(b"half")
    library.with_suffix(".sha256.999999.tmp").write_bytes(b"half")
    others = library.with_name("another-kernel.1.tmp")
    others.write_bytes(b"being built")
    build.build(kernels.SOURCES["cpu"])
    names = {path.name for path in library.parent.iterdir()}
    assert names == {library.name, f"{library.stem}.sha256", f"{library.stem}.lock", others.name}


FORKED = """
import os, sys, torch
from torch.nn import functional as F
from transformers_msstsvis.ops.multi_scale_deformable_attention import multi_scale_deformable_attention
torch.set_num_threads(2)
shapes = [(40, 50), (20, 25)]
value, locations = torch.rand(2, 2500, 4, 16), torch.rand(2, 300, 4, 2, 4, 2)
def work():
    resized = F.interpolate(value.reshape(1, 1, 400, 800), scale_factor=2, mode="bilinear")
    return multi_scale_deformable_attention(value, shapes, locations, locations[..., 0]).sum() + resized.sum()
first = work()
child = os.fork()
if not child:
    os._exit(0 if torch.allclose(work(), first) and torch.get_num_threads() == 1 else 3)
assert os.waitpid(child, 0)[1] == 0 and torch.get_num_threads() == 2
loader = torch.utils.data.DataLoader(range(4), num_workers=2, multiprocessing_context="fork",
                                     collate_fn=lambda items: (items, float(work())))
assert [items for items, _ in loader] == [[0], [1], [2], [3]]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_forked_after_use_works(kernels):
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_cache_key_follows_source_and_cpu(fresh, monkeypatch):
    build = importlib.import_module("transformers_msstsvis.kernels.build")
    monkeypatch.setenv("CXX", write_compiler(fresh, 'for last; do :; done; echo library > "$last"'))
    source = fresh / "a.cpp"
    source.write_text("int a;")
    first = build.build(source)
    assert build.build(source) == first
    source.write_text("int b;")
    second = build.build(source)
    monkeypatch.setattr(build, "_cpu_flags", lambda: "another")
    assert len({first, second, build.build(source)}) == 3
    assert first.parent == fresh / "transformers_msstsvis"
    assert os.access(first, os.R_OK)
