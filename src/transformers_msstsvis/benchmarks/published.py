"""The published SeqFormer / MS-STS VIS computation in plain PyTorch, on the weights of one of our models.

The A side of the benchmarks. It is a restatement, not the original code: a loop over frames around deformable
attention and the mask head, deformable attention by four `grid_sample` calls, frozen batch norm as two passes, the
mask pyramid and the masks of all queries once per decoder layer, and grouped convolutions for dynamic masks.

Letters: T frames, Q queries, K masked queries, S pixels over all levels, C channels, M heads, L levels, P points.
"""

from contextlib import ExitStack, contextmanager, nullcontext
from unittest.mock import patch

import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

from ..layers import linear
from ..layers.deformable_attention import DeformableAttention
from ..layers.frozen_batch_norm import FoldedConv2d
from ..models.seqformer import dynamic_mask_head, loss_seqformer, modeling_seqformer
from ..models.seqformer.modeling_seqformer import SeqFormerForVideoInstanceSegmentation

_of_transformers = MultiScaleDeformableAttention().forward


def grid_sample_attention(value, shapes, places, weights):
    """`value (N, S, M, C/M)`, `places (N, Q, M, L, P, 2)`, `weights (N, Q, M, L, P)`: `(N, Q, C)`."""
    return _of_transformers(value, torch.tensor(shapes), shapes, None, places, weights, 64)


def sample(self, query, reference_points, features, feature_mask, spatial_shapes):
    """`DeformableAttention.sample`, frame by frame."""
    M, L, P = self.num_heads, self.num_levels, self.num_points
    value = self.value_proj(features).masked_fill(~feature_mask[..., None], 0.0)
    offsets = self.sampling_offsets(query).float().view(*query.shape[:2], M, L, P, 2)
    weights = self.attention_weights(query).float().view(*query.shape[:2], M, L * P).softmax(-1)
    size = offsets.new_tensor([(width, height) for height, width in spatial_shapes])
    frames = []
    for t in range(query.shape[0]):
        centres = reference_points[t : t + 1, :, None, :, None, :2]
        if reference_points.shape[-1] == 2:
            places = centres + offsets[t : t + 1] / size[None, None, None, :, None, :]
        else:
            places = centres + offsets[t : t + 1] / P * reference_points[t : t + 1, :, None, :, None, 2:] * 0.5
        heads = value[t : t + 1].contiguous().view(1, value.shape[1], M, -1)
        weight = weights[t : t + 1].view(1, -1, M, L, P).to(heads.dtype)
        frames.append(grid_sample_attention(heads, spatial_shapes, places.to(heads.dtype), weight))
    return torch.cat(frames)


def masks(model: SeqFormerForVideoInstanceSegmentation, memory, shapes, states, centres, frame_size):
    """Masks of queries `(K, C)` with centres `(T, K, 2)` on `memory (T, S, C)`, pyramid included: `(K, T, 2h, 2w)`."""
    config = model.config
    parameters = model.controller(states)  # (K, number of parameters)
    sizes = dynamic_mask_head._layer_sizes(config.mask_feature_channels, config.mask_channels, config.mask_layers)
    counts = [i * o for i, o in sizes] + [o for _, o in sizes]
    pieces = parameters.split(counts, dim=1)
    K, frames = parameters.shape[0], []
    for t in range(memory.shape[0]):
        levels = memory[t : t + 1].split([height * width for height, width in shapes], dim=1)[:3]
        maps = [level.transpose(1, 2).unflatten(2, shape) for level, shape in zip(levels, shapes, strict=False)]
        features = model.mask_features(maps)  # (1, D, h, w)
        h, w = features.shape[-2:]
        places = dynamic_mask_head._places(h, w, features[None])[0, 0]  # (2, h, w)
        relative = (centres[t] * frame_size)[:, :, None, None] - places  # (K, 2, h, w)
        x = torch.cat((relative, features.expand(K, -1, -1, -1)), dim=1).reshape(1, -1, h, w)
        for index, (_, out) in enumerate(sizes):
            weight = pieces[index].reshape(K * out, -1, 1, 1)
            bias = pieces[len(sizes) + index].reshape(K * out)
            x = F.conv2d(x if index == 0 else x.relu(), weight, bias, groups=K)
        x = F.pad(x.view(K, 1, h, w), (0, 1, 0, 1), mode="replicate")
        x = F.interpolate(x, size=(2 * h + 1, 2 * w + 1), mode="bilinear", align_corners=True)
        frames.append(F.pad(x, (1, 0, 1, 0), mode="replicate")[:, 0, : 2 * h, : 2 * w])
    return torch.stack(frames, dim=1)


class _FrozenBatchNorm(nn.Module):
    """Frozen batch norm as published: the statistics become a scale and a shift at every call."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        scale = (self.norm.weight * (self.norm.running_var + self.norm.eps).rsqrt()).view(1, -1, 1, 1)
        return x * scale + (self.norm.bias.view(1, -1, 1, 1) - self.norm.running_mean.view(1, -1, 1, 1) * scale)


@contextmanager
def plain_backbone(backbone: nn.Module):
    """Frozen batch norms as passes of their own inside the block, which our backbones fold into the convolutions."""
    norms = [
        (parent, name, child)
        for parent in backbone.modules()
        for name, child in parent.named_children()
        if hasattr(child, "running_var")
    ]
    convolutions = [module for module in backbone.modules() if isinstance(module, FoldedConv2d)]
    for parent, name, child in norms:
        setattr(parent, name, _FrozenBatchNorm(child))
    for convolution in convolutions:
        convolution.__class__ = nn.Conv2d
    try:
        yield
    finally:
        for parent, name, child in norms:
            setattr(parent, name, child)
        for convolution in convolutions:
            convolution.__class__ = FoldedConv2d


@contextmanager
def published(model: SeqFormerForVideoInstanceSegmentation):
    """Run `model` as published inside the block; one video at a time."""
    shapes = None

    def mask_memory(self, outputs):
        nonlocal shapes
        shapes = outputs.spatial_shapes
        return outputs.encoder_last_hidden_state

    def dynamic_masks(self, states, centres, frame_sizes, features):
        size = frame_sizes[0, 0].flip(-1)
        if states.shape[1] == 1:  # training: one row per matched query of the only video
            return masks(self, features[0], shapes, states[:, 0], centres[:, :, 0].transpose(0, 1), size)[:, None]
        return masks(self, features[0], shapes, states[0], centres[0], size)[None]

    with ExitStack() as stack:
        stack.enter_context(patch.object(DeformableAttention, "sample", sample))
        stack.enter_context(
            patch.multiple(
                SeqFormerForVideoInstanceSegmentation, predict_mask_features=mask_memory, dynamic_masks=dynamic_masks
            )
        )
        stack.enter_context(patch.object(linear, "_onednn_takes", lambda *_: False))
        for module in (modeling_seqformer, loss_seqformer):
            stack.enter_context(patch.object(module, "recomputed", lambda function, *inputs: function(*inputs)))
        stack.enter_context(
            patch.object(modeling_seqformer, "made_again", lambda make, *inputs, **__: nullcontext(make(*inputs)))
        )
        stack.enter_context(
            patch.object(modeling_seqformer, "in_frame_chunks", lambda function, _, *frames, **__: function(*frames))
        )
        stack.enter_context(plain_backbone(model.model.backbone))
        yield


def infer(model: SeqFormerForVideoInstanceSegmentation, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Inference as published: the masks of all queries after every decoder layer, of which the last are kept."""
    with torch.inference_mode(), published(model):
        outputs = model.model(pixel_values, return_dict=True)
        logits = [head(states) for head, states in zip(model.class_embed, outputs.instance_queries, strict=True)]
        memory = model.predict_mask_features(outputs)
        for layer in range(len(logits)):
            pred_masks = model.predict_masks(outputs, memory, layer)
    return {"logits": logits[-1], "pred_boxes": outputs.boxes[-1].transpose(1, 2), "pred_masks": pred_masks}
