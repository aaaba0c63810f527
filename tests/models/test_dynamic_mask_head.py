"""The dynamic mask head against the direct computation: one small network per instance and pixel."""

import pytest
import torch
from torch.nn import functional as F

from transformers_msstsvis.models.seqformer.dynamic_mask_head import (
    aligned_upsample,
    dynamic_masks,
    num_dynamic_parameters,
)


def test_against_one_network_per_instance():
    B, T, D, K, h, w, channels = 2, 3, 4, 5, 6, 7, 8
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(B, T, D, h, w, generator=generator)
    parameters = torch.randn(B, K, num_dynamic_parameters(D, channels, 3), generator=generator)
    centres = torch.rand(B, T, K, 2, generator=generator) * 50
    masks = dynamic_masks(features, parameters, centres, channels, 3)
    assert masks.shape == (B, K, T, 2 * h, 2 * w)
    for b, t, k in [(0, 0, 0), (1, 2, 4), (1, 1, 3)]:
        p = parameters[b, k]
        sizes = [(D + 2) * channels, channels * channels, channels, channels, channels, 1]
        w1, w2, w3, b1, b2, b3 = p.split(sizes)
        y, x = torch.meshgrid(torch.arange(h) * 8 + 4, torch.arange(w) * 8 + 4, indexing="ij")
        relative = torch.stack((centres[b, t, k, 0] - x, centres[b, t, k, 1] - y)).float()
        hidden = torch.cat((relative, features[b, t])).flatten(1)  # (2 + D, h w)
        hidden = (w1.view(channels, -1) @ hidden + b1[:, None]).relu()
        hidden = (w2.view(channels, -1) @ hidden + b2[:, None]).relu()
        logits = (w3.view(1, -1) @ hidden + b3[:, None]).view(h, w)
        # every other pixel of the upsampled mask is a pixel of the small one
        torch.testing.assert_close(masks[b, k, t, 1::2, 1::2], logits, rtol=1e-4, atol=1e-3)


def test_no_instances():
    masks = dynamic_masks(
        torch.randn(1, 2, 4, 3, 3), torch.zeros(1, 0, num_dynamic_parameters(4, 8, 3)), torch.zeros(1, 2, 0, 2), 8, 3
    )
    assert masks.shape == (1, 0, 2, 6, 6)


@pytest.mark.parametrize("size", [(1, 1), (3, 4)])
def test_upsampling_by_eye(size):
    maps = torch.arange(size[0] * size[1], dtype=torch.float32).view(1, 1, *size)
    up = aligned_upsample(maps)
    assert up.shape == (1, 1, 2 * size[0], 2 * size[1])
    assert torch.equal(up[..., 1::2, 1::2], maps)
    # replicate right and below, interpolate between pixel centres, replicate left and above
    padded = F.pad(maps, (0, 1, 0, 1), mode="replicate")
    wide = F.interpolate(padded, size=(2 * size[0] + 1, 2 * size[1] + 1), mode="bilinear", align_corners=True)
    torch.testing.assert_close(up, F.pad(wide, (1, 0, 1, 0), mode="replicate")[..., :-2, :-2])
