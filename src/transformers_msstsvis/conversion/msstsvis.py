"""Key map of the MS-STS VIS release, which is SeqFormer plus one attention that is never called."""

from dataclasses import replace

import torch
from transformers import PreTrainedModel

from ..models.msstsvis.configuration_msstsvis import MsstsVisConfig
from ..models.msstsvis.modeling_msstsvis import MsstsVisForVideoInstanceSegmentation
from . import seqformer


def _build(state_dict: dict[str, torch.Tensor], **hints) -> PreTrainedModel:
    off = {"encoder_temporal_attention": False, "decoder_temporal_attention": False}
    return MsstsVisForVideoInstanceSegmentation(seqformer.infer_config(state_dict, MsstsVisConfig, **{**off, **hints}))


_UNUSED = (
    r"detr\.transformer\.decoder\.layers\.(\d+)\.temp_attn_box\..*",
    "the published MS-STS VIS code creates this attention and never calls it",
)
# They start as the identity, when a hint asks for them.
_OURS = r".*\.(temporal_attn|box_temporal_norm|box_temporal_attn)\..*"

KEY_MAP = replace(
    seqformer.KEY_MAP,
    build=_build,
    drop=[*seqformer.KEY_MAP.drop, _UNUSED],
    optional=(*seqformer.KEY_MAP.optional, _OURS),
)
