"""Start of DeVIS from Deformable DETR, the image detector that it extends to video."""

import torch
from transformers import DeformableDetrForObjectDetection, PreTrainedModel

from ..checkpoint_files import told_in_words
from ..models.devis.temporal_attention_devis import TemporalDeformableAttention
from .backbones import detector_backbone_rules
from .key_map import ConversionReport, KeyMap, check_heads, load_what_fits

_LAYER = r"model\.(encoder|decoder)\.layers\.(\d+)\."

_RULES = [
    (r"model\.level_embed", "model.level_embed"),
    (r"model\.reference_points\.(.*)", r"model.reference_points.\1"),
    (r"model\.input_proj\.(\d+)\.0\.(.*)", r"model.input_projection.convolutions.\1.\2"),
    (r"model\.input_proj\.(\d+)\.1\.(.*)", r"model.input_projection.norms.\1.\2"),
    (_LAYER + r"self_attn\.(.*)", r"model.\1.layers.\2.self_attn.\3"),
    (_LAYER + r"encoder_attn\.(.*)", r"model.\1.layers.\2.cross_attn.\3"),
    (r"model\.encoder\.layers\.(\d+)\.self_attn_layer_norm\.(.*)", r"model.encoder.layers.\1.norm.\2"),
    (r"model\.decoder\.layers\.(\d+)\.self_attn_layer_norm\.(.*)", r"model.decoder.layers.\1.self_attn_norm.\2"),
    (_LAYER + r"encoder_attn_layer_norm\.(.*)", r"model.\1.layers.\2.cross_attn_norm.\3"),
    (_LAYER + r"mlp\.(.*)", r"model.\1.layers.\2.feed_forward.\3"),
    (_LAYER + r"final_layer_norm\.(.*)", r"model.\1.layers.\2.feed_forward.norm.\3"),
    (r"model\.decoder\.bbox_embed\.(.*)", r"model.decoder.box_embed.\1"),
]

_DROP = [
    (r"(model\.decoder\.)?class_embed\..*", "classes of another data set"),
    (r"model\.query_position_embeddings\..*", "queries of an image; those of a video belong to its frames"),
    (r"bbox_embed\..*", "second name of the box heads, which are in the decoder"),
    (r"model\.(enc_output|enc_output_norm|pos_trans|pos_trans_norm)\..*", "proposals of the two-stage detector"),
    (r".*num_batches_tracked", "a counter without effect on frozen batch norms"),
]


def initialize(model: PreTrainedModel, detector: str | PreTrainedModel) -> ConversionReport:
    """
    Start training of a DeVIS from a Deformable DETR that was trained on images: all but classes, queries, the
    embedding of the frame and the mask heads, module by module where all shapes agree. Into other frames the
    attentions look as into their own, as published.

    Args:
        model: a [`DevisForVideoInstanceSegmentation`], changed in place.
        detector: a `DeformableDetrForObjectDetection` of transformers, or the Hub name or folder of one with box
            refinement, such as `SenseTime/deformable-detr-with-box-refine`.

    Returns:
        What was used, what dropped and why, and which weights of the model are new.

    Raises:
        ValueError: when nothing of it fits, or attention of equal width is split into another number of heads.
        OSError: when there is no such checkpoint.
    """
    if isinstance(detector, str):
        with told_in_words(detector):
            detector = DeformableDetrForObjectDetection.from_pretrained(detector)
    check_heads(model, detector)
    rules = [*_RULES, *detector_backbone_rules(model, detector)]
    key_map = KeyMap(build=type(model), rules=lambda _: rules, drop=_DROP)
    report = load_what_fits(model, detector.state_dict(), key_map, "deformable_detr")
    missing = set(report.missing)
    for name, module in model.named_modules():
        if isinstance(module, TemporalDeformableAttention) and f"{name}.sampling_offsets.weight" not in missing:
            missing -= {f"{name}.{copied}" for copied in _look_into_other_frames(module)}
    report.missing = [name for name in report.missing if name in missing]
    return report


@torch.no_grad()
def _look_into_other_frames(module: TemporalDeformableAttention) -> list[str]:
    """Copy how an attention looks into its own frame to all others, if it has as many points there; what changed."""
    if module.num_points != module.num_temporal_points:
        return []
    copied = [f"{layer}.{part}" for layer in ("sampling_offsets", "attention_weights") for part in ("weight", "bias")]
    for name in copied:
        by_head = module.get_parameter(name).unflatten(0, (module.num_heads, 1, -1))
        in_all = by_head.expand(-1, module.num_other_frames, *by_head.shape[2:])
        module.get_parameter(f"temporal_{name}").copy_(in_all.flatten(0, 2))
    return [f"temporal_{name}" for name in copied]


__all__ = ["initialize"]
