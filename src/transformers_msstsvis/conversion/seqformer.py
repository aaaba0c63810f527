"""Key map of SeqFormer and of the MS-STS VIS release, which is SeqFormer plus one unused attention."""

import re

import torch
from transformers import PreTrainedModel, SwinConfig

from ..models.msstsvis.configuration_msstsvis import MsstsVisConfig
from ..models.msstsvis.modeling_msstsvis import MsstsVisForVideoInstanceSegmentation
from ..models.seqformer.configuration_seqformer import SeqFormerConfig
from ..models.seqformer.modeling_seqformer import SeqFormerForVideoInstanceSegmentation
from .convert import KeyMap

RESNET_DEPTHS = {(3, 4, 6, 3): "ResNet-50", (3, 4, 23, 3): "ResNet-101"}
RESNEXT_DEPTHS = (3, 4, 23, 3)
# (groups, channels per group) to timm's name; published code defines the first, its configuration asks for the second
RESNEXTS = {(64, 4): "resnext101_64x4d", (32, 8): "resnext101_32x8d"}

_BACKBONE = r"detr\.backbone\.0\.body\."
_ENCODER = r"detr\.transformer\.encoder\.layers\.(\d+)\."
_DECODER = r"detr\.transformer\.decoder\.layers\.(\d+)\."


def _count(state_dict: dict, pattern: str) -> int:
    """One more than the largest number that stands at the pattern's group."""
    found = [int(match.group(1)) for key in state_dict if (match := re.match(pattern, key))]
    return max(found, default=-1) + 1


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
        "encoder_layers": _count(state_dict, _ENCODER),
        "decoder_layers": _count(state_dict, _DECODER),
        "encoder_ffn_dim": state_dict[layers.format("encoder") + "linear1.weight"].shape[0],
        "decoder_ffn_dim": state_dict[layers.format("decoder") + "linear1.weight"].shape[0],
        "encoder_temporal_attention": False,
        "decoder_temporal_attention": False,
    }
    heads = hints.get("encoder_attention_heads", 8)
    for part, attention in (("encoder", "self_attn"), ("decoder", "cross_attn")):
        weights = state_dict[f"{layers.format(part)}{attention}.attention_weights.weight"].shape[0]
        settings[f"{part}_attention_heads"] = heads
        settings[f"{part}_n_points"] = weights // (heads * num_levels)
    settings.update(infer_backbone(state_dict))
    if "id2label" not in hints:
        num_labels = state_dict["detr.class_embed.0.weight"].shape[0]
        hints["id2label"] = {index: f"LABEL_{index}" for index in range(num_labels)}
    hints["id2label"] = {int(index): name for index, name in hints["id2label"].items()}
    hints["label2id"] = {name: index for index, name in hints["id2label"].items()}
    return config_class(**{**settings, **hints})


def infer_backbone(state_dict: dict) -> dict:
    """Backbone settings of a configuration, from the names and shapes below `detr.backbone.0.body`."""
    body = {re.sub(_BACKBONE, "", key): value for key, value in state_dict.items() if re.match(_BACKBONE, key)}
    if "patch_embed.proj.weight" in body:
        depths = [_count(body, rf"layers\.{stage}\.blocks\.(\d+)\.") for stage in range(4)]
        embed_dim, _, patch_size, _ = body["patch_embed.proj.weight"].shape
        tables = [body[f"layers.{stage}.blocks.0.attn.relative_position_bias_table"].shape for stage in range(4)]
        config = SwinConfig(
            embed_dim=embed_dim,
            patch_size=patch_size,
            depths=depths,
            num_heads=[heads for _, heads in tables],
            window_size=(int(tables[0][0] ** 0.5) + 1) // 2,
            drop_path_rate=0.2 if embed_dim == 96 else 0.3,
            out_features=["stage2", "stage3", "stage4"],
        )
        return {"backbone_config": config.to_dict(), "freeze_backbone_stem": False}
    if "layer1.0.conv2.weight" not in body:
        raise ValueError("the backbone of the checkpoint is neither a ResNet, a ResNeXt nor a Swin transformer")
    depths = tuple(_count(body, rf"layer{stage}\.(\d+)\.") for stage in range(1, 5))
    width, per_group = body["layer1.0.conv2.weight"].shape[:2]
    if width != per_group:  # grouped: ResNeXt, which is timm's
        name = RESNEXTS.get((width // per_group, per_group))
        if depths != RESNEXT_DEPTHS or name is None:
            raise ValueError(
                f"a ResNeXt of depths {depths} with {width // per_group} groups of {per_group} channels; "
                f"expected depths {RESNEXT_DEPTHS} and one of {RESNEXTS}"
            )
        return {
            "backbone_config": {
                "model_type": "timm_backbone",
                "backbone": name,
                "out_indices": [2, 3, 4],
            }
        }
    if depths not in RESNET_DEPTHS:
        raise ValueError(f"a ResNet of depths {depths}; expected one of {RESNET_DEPTHS}")
    stages = ["stage2", "stage3", "stage4"]
    return {"backbone_config": {"model_type": "resnet", "depths": list(depths), "out_features": stages}}


def _backbone_rules(model: PreTrainedModel) -> list[tuple[str, str]]:
    kind = model.config.backbone_config.model_type
    ours = "model.backbone.model."
    if kind == "timm_backbone":
        return [(_BACKBONE + r"(.*)", ours + r"_backbone.\1")]
    if kind == "resnet":
        norm = r"(weight|bias|running_mean|running_var)"
        layer = ours + r"encoder.stages.{stage}.layers.\1."
        rules = [
            (_BACKBONE + r"conv1\.weight", ours + "embedder.embedder.convolution.weight"),
            (_BACKBONE + r"bn1\." + norm, ours + r"embedder.embedder.normalization.\1"),
        ]
        for stage in range(4):
            block, new = _BACKBONE + rf"layer{stage + 1}\.(\d+)\.", layer.format(stage=stage)
            for index in range(3):
                rules.append((block + rf"conv{index + 1}\.weight", new + f"layer.{index}.convolution.weight"))
                rules.append((block + rf"bn{index + 1}\." + norm, new + rf"layer.{index}.normalization.\2"))
            rules.append((block + r"downsample\.0\.weight", new + "shortcut.convolution.weight"))
            rules.append((block + r"downsample\.1\." + norm, new + r"shortcut.normalization.\2"))
        return rules
    return _swin_rules(ours)


def _swin_rules(ours: str) -> list[tuple[str, str]]:
    stage, new_stage = _BACKBONE + r"layers\.(\d+)\.", ours + r"swin.encoder.layers.\1."
    block, new_block = stage + r"blocks\.(\d+)\.", new_stage + r"blocks.\2."
    norms = [
        (_BACKBONE + rf"norm{index}\.(.*)", ours + rf"hidden_states_norms.stage{index + 1}.\1") for index in (1, 2, 3)
    ]
    return [
        *norms,
        (_BACKBONE + r"patch_embed\.proj\.(.*)", ours + r"swin.embeddings.patch_embeddings.projection.\1"),
        (_BACKBONE + r"patch_embed\.norm\.(.*)", ours + r"swin.embeddings.norm.\1"),
        (stage + r"downsample\.(.*)", new_stage + r"downsample.\2"),
        (block + r"norm1\.(.*)", new_block + r"layernorm_before.\3"),
        (block + r"norm2\.(.*)", new_block + r"layernorm_after.\3"),
        (block + r"mlp\.(.*)", new_block + r"mlp.\3"),
        (block + r"attn\.qkv\.(.*)", new_block + r"attention.qkv.\3"),
        (block + r"attn\.proj\.(.*)", new_block + r"attention.o_proj.\3"),
        (
            block + r"attn\.relative_position_bias_table",
            new_block + "attention.relative_position_bias.relative_position_bias_table",
        ),
    ]


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
_TEMPORAL_DROP = (
    _DECODER + r"temp_attn_box\..*",
    "the published MS-STS VIS code creates this attention and never calls it",
)

_OPTIONAL = (
    r".*\.swin\.layernorm\..*",  # after the last stage; the backbone does not use it
    r".*\.(temporal_attn|box_temporal_norm|box_temporal_attn)\..*",  # start as the identity, when a hint asks for them
)


def _key_map(config_class: type, model_class: type, drop: list[tuple[str, str]]) -> KeyMap:
    def build(state_dict: dict[str, torch.Tensor], **hints) -> PreTrainedModel:
        return model_class(infer_config(state_dict, config_class, **hints))

    return KeyMap(
        build=build,
        rules=lambda model: [*_TRUNK_RULES, *_backbone_rules(model)],
        drop=drop,
        optional=_OPTIONAL,
        split=[(r"(.*\.)qkv\.(weight|bias)", (r"\1q_proj.\2", r"\1k_proj.\2", r"\1v_proj.\2"))],
    )


SEQFORMER_KEY_MAPS = {
    "seqformer": _key_map(SeqFormerConfig, SeqFormerForVideoInstanceSegmentation, _DROP),
    "msstsvis": _key_map(MsstsVisConfig, MsstsVisForVideoInstanceSegmentation, [*_DROP, _TEMPORAL_DROP]),
}
