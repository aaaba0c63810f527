"""The published DeVIS computation in plain PyTorch, on the weights of one of our models.

The A side of a benchmark. It is a restatement, not the original code: the backbone on all frames at once with frozen
batch norm as two passes, frame by frame deformable attention by `grid_sample` over the frame's own levels and over
those of the other frames, and the mask head on what a frame's instances share, repeated for each of them, with
torchvision's deformable convolution.

Letters: T frames, Q queries of a frame, S places of a frame, C channels, M heads, L levels.
"""

import torch
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from ..layers.box_refinement import inverse_sigmoid
from ..layers.feature_levels import FeatureLevels
from ..models.devis.modeling_devis import DevisForVideoInstanceSegmentation, other_frames
from .published import grid_sample_attention, plain_backbone
from .published_vistr import attention, attention_map, feed_forward


def temporal_attention(module, query, references, memory, shapes, others):
    """`query (T, N, C)`, `references (T, N, L, 2 or 4)`, `memory (T, S, C)`, `others (T, T - 1)`: `(T, N, C)`."""
    M, frames = module.num_heads, []
    plain = lambda layer, x: F.linear(x, layer.weight, layer.bias)  # noqa: E731
    value = plain(module.value_proj, memory).unflatten(-1, (M, -1))  # (T, S, M, C/M)
    for t in range(len(query)):
        elsewhere = {
            "first_level": lambda t=t: references[t, :, :1].repeat(1, len(others[t]) * len(shapes), 1),
            "same_query": lambda t=t: references[others[t]].transpose(0, 1).flatten(1, 2),
            "own": lambda t=t: references[t].repeat(1, len(others[t]), 1),
        }[module.temporal_reference]()
        branches = (
            (module.sampling_offsets, module.attention_weights, references[t], value[t : t + 1], shapes),
            (
                module.temporal_sampling_offsets,
                module.temporal_attention_weights,
                elsewhere,
                value[others[t]].flatten(0, 1)[None],
                shapes * len(others[t]),
            ),
        )
        weights = [plain(layer, query[t]).unflatten(-1, (M, -1)) for _, layer, *_ in branches]
        weights = torch.cat(weights, dim=-1).softmax(-1).split([part.shape[-1] for part in weights], dim=-1)
        result = 0.0
        for (layer, _, where, values, levels), weight in zip(branches, weights, strict=True):
            offsets = plain(layer, query[t]).view(-1, M, len(levels), weight.shape[-1] // len(levels), 2)
            if where.shape[-1] == 2:
                size = offsets.new_tensor([(width, height) for height, width in levels])
                places = where[:, None, :, None] + offsets / size[None, None, :, None]
            else:
                places = where[:, None, :, None, :2] + offsets / offsets.shape[3] * where[:, None, :, None, 2:] * 0.5
            weight = weight.view(places.shape[:-1])
            result = result + grid_sample_attention(values.contiguous(), levels, places[None], weight[None])
        frames.append(plain(module.output_proj, result[0]))
    return torch.stack(frames)


def modulated_convolution(module, x):
    offsets, modulation = module.offsets(x), 2 * module.modulation(x).sigmoid()
    return deform_conv2d(x, offsets, module.weight, padding=1, mask=modulation)


def mask_head(model, features, maps, finest):
    """`features` and `finest` of one frame, `maps (Q, M, h, w)`, coarse to fine: masks `(Q, H, W)`."""
    steps, x = model.mask_head.steps, features[0].repeat(len(maps[0]), 1, 1, 1)
    x = steps[0].norm(modulated_convolution(steps[0].convolution, torch.cat((x, maps[0]), dim=1))).relu()
    x = steps[1].norm(modulated_convolution(steps[1].convolution, x)).relu()
    skips = (*features[1:], finest)
    for level, (step, adapter, skip) in enumerate(zip(steps[2:], model.mask_head.adapters, skips, strict=True), 1):
        skip = adapter(skip).repeat(len(x), 1, 1, 1)
        x = skip + F.interpolate(x, size=skip.shape[-2:], mode="nearest")
        x = torch.cat((x, maps[level]), dim=1) if level < len(maps) else x
        x = step.norm(modulated_convolution(step.convolution, x)).relu()
    return modulated_convolution(model.mask_output, x)[:, 0]


@torch.inference_mode()
def infer(model: DevisForVideoInstanceSegmentation, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Inference of one clip `(1, T, 3, H, W)` of exactly T frames."""
    trunk, T = model.model, pixel_values.shape[1]
    with plain_backbone(trunk.backbone):
        finest, *maps = trunk.backbone.model(pixel_values[0], return_dict=True).feature_maps
    real = torch.ones(pixel_values.shape[:2] + pixel_values.shape[3:], dtype=torch.bool)
    levels = FeatureLevels.of(trunk.input_projection(maps), real, trunk.level_embed, offset=0.0)
    positions, shapes = levels.positions[0] + trunk.temporal_embed[:, None], levels.spatial_shapes
    memory, centres = levels.features[0], levels.pixel_centres()[0]
    others = other_frames(T, memory.device, model.config.encoder_temporal_window)
    for layer in trunk.encoder.layers:
        attended = temporal_attention(layer.self_attn, memory + positions, centres, memory, shapes, others)
        memory = feed_forward(layer.feed_forward, layer.norm(memory + attended))

    queries, query_positions, references = (x[0] for x in trunk.queries(1))
    others = other_frames(T, memory.device)
    for layer, box_embed in zip(trunk.decoder.layers, trunk.decoder.box_embed, strict=True):
        flat, at = queries.flatten(0, 1), query_positions.flatten(0, 1)
        attended = attention(layer.self_attn, flat + at, flat + at, flat, None).view_as(queries)
        queries = layer.self_attn_norm(queries + attended)
        points = references[:, :, None].expand(-1, -1, len(shapes), -1)
        attended = temporal_attention(layer.cross_attn, queries + query_positions, points, memory, shapes, others)
        queries = feed_forward(layer.feed_forward, layer.cross_attn_norm(queries + attended))
        delta = box_embed(queries)
        delta[..., : references.shape[-1]] += inverse_sigmoid(references)
        references = delta.sigmoid()

    sizes, masks = [height * width for height, width in shapes], []
    for frame in range(T):
        by_level = [x.T.unflatten(1, shape) for x, shape in zip(memory[frame].split(sizes), shapes, strict=True)]
        coarse_to_fine = by_level[2::-1]
        own = [
            attention_map(attend, queries[frame], level, torch.zeros_like(level[0], dtype=torch.bool))
            for attend, level in zip(model.attention_maps, coarse_to_fine, strict=True)
        ]
        masks.append(mask_head(model, [level[None] for level in coarse_to_fine], own, finest[frame : frame + 1]))
    return {
        "frame_logits": model.class_embed[-1](queries)[None],
        "pred_boxes": references.transpose(0, 1)[None],
        "pred_masks": torch.stack(masks, dim=1)[None],
    }
