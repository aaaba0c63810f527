import pytest
import torch
from torch.nn import functional as F

from transformers_msstsvis.layers.deformable_convolution import DeformableConv2d, deformable_convolution


def given(
    seed: int = 0, n: int = 2, channels: int = 5, out: int = 4, size: int = 3, h: int = 7, w: int = 9, far: float = 2.0
):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, channels, h, w, generator=generator)
    offsets = far * torch.randn(n, 2 * size**2, h, w, generator=generator)
    return x, offsets, torch.randn(out, channels, size, size, generator=generator)


@pytest.mark.parametrize(
    "settings", [{}, {"size": 1}, {"size": 5}, {"far": 30.0}, {"h": 1, "w": 1}, {"n": 1, "out": 1}]
)
def test_the_way_of_the_cpu_gives_what_torchvision_gives(settings):
    expected = deformable_convolution(*given(**settings))  # with gradients
    with torch.no_grad():
        torch.testing.assert_close(deformable_convolution(*given(**settings)), expected, rtol=1e-4, atol=1e-4)


def test_a_tap_moves_down_and_to_the_right():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    offsets = torch.zeros(1, 2, 3, 4)
    offsets[:, 0], offsets[:, 1] = 1.0, 0.5  # y, x
    moved = deformable_convolution(x, offsets, torch.ones(1, 1, 1, 1))[0, 0]
    assert moved[0, 0] == 4.5  # between 4 and 5, one row below
    assert moved[0, 3] == 3.5  # half of it beyond the edge, where there are zeros
    assert not moved[2].any()


def test_without_offsets_it_is_a_convolution():
    layer = DeformableConv2d(5, 4)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.zeros_(layer.offsets.weight), torch.nn.init.zeros_(layer.offsets.bias)
    x, _, _ = given()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, padding=1), rtol=1e-4, atol=1e-4)


def test_gradients_reach_weights_and_offsets():
    layer = DeformableConv2d(5, 4)
    torch.nn.init.normal_(layer.weight)
    layer(given()[0]).square().sum().backward()
    assert all(parameter.grad.any() for parameter in layer.parameters())
