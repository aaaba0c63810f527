"""The CUDA kernel on a device. What needs none is in test_cuda_kernel_on_host.py."""

import pytest
import torch

from tests.ops.test_multi_scale_deformable_attention import SIZES, assert_close, make_inputs, run
from transformers_msstsvis.benchmarks.gpu import checks
from transformers_msstsvis.ops import multi_scale_deformable_attention as ops

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

multi_scale_deformable_attention = ops.multi_scale_deformable_attention
reference = ops.multi_scale_deformable_attention_reference

FLOAT32_TOLERANCE = 4e-6  # of the largest element, times the pixels of the largest side
HALF_TOLERANCE = {torch.bfloat16: 2**-8, torch.float16: 2**-11}  # one rounding of a result


@pytest.fixture(scope="module", autouse=True)
def kernel():
    assert ops._load_kernel("cuda"), "the kernel must build, load and pass its self-check"


def compare(shapes, value, locations, weights, tolerances=None):
    """Runs the kernel, and the reference in float64 on the CPU."""
    batch, queries, heads = weights.shape[:3]
    grad_output = torch.randn(batch, queries, heads * value.shape[3], generator=torch.Generator().manual_seed(1)).to(
        value.dtype
    )
    on_device = [tensor.cuda() for tensor in (value, locations, weights, grad_output)]
    given = run(multi_scale_deformable_attention, on_device[0], shapes, *on_device[1:])
    in_double = [tensor.double() for tensor in (value, locations, weights, grad_output)]
    expected = run(reference, in_double[0], shapes, *in_double[1:])
    float32 = FLOAT32_TOLERANCE * max(max(shape) for shape in shapes)
    half = HALF_TOLERANCE.get(value.dtype, float32)
    assert [tensor.dtype for tensor in given] == [value.dtype, value.dtype, torch.float32, torch.float32]
    for a, b, tolerance in zip(given, expected, (half, half, float32, float32), strict=True):
        assert_close([a.cpu()], [b], tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_reference(size, dtype):
    value, locations, weights = make_inputs(*size)
    compare(size[1], value.to(dtype), locations, weights)


@pytest.mark.parametrize("channels", [*range(1, 65), 128, 272])
def test_takes_any_number_of_channels(channels):
    compare([(3, 2), (4, 5)], *make_inputs(2, [(3, 2), (4, 5)], 2, channels, 1 + channels % 40, 3, seed=channels))


@pytest.mark.parametrize("levels", range(1, 9))
@pytest.mark.parametrize("points", [1, 3, 4, 8, 16])
def test_takes_any_number_of_levels_and_points(levels, points):
    shapes = [(5 + level, 7) for level in range(levels)]
    compare(shapes, *make_inputs(2, shapes, 2, 32, 11, points))


def test_more_levels_than_the_kernel_holds_are_refused():
    value, locations, weights = (tensor.cuda() for tensor in make_inputs(1, [(2, 2)] * 17, 1, 8, 3, 1))
    with pytest.raises(RuntimeError, match="at most 16 levels"):
        multi_scale_deformable_attention(value, [(2, 2)] * 17, locations, weights)


@pytest.mark.parametrize("queries", ["pixels", 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_real_sizes(queries, dtype):
    shapes = [(45, 80), (23, 40), (12, 20), (6, 10)]
    count = sum(height * width for height, width in shapes) if queries == "pixels" else queries
    value, locations, weights = make_inputs(2, shapes, 8, 32, count, 4)
    compare(shapes, value.to(dtype), locations, weights / 16)


def test_borders_and_huge_offsets():
    # Sides that are powers of two make every coordinate exact, so that both see the same side of each border.
    shapes = [(4, 8), (1, 1)]
    places = torch.tensor([-1e30, -8.0, -0.5, -0.125, -0.0625, 0.0, 0.0625, 0.125, 0.5, 0.875, 1.0, 1.0625, 9.0, 1e30])
    locations = torch.cartesian_prod(places, places).view(1, -1, 1, 1, 1, 2).expand(1, -1, 2, 2, 1, 2)
    value, _, _ = make_inputs(1, shapes, 2, 16, 1, 1)
    compare(shapes, value, locations, torch.rand(locations.shape[:-1], generator=torch.Generator().manual_seed(1)))


def test_locations_that_are_not_finite_read_zeros():
    value, locations, weights = make_inputs(1, [(3, 4)], 1, 8, 3, 1)
    locations[0, :, 0, 0, 0, 0] = torch.tensor([torch.inf, -torch.inf, torch.nan])
    output = multi_scale_deformable_attention(value.cuda(), [(3, 4)], locations.cuda(), weights.cuda())
    assert not output.any()


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_value_need_not_be_aligned(offset):
    value, locations, weights = make_inputs(2, [(3, 4)], 2, 32, 5, 4)
    memory = torch.empty(value.numel() + offset, device="cuda")
    shifted = memory[offset:].view(value.shape).copy_(value)
    given = multi_scale_deformable_attention(shifted, [(3, 4)], locations.cuda(), weights.cuda())
    torch.testing.assert_close(given.cpu(), reference(value, [(3, 4)], locations, weights), atol=1e-5, rtol=1e-5)


def test_inputs_need_not_be_contiguous():
    shapes = [(3, 4), (2, 2)]
    inputs = [tensor.cuda() for tensor in make_inputs(2, shapes, 2, 8, 3, 2)]
    expected = multi_scale_deformable_attention(inputs[0], shapes, *inputs[1:])
    strided = [tensor.transpose(0, -1).contiguous().transpose(0, -1) for tensor in inputs]
    assert torch.equal(multi_scale_deformable_attention(strided[0], shapes, *strided[1:]), expected)


def test_gradients():
    checks.check_gradients("cuda")


def test_operators_pass_opcheck():
    checks.check_operators("cuda")


def test_every_kernel():
    checks.check_every_kernel("cuda")


def test_tensors_of_two_devices_are_refused():
    value, locations, weights = make_inputs(1, [(3, 4)], 1, 8, 2, 1)
    with pytest.raises((RuntimeError, NotImplementedError)):
        multi_scale_deformable_attention(value.cuda(), [(3, 4)], locations, weights)


def test_runs_on_the_current_stream():
    value, locations, weights = (tensor.cuda() for tensor in make_inputs(2, [(40, 50)], 8, 32, 2000, 4))
    expected = multi_scale_deformable_attention(value, [(40, 50)], locations, weights)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = torch.zeros_like(value)
        torch.cuda._sleep(10_000_000)
        late.copy_(value)
        given = multi_scale_deformable_attention(late, [(40, 50)], locations, weights)
    stream.synchronize()
    assert torch.equal(given, expected)


def test_sizes_beyond_32_bits():
    # 2^31 elements of value: the last image lies beyond what 32 bits can address
    batch, shapes = 2**31 // (128 * 128 * 8 * 32) + 1, [(128, 128)]
    value = torch.zeros(batch, 128 * 128, 8, 32, dtype=torch.bfloat16, device="cuda")
    value[-1] = torch.randn(128 * 128, 8, 32, generator=torch.Generator().manual_seed(0)).to(value)
    _, locations, weights = make_inputs(1, [(1, 1)], 8, 1, 50, 4)
    given = multi_scale_deformable_attention(
        value, shapes, locations.cuda().expand(batch, -1, -1, -1, -1, -1), weights.cuda().expand(batch, -1, -1, -1, -1)
    )
    expected = reference(value[-1:].float().cpu(), shapes, locations, weights)
    torch.testing.assert_close(given[-1:].float().cpu(), expected, atol=2e-2, rtol=1e-2)
    assert not given[:-1].any()
