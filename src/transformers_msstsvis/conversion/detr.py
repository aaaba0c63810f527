"""Start of VisTR from DETR, the image detector that it extends to video."""

from transformers import DetrForObjectDetection, PreTrainedModel

from ..checkpoint_files import load_whole
from .backbones import detector_backbone_rules
from .key_map import ConversionReport, KeyMap, check_heads, copy_classes, load_what_fits

_ENCODER, _OUR_ENCODER = r"model\.encoder\.layers\.(\d+)\.", r"model.encoder.layers.\1."
_DECODER, _OUR_DECODER = r"model\.decoder\.layers\.(\d+)\.", r"model.decoder.layers.\1."

_RULES = [
    (r"model\.input_projection\.(.*)", r"model.input_projection.\1"),
    (_ENCODER + r"self_attn\.(.*)", _OUR_ENCODER + r"self_attn.\2"),
    (_ENCODER + r"self_attn_layer_norm\.(.*)", _OUR_ENCODER + r"norm.\2"),
    (_ENCODER + r"mlp\.(.*)", _OUR_ENCODER + r"feed_forward.\2"),
    (_ENCODER + r"final_layer_norm\.(.*)", _OUR_ENCODER + r"feed_forward.norm.\2"),
    (_DECODER + r"self_attn\.(.*)", _OUR_DECODER + r"self_attn.\2"),
    (_DECODER + r"self_attn_layer_norm\.(.*)", _OUR_DECODER + r"self_attn_norm.\2"),
    (_DECODER + r"encoder_attn\.(.*)", _OUR_DECODER + r"cross_attn.\2"),
    (_DECODER + r"encoder_attn_layer_norm\.(.*)", _OUR_DECODER + r"cross_attn_norm.\2"),
    (_DECODER + r"mlp\.(.*)", _OUR_DECODER + r"feed_forward.\2"),
    (_DECODER + r"final_layer_norm\.(.*)", _OUR_DECODER + r"feed_forward.norm.\2"),
    (r"model\.decoder\.layernorm\.(.*)", r"model.decoder.norm.\1"),
    (r"bbox_predictor\.(.*)", r"box_embed.\1"),
]

_DROP = [
    (r"class_labels_classifier\..*", "classes, of which those of the same name are copied"),
    (r"model\.query_position_embeddings\..*", "queries of an image; those of a video belong to its frames"),
    (r".*num_batches_tracked", "a counter without effect on frozen batch norms"),
]


def initialize(model: PreTrainedModel, detr: str | PreTrainedModel) -> ConversionReport:
    """
    Start training of a VisTR from a DETR that was trained on images: backbone, input projection, encoder, decoder and
    box head, module by module where all shapes agree, and the rows of classes of the same name. The rest stays as it
    is, first of all the queries of the frames and the mask heads.

    The same encoder gives the same features for one frame only at the same positions, and these differ: DETR describes
    row and column with half of its channels each, VisTR gives a part of them to the frame.

    Args:
        model: a [`VistrForVideoInstanceSegmentation`], changed in place. The published DETRs have 256 channels, as
            `VistrConfig(d_model=256)`; of 384, the default, only the backbone fits.
        detr: a `DetrForObjectDetection` of transformers, or the Hub name or folder of one, such as
            `facebook/detr-resnet-50`.

    Returns:
        What was used, what dropped and why, and which weights of the model are new.

    Raises:
        ValueError: when weights of it are missing, nothing of it fits, or attention of equal width is split into
            another number of heads.
        OSError: when there is no such checkpoint.
    """
    if isinstance(detr, str):
        detr = load_whole(DetrForObjectDetection, detr)
    check_heads(model, detr)
    rules = [*_RULES, *detector_backbone_rules(model, detr)]
    key_map = KeyMap(build=type(model), rules=lambda _: rules, drop=_DROP)
    report = load_what_fits(model, detr.state_dict(), key_map, "detr")
    report.classes = copy_classes([(model.class_embed, detr.class_labels_classifier)], model.config, detr.config)
    return report


__all__ = ["initialize"]
