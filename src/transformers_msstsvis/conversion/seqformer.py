"""Key map of SeqFormer."""

import torch
from transformers import PreTrainedModel

from ..models.seqformer.configuration_seqformer import SeqFormerConfig
from ..models.seqformer.modeling_seqformer import SeqFormerForVideoInstanceSegmentation
from .backbones import backbone_rules, count_layers, infer_backbone
from .key_map import KeyMap

_BACKBONE = r"detr\.backbone\.0\.body\."
_ENCODER = r"detr\.transformer\.encoder\.layers\.(\d+)\."
_DECODER = r"detr\.transformer\.decoder\.layers\.(\d+)\."


def infer_config(state_dict: dict, config_class: type, **hints):
    """Architecture of a published checkpoint, from its names and shapes."""
    needed = (
        "detr.query_embed.weight",
        "detr.transformer.level_embed",
        "detr.class_embed.0.weight",
        "detr.transformer.decoder.bbox_embed.0.layers.0.weight",  # absent without box refinement, another model
        "mask_head.lay2.weight",
    )
    missing = [key for key in needed if key not in state_dict]
    if missing:
        raise ValueError(f"the checkpoint lacks {missing}; expected the keys of a SeqFormer or MS-STS VIS release")
    num_queries, twice = state_dict["detr.query_embed.weight"].shape
    d_model = twice // 2
    num_levels = state_dict["detr.transformer.level_embed"].shape[0]
    layers = "detr.transformer.{}.layers.0."
    settings = {
        "d_model": d_model,
        "num_queries": num_queries,
        "num_feature_levels": num_levels,
        "encoder_layers": count_layers(state_dict, _ENCODER),
        "decoder_layers": count_layers(state_dict, _DECODER),
        "encoder_ffn_dim": state_dict[layers.format("encoder") + "linear1.weight"].shape[0],
        "decoder_ffn_dim": state_dict[layers.format("decoder") + "linear1.weight"].shape[0],
    }
    heads = hints.get("encoder_attention_heads", 8)
    for part, attention in (("encoder", "self_attn"), ("decoder", "cross_attn")):
        weights = state_dict[f"{layers.format(part)}{attention}.attention_weights.weight"].shape[0]
        settings[f"{part}_attention_heads"] = heads
        settings[f"{part}_n_points"] = weights // (heads * num_levels)
    settings.update(infer_backbone(state_dict, _BACKBONE))
    if "id2label" not in hints:
        num_labels = state_dict["detr.class_embed.0.weight"].shape[0]
        hints["id2label"] = {index: f"LABEL_{index}" for index in range(num_labels)}
    hints["id2label"] = {int(index): name for index, name in hints["id2label"].items()}
    hints["label2id"] = {name: index for index, name in hints["id2label"].items()}
    return config_class(**{**settings, **hints})


_TRUNK_RULES = [
    (r"detr\.transformer\.level_embed", "model.level_embed"),
    (r"detr\.query_embed\.weight", "model.query_embed.weight"),
    (r"detr\.transformer\.reference_points\.(.*)", r"model.reference_points.\1"),
    (r"detr\.input_proj\.(\d+)\.0\.(.*)", r"model.input_projection.convolutions.\1.\2"),
    (r"detr\.input_proj\.(\d+)\.1\.(.*)", r"model.input_projection.norms.\1.\2"),
    (_ENCODER + r"self_attn\.(.*)", r"model.encoder.layers.\1.self_attn.\2"),
    (_ENCODER + r"norm1\.(.*)", r"model.encoder.layers.\1.norm.\2"),
    (_ENCODER + r"norm2\.(.*)", r"model.encoder.layers.\1.feed_forward.norm.\2"),
    (_ENCODER + r"linear([12])\.(.*)", r"model.encoder.layers.\1.feed_forward.fc\2.\3"),
    (_DECODER + r"cross_attn\.output_proj_box\.(.*)", r"model.decoder.layers.\1.box_output_proj.\2"),
    (_DECODER + r"cross_attn\.(.*)", r"model.decoder.layers.\1.cross_attn.\2"),
    (_DECODER + r"self_attn\.in_proj_(.*)", r"model.decoder.layers.\1.self_attn.qkv.\2"),
    (_DECODER + r"self_attn\.out_proj\.(.*)", r"model.decoder.layers.\1.self_attn.o_proj.\2"),
    (_DECODER + r"self_attn_box\.in_proj_(.*)", r"model.decoder.layers.\1.box_self_attn.qkv.\2"),
    (_DECODER + r"self_attn_box\.out_proj\.(.*)", r"model.decoder.layers.\1.box_self_attn.o_proj.\2"),
    (_DECODER + r"norm1\.(.*)", r"model.decoder.layers.\1.cross_attn_norm.\2"),
    (_DECODER + r"norm1_box\.(.*)", r"model.decoder.layers.\1.box_cross_attn_norm.\2"),
    (_DECODER + r"norm2\.(.*)", r"model.decoder.layers.\1.self_attn_norm.\2"),
    (_DECODER + r"norm2_box\.(.*)", r"model.decoder.layers.\1.box_self_attn_norm.\2"),
    (_DECODER + r"norm3\.(.*)", r"model.decoder.layers.\1.feed_forward.norm.\2"),
    (_DECODER + r"norm3_box\.(.*)", r"model.decoder.layers.\1.box_feed_forward.norm.\2"),
    (_DECODER + r"linear([12])\.(.*)", r"model.decoder.layers.\1.feed_forward.fc\2.\3"),
    (_DECODER + r"linear([12])_box\.(.*)", r"model.decoder.layers.\1.box_feed_forward.fc\2.\3"),
    (_DECODER + r"time_attention_weights\.(.*)", r"model.decoder.layers.\1.time_weights.\2"),
    (r"detr\.transformer\.decoder\.bbox_embed\.(.*)", r"model.decoder.box_embed.\1"),
    (r"detr\.class_embed\.(.*)", r"class_embed.\1"),
    (r"controller\.(.*)", r"controller.\1"),
    (r"mask_head\.lay3\.(.*)", r"mask_features.fusions.0.\1"),
    (r"mask_head\.lay4\.(.*)", r"mask_features.fusions.1.\1"),
    (r"mask_head\.dcn\.(.*)", r"mask_features.fusions.2.\1"),
    (r"mask_head\.lay1\.(.*)", r"mask_features.reductions.0.\1"),
    (r"mask_head\.lay2\.(.*)", r"mask_features.reductions.1.\1"),
]


_DROP = [
    (r"detr\.bbox_embed\..*", "second name of the box heads, which are in the decoder"),
    (_ENCODER + r"self_attn\.output_proj_box\..*", "the encoder never uses the box projection of its attention"),
    (r".*relative_position_index", "a table of indices that is computed, not learned"),
    (_BACKBONE + r"norm0\..*", "norm of the stride-4 map, which is not used"),
    (r".*num_batches_tracked", "a counter without effect on frozen batch norms"),
]


def _build(state_dict: dict[str, torch.Tensor], **hints) -> PreTrainedModel:
    return SeqFormerForVideoInstanceSegmentation(infer_config(state_dict, SeqFormerConfig, **hints))


KEY_MAP = KeyMap(
    build=_build,
    rules=lambda model: [*_TRUNK_RULES, *backbone_rules(model, _BACKBONE)],
    drop=_DROP,
    optional=(r".*\.swin\.layernorm\..*",),  # after the last stage; the backbone does not use it
    split=[(r"(.*\.)qkv\.(weight|bias)", (r"\1q_proj.\2", r"\1k_proj.\2", r"\1v_proj.\2"))],
)
