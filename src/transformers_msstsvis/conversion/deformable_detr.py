"""Start of DeVIS, SeqFormer and MS-STS VIS from Deformable DETR, the image detector that they extend to video."""

import torch
from transformers import DeformableDetrForObjectDetection, PreTrainedModel

from ..checkpoint_files import load_whole
from ..models.devis.temporal_attention_devis import TemporalDeformableAttention
from .backbones import detector_backbone_rules
from .key_map import ConversionReport, KeyMap, Rule, check_heads, copy_classes, load_what_fits

_LAYER = r"model\.(encoder|decoder)\.layers\.(\d+)\."
_DECODER, _OUR_DECODER = r"model\.decoder\.layers\.(\d+)\.", r"model.decoder.layers.\1."


def _both_queries(theirs: str, ours: str, of_boxes: str) -> Rule:
    """SeqFormer has twice what an image needs: once for the query of an instance, once for those of its boxes."""
    return (_DECODER + theirs + r"\.(.*)", (_OUR_DECODER + ours + r".\2", _OUR_DECODER + of_boxes + r".\2"))


_RULES: list[Rule] = [
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
_OF_QUERIES = (r"model\.query_position_embeddings\.weight", "model.query_embed.weight")
_SEQFORMER_RULES: list[Rule] = [
    _OF_QUERIES,
    _both_queries("self_attn", "self_attn", "box_self_attn"),
    _both_queries("self_attn_layer_norm", "self_attn_norm", "box_self_attn_norm"),
    _both_queries(r"encoder_attn\.output_proj", "cross_attn.output_proj", "box_output_proj"),
    _both_queries("encoder_attn_layer_norm", "cross_attn_norm", "box_cross_attn_norm"),
    _both_queries("mlp", "feed_forward", "box_feed_forward"),
    _both_queries("final_layer_norm", "feed_forward.norm", "box_feed_forward.norm"),
]
# By type of the model, tried before those of all.
RULES: dict[str, list[Rule]] = {"devis": [], "seqformer": _SEQFORMER_RULES, "msstsvis": _SEQFORMER_RULES}

_DROP = [
    (r"(model\.decoder\.)?class_embed\..*", "classes, of which those of the same name are copied"),
    (_OF_QUERIES[0], "queries of an image; those of a video belong to its frames"),
    (r"bbox_embed\..*", "second name of the box heads, or those without refinement"),
    (r".*num_batches_tracked", "a counter without effect on frozen batch norms"),
]
REFINED = "SenseTime/deformable-detr-with-box-refine"


def initialize(model: PreTrainedModel, detector: str | PreTrainedModel) -> ConversionReport:
    """
    Start training from a Deformable DETR that was trained on images, module by module where all shapes agree.

    A SeqFormer or MS-STS VIS gets all but its masks, and rows of classes that the detector does not know: in every
    frame it is the detector. A DeVIS gets all but classes that are not known, queries, the embedding of the frame and
    the mask heads; into other frames its attentions look as into their own, as published.

    Args:
        model: a DeVIS, SeqFormer or MS-STS VIS with heads, changed in place.
        detector: a `DeformableDetrForObjectDetection` of transformers, or the Hub name or folder of one with box
            refinement, such as `SenseTime/deformable-detr-with-box-refine`.

    Returns:
        What was used, what dropped and why, and which weights of the model are new.

    Raises:
        ValueError: for a detector in two stages; when weights of it are missing, nothing of it fits, or attention of
            equal width is split into another number of heads.
        OSError: when there is no such checkpoint.
    """
    name = detector if isinstance(detector, str) else "the detector"
    if isinstance(detector, str):
        detector = load_whole(DeformableDetrForObjectDetection, detector)
    if detector.config.two_stage:
        raise ValueError(
            f"{name} is a Deformable DETR in two stages, whose queries come from the picture; expected one with "
            f"queries of its own and box refinement, {REFINED}"
        )
    check_heads(model, detector)
    rules = [*RULES[model.config.model_type], *_RULES, *detector_backbone_rules(model, detector)]
    drop = [rule for rule in _DROP if rule[0] not in (pattern for pattern, _ in rules)]
    key_map = KeyMap(build=type(model), rules=lambda _: rules, drop=drop)
    report = load_what_fits(model, detector.state_dict(), key_map, "deformable_detr")
    heads = zip(model.class_embed, detector.class_embed, strict=False)
    report.classes = copy_classes(heads, model.config, detector.config)
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
