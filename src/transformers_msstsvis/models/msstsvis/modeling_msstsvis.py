"""MS-STS VIS: SeqFormer with a multi-scale spatio-temporal split (MS-STS) attention in its encoder, an attention over
the frames in its decoder, and a loss of foreground-background separability (ECCV 2022).

With both temporal attentions off this is SeqFormer, which is also what the published MS-STS VIS code runs.

Letters: B videos, T frames, Q queries, S pixels over all levels, C channels.
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.loss.loss_utils import LOSS_MAPPING
from transformers.utils.output_capturing import OutputRecorder

from ...layers.attention import VisAttention
from ...layers.feature_levels import FeatureLevels
from ..seqformer.loss_seqformer import video_instance_segmentation_loss
from ..seqformer.modeling_seqformer import (
    SeqFormerDecoder,
    SeqFormerDecoderLayer,
    SeqFormerEncoder,
    SeqFormerEncoderLayer,
    SeqFormerForVideoInstanceSegmentation,
    SeqFormerModel,
    SeqFormerPreTrainedModel,
)
from ..vis.modeling_vis import VideoInstanceSegmentationOutput
from .configuration_msstsvis import MsstsVisConfig
from .discriminator_msstsvis import Adversary, Foregrounds, foregrounds
from .temporal_attention_msstsvis import FrameAttention, MultiScaleTemporalAttention


class MsstsVisEncoderLayer(SeqFormerEncoderLayer):
    """Deformable self-attention within each frame plus the MS-STS module over frames, then a feed-forward network."""

    def __init__(self, config: MsstsVisConfig):
        super().__init__(config)
        self.temporal_attn = MultiScaleTemporalAttention(config) if config.encoder_temporal_attention else None

    def attend_over_time(self, hidden_states: torch.Tensor, levels: FeatureLevels) -> torch.Tensor | None:
        """The MS-STS module on features `(B, T, S, C)`."""
        if self.temporal_attn is None:
            return None
        return self.temporal_attn(hidden_states, levels.mask, levels.spatial_shapes)


class MsstsVisDecoderLayer(SeqFormerDecoderLayer):
    """As of SeqFormer; the box queries of one instance attend over the frames before they look at their own."""

    def __init__(self, config: MsstsVisConfig):
        super().__init__(config)
        self.box_temporal_attn = None
        if config.decoder_temporal_attention:
            self.box_temporal_norm = nn.LayerNorm(config.d_model)
            self.box_temporal_attn = FrameAttention(config, config.d_model, config.decoder_attention_heads)

    def attend_over_time(self, box_queries: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        """Box queries `(B, T, Q, C)` that know of those of the other real frames, `frame_mask (B, T)`."""
        if self.box_temporal_attn is None:
            return box_queries
        attended = self.box_temporal_attn(self.box_temporal_norm(box_queries), frame_mask)
        return box_queries + self.dropout(attended)


class MsstsVisPreTrainedModel(SeqFormerPreTrainedModel):
    config: MsstsVisConfig
    _no_split_modules = ["MsstsVisEncoderLayer", "MsstsVisDecoderLayer"]

    @torch.no_grad()
    def _init_weights(self, module):
        """Both temporal attentions start as the identity, so that a new MS-STS VIS equals its SeqFormer trunk."""
        super()._init_weights(module)
        if isinstance(module, MultiScaleTemporalAttention):
            init.zeros_(module.up.weight)
        elif isinstance(module, MsstsVisDecoderLayer) and module.box_temporal_attn is not None:
            init.zeros_(module.box_temporal_attn.attention.o_proj.weight)


class MsstsVisEncoder(MsstsVisPreTrainedModel, SeqFormerEncoder):
    layer_class = MsstsVisEncoderLayer
    _can_record_outputs = {"hidden_states": MsstsVisEncoderLayer}


class MsstsVisDecoder(MsstsVisPreTrainedModel, SeqFormerDecoder):
    layer_class = MsstsVisDecoderLayer
    _can_record_outputs = {
        "hidden_states": OutputRecorder(MsstsVisDecoderLayer, index=0),
        "attentions": OutputRecorder(VisAttention, layer_name=".self_attn", index=1),
    }


class MsstsVisModel(MsstsVisPreTrainedModel, SeqFormerModel):
    """[`SeqFormerModel`] with attention over time in encoder and decoder."""

    encoder_class = MsstsVisEncoder
    decoder_class = MsstsVisDecoder


class MsstsVisForVideoInstanceSegmentation(MsstsVisPreTrainedModel, SeqFormerForVideoInstanceSegmentation):
    """MS-STS VIS with class, box and mask heads."""

    base_model_class = MsstsVisModel

    def foregrounds(
        self,
        outputs: VideoInstanceSegmentationOutput,
        pixel_values_videos: torch.Tensor,
        labels: list[dict[str, torch.Tensor]],
        pixel_mask: torch.Tensor | None = None,
    ) -> Foregrounds:
        """Labelled and predicted foreground of a training batch, see [`foregrounds`]."""
        return foregrounds(outputs, pixel_values_videos, labels, pixel_mask)

    def make_adversary(self, learning_rate: float, seed: int, device: torch.device) -> Adversary:
        """A discriminator of foregrounds, trained alternately with this model and no part of it, see [`Adversary`]."""
        return Adversary(self.config.d_model, learning_rate, seed, device)


LOSS_MAPPING["MsstsVisForVideoInstanceSegmentation"] = video_instance_segmentation_loss

__all__ = ["MsstsVisForVideoInstanceSegmentation", "MsstsVisModel", "MsstsVisPreTrainedModel"]
