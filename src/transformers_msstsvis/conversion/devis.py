"""Key map of DeVIS."""

import torch
from transformers import PreTrainedModel

from ..models.devis.configuration_devis import DevisConfig
from ..models.devis.modeling_devis import DevisForVideoInstanceSegmentation
from .backbones import backbone_rules, infer_backbone
from .deformable_transformer import drop_rules, infer_transformer, transformer_rules
from .key_map import KeyMap, with_class_names

_PREFIX = r"def_detr\."
_BACKBONE = r"def_detr\.backbone\.0\.body\."
TEMPORAL_POINTS = (
    4  # per head, level and other frame: no shape tells whether fewer frames or fewer points are looked at
)


def infer_config(state_dict: dict[str, torch.Tensor], **hints) -> DevisConfig:
    """Architecture of a published checkpoint, from its names and shapes."""
    needed = (
        "def_detr.backbone.1.temporal_embed",
        "def_detr.query_embed.weight",
        "def_detr.transformer.level_embed",
        "def_detr.class_embed.0.weight",
        "def_detr.transformer.encoder.layers.0.linear1.weight",
        "def_detr.transformer.decoder.layers.0.linear1.weight",
        "def_detr.transformer.encoder.layers.0.self_attn.temporal_attention_weights.weight",
        "def_detr.transformer.decoder.layers.0.cross_attn.temporal_attention_weights.weight",
        "def_detr.transformer.decoder.bbox_embed.0.layers.0.weight",
        "mask_head.lay1.regular_conv.weight",
    )
    missing = [key for key in needed if key not in state_dict]
    if missing:
        raise ValueError(f"the checkpoint lacks {missing}; expected the keys of a DeVIS release")
    num_frames, d_model = state_dict["def_detr.backbone.1.temporal_embed"].shape
    rows = state_dict["def_detr.query_embed.weight"].shape[0]
    if rows % num_frames:
        raise ValueError(f"the checkpoint has {rows} queries for {num_frames} frames; expected as many for each frame")
    heads = state_dict["mask_head.lay1.regular_conv.weight"].shape[0] - d_model
    settings = {
        **infer_transformer(state_dict, "def_detr.", heads),
        **infer_backbone(state_dict, _BACKBONE, stages=(1, 2, 3, 4)),
        "num_frames": num_frames,
        "num_queries": rows // num_frames,
    }
    others, rows_of = num_frames - 1, "def_detr.transformer.{}.temporal_attention_weights.weight".format
    places = heads * settings["num_feature_levels"]
    in_decoder = state_dict[rows_of("decoder.layers.0.cross_attn")].shape[0] // places
    in_encoder = state_dict[rows_of("encoder.layers.0.self_attn")].shape[0] // places
    points = hints.get("encoder_n_temporal_points", TEMPORAL_POINTS)
    window = in_encoder // points
    if window == others or window % 2 or in_encoder % points:
        points, window = in_encoder // others, None
    settings |= {
        "encoder_n_temporal_points": points,
        "encoder_temporal_window": window,
        "decoder_n_temporal_points": in_decoder // others,
    }
    num_labels = state_dict["def_detr.class_embed.0.weight"].shape[0]
    return DevisConfig(**{**settings, **with_class_names(hints, num_labels)})


_RULES = [
    (r"def_detr\.backbone\.1\.temporal_embed", "model.temporal_embed"),
    *transformer_rules(_PREFIX),
    (r"bbox_attention\.([qk])_linear\.(.*)", r"attention_maps.0.\1_proj.\2"),
    (r"bbox_attention\.([qk])_linear_(\d)\.(.*)", r"attention_maps.\2.\1_proj.\3"),
    *(
        (rf"mask_head\.{published}\.{part}_conv\.(.*)", rf"{ours}{our_part}\1")
        for published, ours in (
            *((f"lay{step + 1}", f"mask_head.steps.{step}.convolution.") for step in range(5)),
            ("out_lay", "mask_output."),
        )
        for part, our_part in (("regular", ""), ("offset", "offsets."), ("modulator", "modulation."))
    ),
    *((rf"mask_head\.gn{step + 1}\.(.*)", rf"mask_head.steps.{step}.norm.\1") for step in range(5)),
    *((rf"mask_head\.adapter{level + 1}\.(.*)", rf"mask_head.adapters.{level}.\1") for level in range(3)),
]


def _build(state_dict: dict[str, torch.Tensor], **hints) -> PreTrainedModel:
    return DevisForVideoInstanceSegmentation(infer_config(state_dict, **hints))


KEY_MAP = KeyMap(
    build=_build,
    rules=lambda model: [*_RULES, *backbone_rules(model, _BACKBONE)],
    drop=drop_rules(_PREFIX),
    optional=(r".*\.swin\.layernorm\..*",),  # after the last stage; the backbone does not use it
    split=[(r"(.*\.)qkv\.(weight|bias)", (r"\1q_proj.\2", r"\1k_proj.\2", r"\1v_proj.\2"))],
)
