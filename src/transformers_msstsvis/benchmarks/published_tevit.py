"""The published TeViT computation in plain PyTorch, on the weights of one of our models.

The A side of a benchmark. It is a restatement, not the original code: all frames at once, maps and tokens in turns in
the backbone, RoIAlign of torchvision level by level, and the masks of all classes for the best pairs of a query and a
class.

Letters: T frames, Q queries, C channels, M messengers, D channels of a stage.
"""

import torch
from torch.nn import functional as F
from torchvision.ops import roi_align
from transformers.image_transforms import center_to_corners_format, corners_to_center_format

from ..models.tevit.modeling_tevit import BOX_CELLS, MASK_CELLS, MASKS, TevitForVideoInstanceSegmentation, moved_boxes

SHIFTS = (1, -1, 2, -2)


def plain(layer, x):
    return F.linear(x, layer.weight, layer.bias)


def as_plane(convolution, messengers):
    """What a convolution makes of a plane of one colour."""
    weight = convolution.weight.sum((2, 3))
    if convolution.groups > 1:
        return messengers * weight[:, 0] + convolution.bias
    return F.linear(messengers, weight, convolution.bias)


def attention(module, x):
    """Sequences `(N, S, C)` that attend to themselves."""
    layers = module.q_proj, module.k_proj, module.v_proj
    query, key, value = (plain(layer, x).unflatten(-1, (-1, module.head_dim)).transpose(1, 2) for layer in layers)
    attended = (query * module.scaling @ key.mT).softmax(-1) @ value
    return plain(module.o_proj, attended.transpose(1, 2).flatten(2))


def tokens_of(feature_map):
    return feature_map.flatten(2).transpose(1, 2).contiguous()


def map_of(tokens, size):
    return tokens.transpose(1, 2).reshape(*tokens.shape[::2], *size).contiguous()


def messenger_attention(module, x, messengers, size):
    read = x
    if module.spatial_reduction_ratio > 1:
        reduced = tokens_of(module.spatial_reduction(map_of(x, size)))
        read = module.layer_norm(torch.cat((reduced, as_plane(module.spatial_reduction, messengers)), dim=1))
    query = plain(module.query, torch.cat((x, messengers), dim=1))
    heads = [
        tokens.unflatten(-1, (module.num_attention_heads, -1)).transpose(1, 2)
        for tokens in (query, plain(module.key, read), plain(module.value, read))
    ]
    weights = (heads[0] @ heads[1].mT * heads[0].shape[-1] ** -0.5).softmax(-1)
    result = plain(module.proj, (weights @ heads[2]).transpose(1, 2).flatten(2))
    return result[:, : x.shape[1]], result[:, x.shape[1] :]


def feed_forward(module, x, messengers, size):
    inner, of_messengers = (plain(module.dense1, tokens) for tokens in (x, messengers))
    depthwise = module.dwconv.dwconv
    inner, of_messengers = tokens_of(depthwise(map_of(inner, size))), as_plane(depthwise, of_messengers)
    return tuple(plain(module.dense2, F.gelu(tokens)) for tokens in (inner, of_messengers))


def backbone(module, frames):
    """Maps `(T, D, h, w)` of all stages."""
    x, messengers, maps = frames, module.messengers.expand(len(frames), -1, -1), []
    for stage in module.model.encoder.layers:
        embedding = stage.patch_embedding
        x, messengers = embedding.proj(x), embedding.layer_norm(as_plane(embedding.proj, messengers))
        size = x.shape[2:]
        x = embedding.layer_norm(tokens_of(x))
        for index, block in enumerate(stage.blocks):
            parts = messenger_attention(block.attention, block.layer_norm_1(x), block.layer_norm_1(messengers), size)
            x, messengers = x + parts[0], messengers + parts[1]
            parts = feed_forward(block.mlp, block.layer_norm_2(x), block.layer_norm_2(messengers), size)
            x, messengers = x + parts[0], messengers + parts[1]
            if index % 2 == 0 and index == len(stage.blocks) - 1:
                break  # nothing would bring them home
            groups = zip(messengers.chunk(len(SHIFTS), dim=1), SHIFTS, strict=True)
            messengers = torch.cat([group.roll(-by if index % 2 else by, dims=0) for group, by in groups], dim=1)
        x, messengers = stage.layer_norm(x), stage.layer_norm(messengers)
        x = map_of(x, size)
        maps.append(x)
    return maps


def pyramid(module, maps):
    levels = [convolution(x) for convolution, x in zip(module.lateral_convolutions, maps, strict=True)]
    for level in range(len(levels) - 1, 0, -1):
        levels[level - 1] = levels[level - 1] + F.interpolate(levels[level], size=levels[level - 1].shape[2:])
    return [convolution(x) for convolution, x in zip(module.output_convolutions, levels, strict=True)]


def regions(levels, boxes, side):
    """`boxes (T, n, 4)` corners in pixels to `(T n, C, side, side)`."""
    frame = torch.arange(len(boxes)).repeat_interleave(boxes.shape[1])
    boxes = boxes.flatten(0, 1)
    rows = torch.cat((frame[:, None], boxes), dim=1)
    scale = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    chosen = (scale / 56 + 1e-6).log2().floor().clamp(0, len(levels) - 1)
    result = boxes.new_zeros(len(boxes), levels[0].shape[1], side, side)
    for number, level in enumerate(levels):
        inside = (chosen == number).nonzero(as_tuple=True)[0]
        if len(inside):
            result[inside] = roi_align(level, rows[inside], side, 1 / (4 * 2**number), 2, True)
    return result


def dynamic_conv(module, queries, cells):
    """`queries (R, C)`, `cells (R, C, side, side)` to `(R, side side, C)`."""
    x = cells.flatten(2).transpose(1, 2)
    first, second = plain(module.dynamic_layer, queries).chunk(2, dim=1)
    first, second = (part.view(-1, *shape) for part, shape in zip((first, second), module.shapes, strict=True))
    return module.norm_out(torch.bmm(module.norm_in(torch.bmm(x, first)).relu(), second)).relu()


def prediction(head, x):
    for layer in head:
        x = plain(layer, x) if isinstance(layer, torch.nn.Linear) else layer(x)
    return x


def stage(layer, queries, levels, boxes):
    """Queries `(T, Q, C)` at the end of a stage and after its attention."""
    for _ in ("in a frame", "over time"):
        queries = layer.self_attn_norm(queries + attention(layer.self_attn, queries)).transpose(0, 1)
    found = dynamic_conv(layer.dynamic_conv, queries.flatten(0, 1), regions(levels, boxes, BOX_CELLS))
    found = layer.projection_norm(plain(layer.projection, found.flatten(1))).relu()
    x = layer.dynamic_conv_norm(queries + found.view_as(queries))
    network = layer.feed_forward
    return network.norm(x + plain(network.fc2, plain(network.fc1, x).relu())), queries


def mask_head(head, queries, cells):
    """Mask logits of all classes `(R, K, 28, 28)`."""
    x = dynamic_conv(head.dynamic_conv, queries, cells).transpose(1, 2).reshape(cells.shape)
    for convolution, norm in zip(head.convolutions, head.norms, strict=True):
        x = norm(convolution(x)).relu()
    return head.output(head.upsample(x).relu())


def settle(model: TevitForVideoInstanceSegmentation) -> None:
    """Boxes of a trained model's sizes, which move little: drawn from noise, they grow without end."""
    with torch.no_grad():
        boxes = torch.rand(model.config.num_queries, 4) * torch.tensor([0.6, 0.6, 0.5, 0.5]) + 0.2
        model.model.query_boxes.weight.copy_(boxes)
        for head in model.model.decoder.box_embed:
            head[-1].weight.mul_(0.1)


@torch.inference_mode()
def infer(model: TevitForVideoInstanceSegmentation, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Inference of one clip `(1, T, 3, H, W)` without padding."""
    trunk, (T, _, H, W) = model.model, pixel_values.shape[1:]
    levels = pyramid(trunk.feature_pyramid, backbone(trunk.backbone, pixel_values[0]))
    scale = torch.tensor([W, H, W, H])
    boxes = (center_to_corners_format(trunk.query_boxes.weight) * scale).expand(T, -1, -1)
    queries = trunk.query_features.weight.expand(T, -1, -1)
    for layer, box_embed in zip(trunk.decoder.layers, trunk.decoder.box_embed, strict=True):
        queries, attended = stage(layer, queries, levels, boxes)
        boxes = moved_boxes(boxes, prediction(box_embed, queries))
    logits = prediction(model.class_embed[-1], queries)
    best = logits.sigmoid().mean(0).flatten().topk(MASKS).indices
    chosen, classes = best // logits.shape[-1], best % logits.shape[-1]
    cells = regions(levels, boxes[:, chosen], MASK_CELLS)
    masks = mask_head(model.mask_heads[-1], attended[:, chosen].flatten(0, 1), cells)
    masks = masks.unflatten(0, (T, MASKS))[:, torch.arange(MASKS), classes]  # (T, 10, 28, 28)
    return {
        "frame_logits": logits[None],
        "pred_boxes": (corners_to_center_format(boxes) / scale).transpose(0, 1)[None],
        "pred_masks": masks.transpose(0, 1)[None],
    }
