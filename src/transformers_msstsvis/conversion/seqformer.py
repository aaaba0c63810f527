"""Key map of SeqFormer."""

import torch
from transformers import PreTrainedModel

from ..models.seqformer.configuration_seqformer import SeqFormerConfig
from ..models.seqformer.modeling_seqformer import SeqFormerForVideoInstanceSegmentation
from .backbones import backbone_rules, infer_backbone
from .deformable_transformer import drop_rules, infer_transformer, transformer_rules
from .key_map import KeyMap, with_class_names

_PREFIX = r"detr\."
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
    settings = {
        **infer_transformer(state_dict, "detr.", hints.get("encoder_attention_heads", 8)),
        **infer_backbone(state_dict, _BACKBONE),
        "num_queries": state_dict["detr.query_embed.weight"].shape[0],
    }
    num_labels = state_dict["detr.class_embed.0.weight"].shape[0]
    return config_class(**{**settings, **with_class_names(hints, num_labels)})


_TRUNK_RULES = [
    (_DECODER + r"cross_attn\.output_proj_box\.(.*)", r"model.decoder.layers.\1.box_output_proj.\2"),
    (_DECODER + r"self_attn_box\.in_proj_(.*)", r"model.decoder.layers.\1.box_self_attn.qkv.\2"),
    (_DECODER + r"self_attn_box\.out_proj\.(.*)", r"model.decoder.layers.\1.box_self_attn.o_proj.\2"),
    (_DECODER + r"norm1_box\.(.*)", r"model.decoder.layers.\1.box_cross_attn_norm.\2"),
    (_DECODER + r"norm2_box\.(.*)", r"model.decoder.layers.\1.box_self_attn_norm.\2"),
    (_DECODER + r"norm3_box\.(.*)", r"model.decoder.layers.\1.box_feed_forward.norm.\2"),
    (_DECODER + r"linear([12])_box\.(.*)", r"model.decoder.layers.\1.box_feed_forward.fc\2.\3"),
    (_DECODER + r"time_attention_weights\.(.*)", r"model.decoder.layers.\1.time_weights.\2"),
    *transformer_rules(_PREFIX),
    (r"controller\.(.*)", r"controller.\1"),
    (r"mask_head\.lay3\.(.*)", r"mask_features.fusions.0.\1"),
    (r"mask_head\.lay4\.(.*)", r"mask_features.fusions.1.\1"),
    (r"mask_head\.dcn\.(.*)", r"mask_features.fusions.2.\1"),
    (r"mask_head\.lay1\.(.*)", r"mask_features.reductions.0.\1"),
    (r"mask_head\.lay2\.(.*)", r"mask_features.reductions.1.\1"),
]


_DROP = [
    *drop_rules(_PREFIX),
    (_ENCODER + r"self_attn\.output_proj_box\..*", "the encoder never uses the box projection of its attention"),
    (_BACKBONE + r"norm0\..*", "norm of the stride-4 map, which is not used"),
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
