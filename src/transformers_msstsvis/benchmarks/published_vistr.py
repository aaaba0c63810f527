"""The published VisTR computation in plain PyTorch, on the weights of one of our models.

The A side of a benchmark. It is a restatement, not the original code: the backbone on all frames at once with frozen
batch norm as two passes, attention with a dense matrix of weights and the padding mask, and frame by frame the mask
head on what a frame's instances share, repeated for each of them, with torchvision's deformable convolution.

Letters: T frames, Q queries of a frame, S places of a frame, C channels, M heads.
"""

import torch
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from ..layers.fpn_mask_head import FpnMaskHead
from ..models.vistr.modeling_vistr import (
    VistrForVideoInstanceSegmentation,
    VistrInstanceHead,
    video_position_embedding,
)
from .published import plain_backbone


def attention(module, queries, keys, values, padding):
    """`queries (N, C)`, `keys, values (S, C)`, `padding (S,)` bool or None: `(N, C)`, with the dense `(M, N, S)`."""
    heads = lambda x: x.unflatten(-1, (-1, module.head_dim)).transpose(0, 1)  # noqa: E731
    query = heads(F.linear(queries, module.q_proj.weight, module.q_proj.bias) * module.scaling)
    key = heads(F.linear(keys, module.k_proj.weight, module.k_proj.bias))
    value = heads(F.linear(values, module.v_proj.weight, module.v_proj.bias))
    scores = query @ key.transpose(1, 2)  # (M, N, S)
    if padding is not None:
        scores = scores.masked_fill(padding, float("-inf"))
    attended = (scores.softmax(-1) @ value).transpose(0, 1).flatten(1)
    return F.linear(attended, module.o_proj.weight, module.o_proj.bias)


def feed_forward(module, x):
    hidden = F.linear(x, module.fc1.weight, module.fc1.bias).relu()
    return module.norm(x + F.linear(hidden, module.fc2.weight, module.fc2.bias))


def attention_map(module, queries, memory, padding):
    """`queries (Q, C)`, `memory (C, h, w)`, `padding (h, w)`: `(Q, M, h, w)`."""
    query = F.linear(queries, module.q_proj.weight, module.q_proj.bias).unflatten(1, (-1, module.head_dim))
    key = F.conv2d(memory[None], module.k_proj.weight[:, :, None, None], module.k_proj.bias)[0]
    key = key.unflatten(0, (-1, module.head_dim))  # (M, C/M, h, w)
    scores = torch.einsum("qmc,mchw->qmhw", query * module.head_dim**-0.5, key).masked_fill(padding, float("-inf"))
    return scores.flatten(1).softmax(-1).view_as(scores)


def mask_head(module: FpnMaskHead, memory, maps, skips):
    """`memory (1, C, h, w)`, `maps (Q, M, h, w)`, skips of one frame: `(Q, D, H, W)`."""
    x = torch.cat((memory.repeat(len(maps), 1, 1, 1), maps), dim=1)
    for step in module.steps[:2]:
        convolution = step.convolution
        x = step.norm(F.conv2d(x, convolution.weight, convolution.bias, padding=1)).relu()
    for step, adapter, skip in zip(module.steps[2:], module.adapters, skips, strict=True):
        skip = adapter(skip).repeat(len(maps), 1, 1, 1)
        x = skip + F.interpolate(x, size=skip.shape[-2:], mode="nearest")
        if step is module.steps[-1]:
            x = deform_conv2d(x, step.convolution.offsets(x), step.convolution.weight, padding=1)
        else:
            x = F.conv2d(x, step.convolution.weight, step.convolution.bias, padding=1)
        x = step.norm(x).relu()
    return x


def instance_head(module: VistrInstanceHead, features):
    """`(T, D, h, w)` to `(T, h, w)`."""
    x = features.transpose(0, 1)[None]
    for convolution, norm in zip(module.convolutions, module.norms, strict=True):
        x = norm(convolution(x)).relu()
    return module.output(x)[0, 0]


@torch.inference_mode()
def infer(model: VistrForVideoInstanceSegmentation, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Inference of one clip `(1, T, 3, H, W)` of exactly T frames."""
    trunk, T = model.model, pixel_values.shape[1]
    with plain_backbone(trunk.backbone):
        maps = list(trunk.backbone.model(pixel_values[0], return_dict=True).feature_maps)
    features = trunk.input_projection(maps[-1])  # (T, C, h, w)
    h, w = features.shape[-2:]
    padding = torch.zeros(T, h, w, dtype=torch.bool)
    positions = video_position_embedding(~padding[None], features.shape[1])[0].flatten(0, 2)  # (T S, C)
    memory = features.flatten(2).transpose(1, 2).flatten(0, 1)
    for layer in trunk.encoder.layers:
        keys = memory + positions
        memory = layer.norm(memory + attention(layer.self_attn, keys, keys, memory, padding.flatten()))
        memory = feed_forward(layer.feed_forward, memory)
    embedding = trunk.query_embed.weight
    queries, states = torch.zeros_like(embedding), []
    for layer in trunk.decoder.layers:
        keys = queries + embedding
        queries = layer.self_attn_norm(queries + attention(layer.self_attn, keys, keys, queries, None))
        found = attention(layer.cross_attn, queries + embedding, memory + positions, memory, padding.flatten())
        queries = feed_forward(layer.feed_forward, layer.cross_attn_norm(queries + found))
        states.append(trunk.decoder.norm(queries))
    states = torch.stack(states).unflatten(1, (T, -1))  # (D, T, Q, C)
    logits, boxes = model.class_embed(states), model.box_embed(states).sigmoid()

    memory = memory.view(T, h, w, -1).permute(0, 3, 1, 2)
    results = []
    for frame in range(T):
        own = attention_map(model.attention_map, states[-1, frame], memory[frame], padding[frame])
        skips = [level[frame : frame + 1] for level in maps[2::-1]]
        results.append(mask_head(model.mask_head, memory[frame : frame + 1], own, skips))
    results = torch.stack(results)  # (T, Q, D, H, W)
    masks = torch.stack([instance_head(model.instance_head, results[:, query]) for query in range(results.shape[1])])
    return {"frame_logits": logits[-1][None], "pred_boxes": boxes[-1].transpose(0, 1)[None], "pred_masks": masks[None]}
