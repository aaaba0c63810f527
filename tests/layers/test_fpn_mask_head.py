import pytest
import torch
from torch import nn
from torch.nn import functional as F

from transformers_msstsvis.layers.fpn_mask_head import FpnMaskHead, SharedConv2d


class Plain(nn.Conv2d):
    """Takes features and maps as one input, already concatenated, or not: as a deformable convolution has to."""

    def __init__(self, in_channels, out_channels):
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x, maps=None):
        if maps is not None:
            x = torch.cat((x.repeat_interleave(len(maps) // len(x), 0), maps), dim=1)
        return super().forward(x)


def test_what_the_maps_of_a_frame_share_is_convolved_once_as_if_concatenated():
    torch.manual_seed(0)
    shared = SharedConv2d(12, 6)
    plain = Plain(12, 6)
    plain.load_state_dict(shared.state_dict())
    x, maps = torch.randn(2, 8, 5, 6), torch.randn(6, 4, 5, 6)
    torch.testing.assert_close(shared(x, maps), plain(x, maps))
    torch.testing.assert_close(shared(torch.cat((maps, maps, maps), 1)), plain(torch.cat((maps, maps, maps), 1)))


@pytest.mark.parametrize("map_channels", [(4,), (4, 4, 4)], ids=["maps_at_the_coarsest_level", "maps_at_three_levels"])
def test_the_ladder_written_out(map_channels):
    torch.manual_seed(0)
    head = FpnMaskHead(64, map_channels, (24, 16, 8), Plain, Plain)
    frames, k, sizes = 2, 3, [(2, 3), (3, 5), (6, 9), (11, 17)]
    features = torch.randn(frames, 64, *sizes[0])
    maps = [torch.randn(frames, k, 4, *size) for size in sizes[: len(map_channels)]]
    skips = [torch.randn(frames, c, *size) for c, size in zip((24, 16, 8), sizes[1:], strict=True)]
    together = head(features, maps, skips)
    assert together.shape == (frames, k, 4, 11, 17)
    assert head.channels == 4

    for frame in range(frames):
        for instance in range(k):
            x = torch.cat((features[frame], maps[0][frame, instance]))[None]
            x = head.steps[1](head.steps[0](x))
            for level, (step, adapter, skip) in enumerate(zip(head.steps[2:], head.adapters, skips, strict=True), 1):
                x = F.interpolate(x, size=skip.shape[-2:], mode="nearest") + adapter(skip[frame : frame + 1])
                if level < len(maps):
                    x = torch.cat((x, maps[level][frame, instance][None]), dim=1)
                x = step(x)
            torch.testing.assert_close(together[frame, instance], x[0], rtol=1e-4, atol=1e-5)
