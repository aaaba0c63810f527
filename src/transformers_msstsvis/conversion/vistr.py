"""Key map of VisTR."""

import torch
from transformers import PreTrainedModel

from ..models.vistr.configuration_vistr import VistrConfig
from ..models.vistr.modeling_vistr import VistrForVideoInstanceSegmentation
from .backbones import backbone_rules, count_layers, infer_backbone
from .key_map import KeyMap, with_class_names

_BACKBONE = r"vistr\.backbone\.0\.body\."
_ENCODER = r"vistr\.transformer\.encoder\.layers\.(\d+)\."
_DECODER = r"vistr\.transformer\.decoder\.layers\.(\d+)\."
NUM_QUERIES = 10  # of a frame: the shapes tell only their number in all frames


def infer_config(state_dict: dict[str, torch.Tensor], **hints) -> VistrConfig:
    """Architecture of a published checkpoint, from its names and shapes."""
    needed = (
        "vistr.query_embed.weight",
        "vistr.input_proj.weight",
        "vistr.class_embed.weight",
        "vistr.transformer.encoder.layers.0.linear1.weight",
        "vistr.transformer.decoder.layers.0.linear1.weight",
        "mask_head.lay1.weight",
    )
    missing = [key for key in needed if key not in state_dict]
    if missing:
        raise ValueError(f"the checkpoint lacks {missing}; expected the keys of a VisTR release")
    rows, d_model = state_dict["vistr.query_embed.weight"].shape
    num_queries = hints.get("num_queries", NUM_QUERIES)
    if rows % num_queries:
        raise ValueError(
            f"the checkpoint has {rows} queries, which is no multiple of {num_queries} in every frame; expected "
            "num_queries to say how many there are"
        )
    heads = state_dict["mask_head.lay1.weight"].shape[0] - d_model
    settings = {
        "d_model": d_model,
        "num_queries": num_queries,
        "num_frames": rows // num_queries,
        "encoder_layers": count_layers(state_dict, _ENCODER),
        "decoder_layers": count_layers(state_dict, _DECODER),
        "encoder_ffn_dim": state_dict["vistr.transformer.encoder.layers.0.linear1.weight"].shape[0],
        "decoder_ffn_dim": state_dict["vistr.transformer.decoder.layers.0.linear1.weight"].shape[0],
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
    }
    settings.update(infer_backbone(state_dict, _BACKBONE, stages=(1, 2, 3, 4)))
    num_labels = state_dict["vistr.class_embed.weight"].shape[0] - 1
    return VistrConfig(**{**settings, **with_class_names(hints, num_labels)})


_RULES = [
    (r"vistr\.query_embed\.weight", "model.query_embed.weight"),
    (r"vistr\.input_proj\.(.*)", r"model.input_projection.\1"),
    (_ENCODER + r"self_attn\.in_proj_(.*)", r"model.encoder.layers.\1.self_attn.qkv.\2"),
    (_ENCODER + r"self_attn\.out_proj\.(.*)", r"model.encoder.layers.\1.self_attn.o_proj.\2"),
    (_ENCODER + r"norm1\.(.*)", r"model.encoder.layers.\1.norm.\2"),
    (_ENCODER + r"norm2\.(.*)", r"model.encoder.layers.\1.feed_forward.norm.\2"),
    (_ENCODER + r"linear([12])\.(.*)", r"model.encoder.layers.\1.feed_forward.fc\2.\3"),
    (_DECODER + r"self_attn\.in_proj_(.*)", r"model.decoder.layers.\1.self_attn.qkv.\2"),
    (_DECODER + r"self_attn\.out_proj\.(.*)", r"model.decoder.layers.\1.self_attn.o_proj.\2"),
    (_DECODER + r"multihead_attn\.in_proj_(.*)", r"model.decoder.layers.\1.cross_attn.qkv.\2"),
    (_DECODER + r"multihead_attn\.out_proj\.(.*)", r"model.decoder.layers.\1.cross_attn.o_proj.\2"),
    (_DECODER + r"norm1\.(.*)", r"model.decoder.layers.\1.self_attn_norm.\2"),
    (_DECODER + r"norm2\.(.*)", r"model.decoder.layers.\1.cross_attn_norm.\2"),
    (_DECODER + r"norm3\.(.*)", r"model.decoder.layers.\1.feed_forward.norm.\2"),
    (_DECODER + r"linear([12])\.(.*)", r"model.decoder.layers.\1.feed_forward.fc\2.\3"),
    (r"vistr\.transformer\.decoder\.norm\.(.*)", r"model.decoder.norm.\1"),
    (r"vistr\.class_embed\.(.*)", r"class_embed.\1"),
    (r"vistr\.bbox_embed\.(.*)", r"box_embed.\1"),
    (r"bbox_attention\.([qk])_linear\.(.*)", r"attention_map.\1_proj.\2"),
    *((rf"mask_head\.lay{step + 1}\.(.*)", rf"mask_head.steps.{step}.convolution.\1") for step in range(4)),
    *((rf"mask_head\.gn{step + 1}\.(.*)", rf"mask_head.steps.{step}.norm.\1") for step in range(5)),
    *((rf"mask_head\.adapter{level + 1}\.(.*)", rf"mask_head.adapters.{level}.\1") for level in range(3)),
    (r"mask_head\.dcn\.weight", "mask_head.steps.4.convolution.weight"),
    (r"mask_head\.conv_offset\.(.*)", r"mask_head.steps.4.convolution.offsets.\1"),
    *((rf"insmask_head\.{3 * step}\.(.*)", rf"instance_head.convolutions.{step}.\1") for step in range(3)),
    *((rf"insmask_head\.{3 * step + 1}\.(.*)", rf"instance_head.norms.{step}.\1") for step in range(3)),
    (r"insmask_head\.9\.(.*)", r"instance_head.output.\1"),
]


def _build(state_dict: dict[str, torch.Tensor], **hints) -> PreTrainedModel:
    return VistrForVideoInstanceSegmentation(infer_config(state_dict, **hints))


KEY_MAP = KeyMap(
    build=_build,
    rules=lambda model: [*_RULES, *backbone_rules(model, _BACKBONE)],
    drop=[(r".*num_batches_tracked", "a counter without effect on frozen batch norms")],
    split=[(r"(.*\.)qkv\.(weight|bias)", (r"\1q_proj.\2", r"\1k_proj.\2", r"\1v_proj.\2"))],
)
