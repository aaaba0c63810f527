"""Key map of TeViT, whose releases follow mmdetection."""

import torch
from transformers import PreTrainedModel, PvtV2Config

from ..models.tevit.configuration_tevit import TevitConfig
from ..models.tevit.modeling_tevit import TevitForVideoInstanceSegmentation
from .backbones import backbone_rules, count_layers, infer_backbone
from .key_map import KeyMap, with_class_names

_BACKBONE = r"backbone\."
_BOX_HEAD = r"roi_head\.bbox_head\.(\d+)\."
_MASK_HEAD = r"roi_head\.mask_head\.(\d+)\."
_HEAD_WIDTH = 64  # of the attention of PVTv2


def infer_config(state_dict: dict[str, torch.Tensor], **hints) -> TevitConfig:
    """Architecture of a published checkpoint, from its names and shapes."""
    needed = (
        "rpn_head.init_proposal_bboxes.weight",
        "rpn_head.init_proposal_features.weight",
        "neck.fpn_convs.0.conv.weight",
        "roi_head.bbox_head.0.fc_cls.weight",
        "roi_head.bbox_head.0.ffn.layers.0.0.weight",
        "roi_head.bbox_head.0.instance_interactive_conv.norm_in.weight",
        "roi_head.mask_head.0.conv_logits.weight",
    )
    missing = [key for key in needed if key not in state_dict]
    if missing:
        raise ValueError(f"the checkpoint lacks {missing}; expected the keys of a TeViT release")
    num_queries, d_model = state_dict["rpn_head.init_proposal_features.weight"].shape
    settings = {
        "d_model": d_model,
        "num_queries": num_queries,
        "decoder_layers": count_layers(state_dict, _BOX_HEAD),
        "decoder_ffn_dim": state_dict["roi_head.bbox_head.0.ffn.layers.0.0.weight"].shape[0],
        "dynamic_dim": state_dict["roi_head.bbox_head.0.instance_interactive_conv.norm_in.weight"].shape[0],
        **(_infer_pvt(state_dict) if "backbone.msg_tokens" in state_dict else _infer_image_backbone(state_dict)),
    }
    num_labels = state_dict["roi_head.bbox_head.0.fc_cls.weight"].shape[0]
    return TevitConfig(**{**settings, **with_class_names(hints, num_labels)})


def _infer_pvt(state_dict: dict[str, torch.Tensor]) -> dict:
    stages = range(count_layers(state_dict, r"backbone\.layers\.(\d+)\."))
    patches = [state_dict[f"backbone.layers.{stage}.0.projection.weight"].shape for stage in stages]
    block = "backbone.layers.{}.1.0.{}.weight".format
    reductions = [state_dict.get(block(stage, "attn.sr")) for stage in stages]
    config = PvtV2Config(
        hidden_sizes=[shape[0] for shape in patches],
        patch_sizes=[shape[-1] for shape in patches],
        num_attention_heads=[shape[0] // _HEAD_WIDTH for shape in patches],
        depths=[count_layers(state_dict, rf"backbone\.layers\.{stage}\.1\.(\d+)\.") for stage in stages],
        sr_ratios=[1 if kernel is None else kernel.shape[-1] for kernel in reductions],
        mlp_ratios=[
            state_dict[block(stage, "ffn.layers.0")].shape[0] // shape[0]
            for stage, shape in zip(stages, patches, strict=True)
        ],
        out_features=[f"stage{stage + 1}" for stage in stages],
    )
    return {"backbone_config": config.to_dict(), "num_messengers": state_dict["backbone.msg_tokens"].shape[1]}


def _infer_image_backbone(state_dict: dict[str, torch.Tensor]) -> dict:
    """Of a ResNet, whose stem is frozen, or of a Swin transformer."""
    settings = infer_backbone(state_dict, _BACKBONE, stages=(1, 2, 3, 4))
    is_resnet = settings["backbone_config"]["model_type"] == "resnet"
    return {
        "num_messengers": 0,
        "freeze_backbone_stem": is_resnet,
        "drop_path_rate": 0.1 if is_resnet else 0.2,
    } | settings


_STAGE = r"backbone\.layers\.(\d+)\."
_BLOCK = r"backbone\.layers\.(\d+)\.1\.(\d+)\."
_OUR_STAGE = r"model.backbone.model.encoder.layers.\1."
_OUR_BLOCK = _OUR_STAGE + r"blocks.\2."
_PVT_RULES = [
    (r"backbone\.msg_tokens", "model.backbone.messengers"),
    (_STAGE + r"0\.projection\.(.*)", _OUR_STAGE + r"patch_embedding.proj.\2"),
    (_STAGE + r"0\.norm\.(.*)", _OUR_STAGE + r"patch_embedding.layer_norm.\2"),
    (_STAGE + r"2\.(weight|bias)", _OUR_STAGE + r"layer_norm.\2"),
    (_BLOCK + r"norm([12])\.(.*)", _OUR_BLOCK + r"layer_norm_\3.\4"),
    (_BLOCK + r"attn\.attn\.in_proj_(.*)", _OUR_BLOCK + r"attention.packed.\3"),
    (_BLOCK + r"attn\.attn\.out_proj\.(.*)", _OUR_BLOCK + r"attention.proj.\3"),
    (_BLOCK + r"attn\.sr\.(.*)", _OUR_BLOCK + r"attention.spatial_reduction.\3"),
    (_BLOCK + r"attn\.norm\.(.*)", _OUR_BLOCK + r"attention.layer_norm.\3"),
    (_BLOCK + r"ffn\.layers\.0\.(.*)", _OUR_BLOCK + r"mlp.dense1.\3"),
    (_BLOCK + r"ffn\.layers\.1\.(.*)", _OUR_BLOCK + r"mlp.dwconv.dwconv.\3"),
    (_BLOCK + r"ffn\.layers\.4\.(.*)", _OUR_BLOCK + r"mlp.dense2.\3"),
]

_OUR_LAYER = r"model.decoder.layers.\1."
_RULES = [
    (r"neck\.lateral_convs\.(\d+)\.conv\.(.*)", r"model.feature_pyramid.lateral_convolutions.\1.\2"),
    (r"neck\.fpn_convs\.(\d+)\.conv\.(.*)", r"model.feature_pyramid.output_convolutions.\1.\2"),
    (r"rpn_head\.init_proposal_bboxes\.weight", "model.query_boxes.weight"),
    (r"rpn_head\.init_proposal_features\.weight", "model.query_features.weight"),
    (_BOX_HEAD + r"attention\.attn\.in_proj_(.*)", _OUR_LAYER + r"self_attn.qkv.\2"),
    (_BOX_HEAD + r"attention\.attn\.out_proj\.(.*)", _OUR_LAYER + r"self_attn.o_proj.\2"),
    (_BOX_HEAD + r"attention_norm\.(.*)", _OUR_LAYER + r"self_attn_norm.\2"),
    (_BOX_HEAD + r"instance_interactive_conv\.fc_layer\.(.*)", _OUR_LAYER + r"projection.\2"),
    (_BOX_HEAD + r"instance_interactive_conv\.fc_norm\.(.*)", _OUR_LAYER + r"projection_norm.\2"),
    (_BOX_HEAD + r"instance_interactive_conv\.(.*)", _OUR_LAYER + r"dynamic_conv.\2"),
    (_BOX_HEAD + r"instance_interactive_conv_norm\.(.*)", _OUR_LAYER + r"dynamic_conv_norm.\2"),
    (_BOX_HEAD + r"ffn\.layers\.0\.0\.(.*)", _OUR_LAYER + r"feed_forward.fc1.\2"),
    (_BOX_HEAD + r"ffn\.layers\.1\.(.*)", _OUR_LAYER + r"feed_forward.fc2.\2"),
    (_BOX_HEAD + r"ffn_norm\.(.*)", _OUR_LAYER + r"feed_forward.norm.\2"),
    (_BOX_HEAD + r"cls_fcs\.(\d+)\.(.*)", r"class_embed.\1.\2.\3"),
    (_BOX_HEAD + r"fc_cls\.(.*)", r"class_embed.\1.3.\2"),
    (_BOX_HEAD + r"reg_fcs\.(\d+)\.(.*)", r"model.decoder.box_embed.\1.\2.\3"),
    (_BOX_HEAD + r"fc_reg\.(.*)", r"model.decoder.box_embed.\1.9.\2"),
    (_MASK_HEAD + r"instance_interactive_conv\.(.*)", r"mask_heads.\1.dynamic_conv.\2"),
    (_MASK_HEAD + r"convs\.(\d+)\.conv\.(.*)", r"mask_heads.\1.convolutions.\2.\3"),
    (_MASK_HEAD + r"convs\.(\d+)\.bn\.(.*)", r"mask_heads.\1.norms.\2.\3"),
    (_MASK_HEAD + r"upsample\.(.*)", r"mask_heads.\1.upsample.\2"),
    (_MASK_HEAD + r"conv_logits\.(.*)", r"mask_heads.\1.output.\2"),
]


def _pixel_by_pixel(value: torch.Tensor) -> torch.Tensor:
    """
    Patch merging `(..., 4 C)` of mmdetection takes its inputs channel by channel, of each the pixels (row, column)
    00, 01, 10, 11; the Swin of others takes them pixel by pixel, 00, 10, 01, 11.
    """
    return value.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]].transpose(-1, -2).flatten(-2)


def _build(state_dict: dict[str, torch.Tensor], **hints) -> PreTrainedModel:
    return TevitForVideoInstanceSegmentation(infer_config(state_dict, **hints))


def _rules(model: PreTrainedModel) -> list[tuple[str, str]]:
    return [*_RULES, *(_PVT_RULES if model.config.num_messengers else backbone_rules(model, _BACKBONE))]


KEY_MAP = KeyMap(
    build=_build,
    rules=_rules,
    drop=[
        (r"backbone\..*relative_position_index", "a table of indices that is computed, not learned"),
        (r"backbone\..*num_batches_tracked", "a counter without effect on batch norms of fixed statistics"),
    ],
    optional=(r".*\.swin\.layernorm\..*",),  # after the last stage; the backbone does not use it
    split=[
        (r"(.*\.)qkv\.(weight|bias)", (r"\1q_proj.\2", r"\1k_proj.\2", r"\1v_proj.\2")),
        (r"(.*\.)packed\.(weight|bias)", (r"\1query.\2", r"\1key.\2", r"\1value.\2")),
    ],
    values=[
        (r".*\.downsample\.(norm\.weight|norm\.bias|reduction\.weight)", _pixel_by_pixel),
        (r".*\.mlp\.dense[12]\.weight", lambda value: value.flatten(1)),  # 1x1 convolutions
    ],
)
