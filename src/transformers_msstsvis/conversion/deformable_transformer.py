"""What the checkpoints of all systems that are built on Deformable DETR have in common."""

import torch

from .backbones import count_layers


def infer_transformer(state_dict: dict[str, torch.Tensor], prefix: str, heads: int) -> dict[str, int]:
    """
    Settings of a configuration, from names and shapes.

    Args:
        state_dict: a published one.
        prefix: what stands before `transformer`.
        heads: of encoder and decoder, which no shape tells.
    """
    num_levels, d_model = state_dict[f"{prefix}transformer.level_embed"].shape
    settings = {"d_model": d_model, "num_feature_levels": num_levels}
    for part, attention in (("encoder", "self_attn"), ("decoder", "cross_attn")):
        layers = f"{prefix}transformer.{part}.layers."
        weights = state_dict[f"{layers}0.{attention}.attention_weights.weight"].shape[0]
        settings[f"{part}_layers"] = count_layers(state_dict, layers.replace(".", r"\.") + r"(\d+)\.")
        settings[f"{part}_ffn_dim"] = state_dict[f"{layers}0.linear1.weight"].shape[0]
        settings[f"{part}_attention_heads"] = heads
        settings[f"{part}_n_points"] = weights // (heads * num_levels)
    return settings


def transformer_rules(prefix: str) -> list[tuple[str, str]]:
    """Rules of a [`KeyMap`] for all but the backbone and the mask heads; `prefix` is a pattern, see above."""
    encoder = prefix + r"transformer\.encoder\.layers\.(\d+)\."
    decoder = prefix + r"transformer\.decoder\.layers\.(\d+)\."
    return [
        (prefix + r"transformer\.level_embed", "model.level_embed"),
        (prefix + r"query_embed\.weight", "model.query_embed.weight"),
        (prefix + r"transformer\.reference_points\.(.*)", r"model.reference_points.\1"),
        (prefix + r"input_proj\.(\d+)\.0\.(.*)", r"model.input_projection.convolutions.\1.\2"),
        (prefix + r"input_proj\.(\d+)\.1\.(.*)", r"model.input_projection.norms.\1.\2"),
        (encoder + r"self_attn\.(.*)", r"model.encoder.layers.\1.self_attn.\2"),
        (encoder + r"norm1\.(.*)", r"model.encoder.layers.\1.norm.\2"),
        (encoder + r"norm2\.(.*)", r"model.encoder.layers.\1.feed_forward.norm.\2"),
        (encoder + r"linear([12])\.(.*)", r"model.encoder.layers.\1.feed_forward.fc\2.\3"),
        (decoder + r"cross_attn\.(.*)", r"model.decoder.layers.\1.cross_attn.\2"),
        (decoder + r"self_attn\.in_proj_(.*)", r"model.decoder.layers.\1.self_attn.qkv.\2"),
        (decoder + r"self_attn\.out_proj\.(.*)", r"model.decoder.layers.\1.self_attn.o_proj.\2"),
        (decoder + r"norm1\.(.*)", r"model.decoder.layers.\1.cross_attn_norm.\2"),
        (decoder + r"norm2\.(.*)", r"model.decoder.layers.\1.self_attn_norm.\2"),
        (decoder + r"norm3\.(.*)", r"model.decoder.layers.\1.feed_forward.norm.\2"),
        (decoder + r"linear([12])\.(.*)", r"model.decoder.layers.\1.feed_forward.fc\2.\3"),
        (prefix + r"transformer\.decoder\.bbox_embed\.(.*)", r"model.decoder.box_embed.\1"),
        (prefix + r"class_embed\.(.*)", r"class_embed.\1"),
    ]


def drop_rules(prefix: str) -> list[tuple[str, str]]:
    """What a [`KeyMap`] drops, and why."""
    return [
        (prefix + r"bbox_embed\..*", "second name of the box heads, which are in the decoder"),
        (r".*relative_position_index", "a table of indices that is computed, not learned"),
        (r".*num_batches_tracked", "a counter without effect on frozen batch norms"),
    ]
