"""PVTv2 with messenger tokens, which wander between the frames of a video (TeViT, 2022).

Weights and names are those of the PVTv2 of transformers, and the messengers are the only new ones: they pass through
the same layers as the patches. To a convolution a messenger is a plane of one colour: its kernel is summed over its
places.

Letters: B videos, T frames, N frames of all videos, S patches of a frame, M messengers of a frame, G groups of
messengers, D channels of a stage, h w rows and columns of its map.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.pvt_v2.modeling_pvt_v2 import PvtV2BlockLayer

from ...layers.attention import eager_attention_forward
from ...layers.backbone import VisBackbone
from ...layers.linear import linear
from ..vis.modeling_vis import in_frame_chunks, real_frames_first

BLOCK_FRAMES = {"cpu": 1}


def shifted_frames(real: torch.Tensor, shifts: list[int]) -> torch.Tensor:
    """
    From which frame each group of messengers comes: `out[t] = in[t - shift]`, in a circle of a video's real frames.

    Args:
        real: `(B, T)` bool, True = real frame.
        shifts: of the G groups.

    Returns:
        `(B T, G)` int64 frames of the batch. To a frame of the padding come its own.
    """
    frames = torch.arange(real.numel(), device=real.device).view_as(real)
    in_order = real_frames_first(real)
    place, length = real.cumsum(1) - 1, real.sum(1, keepdim=True).clamp(min=1)
    places = (place[..., None] - torch.tensor(shifts, device=real.device)) % length[..., None]  # (B, T, G)
    source = frames[:, :1, None] + in_order.gather(1, places.flatten(1)).view_as(places)
    return torch.where(real[..., None], source, frames[..., None]).flatten(0, 1)


def shift(messengers: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
    """Messengers `(N, M, D)`, of which those of group g come from the frames `sources[:, g]`, `(N, G)`."""
    groups = sources.shape[1]
    parts = messengers.unflatten(1, (groups, -1))  # (N, G, M/G, D)
    return parts[sources, torch.arange(groups, device=sources.device)].flatten(1, 2)


def map_of(tokens: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The patches of `(N, S + M, D)` as a map `(N, D, h, w)`, channels last in memory."""
    return tokens[:, : size[0] * size[1]].unflatten(1, size).permute(0, 3, 1, 2)


def tokens_of(feature_map: torch.Tensor, messengers: torch.Tensor) -> torch.Tensor:
    """A map `(N, D, h, w)` and messengers `(N, M, D)` as tokens `(N, h w + M, D)`."""
    return torch.cat((feature_map.flatten(2).mT, messengers), dim=1)


def everywhere(convolution: nn.Conv2d, messengers: torch.Tensor) -> torch.Tensor:
    """What a convolution makes of planes of one colour: `(N, M, D)` to `(N, M, D')`."""
    weight = convolution.weight.sum((2, 3))
    if convolution.groups > 1:  # every channel by itself
        return messengers * weight[:, 0] + convolution.bias
    return F.linear(messengers, weight, convolution.bias)


class MessengerBlock(GradientCheckpointingLayer, PvtV2BlockLayer):
    """A block of PVTv2 that messengers take part in."""

    def forward(self, tokens: torch.Tensor, size: tuple[int, int], implementation: str) -> torch.Tensor:
        """`(N, S + M, D)`, patches first, of maps of `size` (h, w)."""
        tokens = tokens + self.drop_path(self.attend(self.layer_norm_1(tokens), size, implementation))
        return tokens + self.drop_path(self.feed_forward(self.layer_norm_2(tokens), size))

    def attend(self, tokens: torch.Tensor, size: tuple[int, int], implementation: str) -> torch.Tensor:
        """Patches and messengers of a frame read its reduced patches and its messengers."""
        attention, S = self.attention, size[0] * size[1]
        read = tokens[:, :S]  # as published, messengers are not read in the last stage
        if attention.spatial_reduction_ratio > 1:
            reduction = attention.spatial_reduction
            read = tokens_of(reduction(map_of(tokens, size)), everywhere(reduction, tokens[:, S:]))
            read = attention.layer_norm(read)
        layers = ((attention.query, tokens), (attention.key, read), (attention.value, read))
        query, key, value = (
            linear(x, layer.weight, layer.bias).unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)
            for layer, x in layers
        )
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        scaling = query.shape[-1] ** -0.5
        attended, _ = attend(attention, query, key, value, None, scaling=scaling, dropout=0.0, is_causal=False)
        return linear(attended.flatten(2), attention.proj.weight, attention.proj.bias)

    def feed_forward(self, tokens: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Two linear layers, and between them a depthwise convolution and GELU."""
        network, S = self.mlp, size[0] * size[1]
        inner = linear(tokens, network.dense1.weight, network.dense1.bias)
        patches = network.dwconv.dwconv(map_of(inner, size)).flatten(2).mT
        messengers = everywhere(network.dwconv.dwconv, inner[:, S:])
        outer = [
            linear(network.intermediate_act_fn(x), network.dense2.weight, network.dense2.bias)
            for x in (patches, messengers)
        ]
        return torch.cat(outer, dim=1)


class MessengerBackbone(VisBackbone):
    """
    PVTv2 whose frames send each other messengers.

    Args:
        config: model configuration, with `num_messengers` and `messenger_shifts`.
    """

    def __init__(self, config):
        super().__init__(config, strides=(4, 8, 16, 32))
        self.config = config
        self.messengers = nn.Parameter(torch.empty(1, config.num_messengers, self.model.config.num_channels))
        for stage in self.model.encoder.layers:
            for block in stage.blocks:
                block.__class__ = MessengerBlock  # the same weights

    def init_layer_weights(self) -> None:
        init.trunc_normal_(self.messengers, std=0.02)

    def forward(self, frames: torch.Tensor, real: torch.Tensor) -> list[torch.Tensor]:
        """`(N, 3, H, W)`, and `real (B, T)` bool, True = real frame: maps `(N, D, h, w)`, finest first."""
        shifts = self.config.messenger_shifts
        there, back = (shifted_frames(real, [sign * by for by in shifts]) for sign in (1, -1))
        x, messengers, maps = frames, self.messengers.expand(frames.shape[0], -1, -1), []
        for stage in self.model.encoder.layers:
            tokens, size = self.embed(stage.patch_embedding, x, messengers)
            S, last = size[0] * size[1], len(stage.blocks) - 1
            for index, block in enumerate(stage.blocks):
                tokens = self.in_chunks(block, tokens, size)
                if index % 2 or index < last:  # out for one block, and home again
                    moved = shift(tokens[:, S:], back if index % 2 else there)
                    tokens = torch.cat((tokens[:, :S], moved), dim=1)
            tokens = stage.layer_norm(tokens)
            x, messengers = map_of(tokens, size), tokens[:, S:]
            maps.append(x)
        return maps

    def embed(
        self, embedding: nn.Module, x: torch.Tensor, messengers: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[int, int]]:
        """The tokens `(N, S + M, D)` that a stage begins with, and the size (h, w) of its map."""
        x = embedding.proj(x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x)
        tokens = tokens_of(x, everywhere(embedding.proj, messengers))
        return embedding.layer_norm(tokens), tuple(x.shape[-2:])

    def in_chunks(self, block: MessengerBlock, tokens: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        implementation = self.config._attn_implementation
        return in_frame_chunks(lambda part: block(part, size, implementation), BLOCK_FRAMES, tokens)
