"""The feature pyramid against that of torchvision."""

import torch
from torchvision.ops import FeaturePyramidNetwork

from transformers_msstsvis.layers.feature_pyramid import FeaturePyramid


def test_as_torchvision():
    ours, theirs = FeaturePyramid([4, 6, 8], 16), FeaturePyramidNetwork([4, 6, 8], 16)
    ours.init_layer_weights()
    for mine, its in (
        (ours.lateral_convolutions, theirs.inner_blocks),
        (ours.output_convolutions, theirs.layer_blocks),
    ):
        for convolution, block in zip(mine, its, strict=True):
            block[0].load_state_dict(convolution.state_dict())
    maps = [torch.randn(2, channels, *size) for channels, size in ((4, (13, 10)), (6, (7, 5)), (8, (4, 3)))]
    with torch.no_grad():
        expected = theirs({str(level): x for level, x in enumerate(maps)})
        for given, wanted in zip(ours(maps), expected.values(), strict=True):
            torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-5)
