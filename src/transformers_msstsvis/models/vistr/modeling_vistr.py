"""VisTR: one transformer over all pixels of all frames, with a query for every instance in every frame.

Letters: B videos, T frames of the model, F frames given, Q queries of a frame, S places of a frame, C channels,
K labels, D decoder layers, M heads.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ...layers.attention import VisAttention
from ...layers.attention_map import AttentionMap
from ...layers.backbone import VisBackbone
from ...layers.deformable_convolution import DeformableConv2d
from ...layers.feed_forward import MLP, FeedForward
from ...layers.fpn_mask_head import FpnMaskHead, SharedConv2d
from ...layers.position_embedding import sine_embedding
from ...losses.common import check_labels
from ...recomputation import made_again
from ..vis.modeling_vis import (
    BACKBONE_FRAMES,
    VideoInstanceSegmentationOutput,
    VisPreTrainedModel,
    best_queries,
    check_video,
    clip_of_frames,
    frame_sizes_of,
    in_frame_chunks,
    mean_log_odds,
    take,
)
from .configuration_vistr import VistrConfig
from .loss_vistr import match_instances

# At a time in inference, see BACKBONE_FRAMES.
MASK_FRAMES = {"cpu": 1}


@dataclass
class VistrDecoderOutput(ModelOutput):
    """
    Output of [`VistrDecoder`].

    Args:
        last_hidden_state: `(B, T Q, C)` queries after the last layer and the norm.
        query_states: `(D, B, T Q, C)` the same after every layer.
    """

    last_hidden_state: torch.FloatTensor | None = None
    query_states: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class VistrModelOutput(ModelOutput):
    """
    Output of [`VistrModel`].

    Args:
        last_hidden_state: `(B, Q, F, C)` queries after the last decoder layer and the norm.
        encoder_last_hidden_state: `(B, F, S, C)` encoder features.
        query_states: `(D, B, T, Q, C)` queries of the model's frames after every layer and the norm.
        memory: `(B, T, C, h, w)` encoder features of the model's frames.
        feature_mask: `(B, T, h, w)` bool, True = real place.
        feature_maps: maps `(B F, C_l, h_l, w_l)` of the backbone of strides 4, 8 and 16.
        frames: `(B, T)` which of the frames given every frame of the model is.
        places: `(B, F)` where the model has the frames given.
        frame_sizes: `(B, F, 2)` height and width of the real pixels of every frame; zero for padding frames.
        decoder_hidden_states, decoder_attentions: queries and their self-attention weights per decoder layer.
        encoder_hidden_states, encoder_attentions: features `(B, T S, C)` and attention weights per encoder layer.
    """

    last_hidden_state: torch.FloatTensor | None = None
    encoder_last_hidden_state: torch.FloatTensor | None = None
    query_states: torch.FloatTensor | None = None
    memory: torch.FloatTensor | None = None
    feature_mask: torch.BoolTensor | None = None
    feature_maps: list[torch.FloatTensor] | None = None
    frames: torch.LongTensor | None = None
    places: torch.LongTensor | None = None
    frame_sizes: torch.LongTensor | None = None
    decoder_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    decoder_attentions: tuple[torch.FloatTensor, ...] | None = None
    encoder_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    encoder_attentions: tuple[torch.FloatTensor, ...] | None = None


def video_position_embedding(mask: torch.Tensor, channels: int) -> torch.Tensor:
    """
    Sine position embedding of frame, row and column, in this order. Positions count the real places along their axis,
    from 1, scaled to `[0, 2 pi]`.

    Args:
        mask: `(B, T, h, w)` bool, True = real place.
        channels: `2 * (channels // 6)` of them tell the row, as many the column, the others the frame.

    Returns:
        `(B, T, h, w, channels)` float32.
    """
    place = 2 * (channels // 6)
    embeddings = []
    for axis, size in ((1, channels - 2 * place), (2, place), (3, place)):
        position = mask.float().cumsum(axis)
        last = position.narrow(axis, -1, 1)
        embeddings.append(sine_embedding(position / (last + 1e-6) * 2 * math.pi, size))
    return torch.cat(embeddings, dim=-1)


class VistrEncoderLayer(GradientCheckpointingLayer):
    """Self-attention over all places of all frames, then a feed-forward network."""

    def __init__(self, config: VistrConfig):
        super().__init__()
        heads, dropout = config.encoder_attention_heads, config.attention_dropout
        self.self_attn = VisAttention(config, config.d_model, heads, dropout=dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.d_model)
        self.feed_forward = FeedForward(
            config.d_model, config.encoder_ffn_dim, config.dropout, config.activation_function
        )

    def forward(
        self, hidden_states: torch.Tensor, positions: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """`hidden_states, positions (B, T S, C)`, `attention_mask (B, 1, 1, T S)` additive."""
        attended, _ = self.self_attn(hidden_states, positions, attention_mask)
        attended = hidden_states + self.dropout(attended)
        with made_again(self.norm, attended, unless=self.gradient_checkpointing) as normed:
            return self.feed_forward(normed)


class VistrDecoderLayer(GradientCheckpointingLayer):
    """Queries of all frames attend to each other, then to all places of all frames; a feed-forward network."""

    def __init__(self, config: VistrConfig):
        super().__init__()
        heads, dropout = config.decoder_attention_heads, config.attention_dropout
        self.self_attn = VisAttention(config, config.d_model, heads, dropout=dropout)
        self.self_attn_norm = nn.LayerNorm(config.d_model)
        self.cross_attn = VisAttention(config, config.d_model, heads, dropout=dropout)
        self.cross_attn_norm = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.feed_forward = FeedForward(
            config.d_model, config.decoder_ffn_dim, config.dropout, config.activation_function
        )

    def forward(
        self,
        queries: torch.Tensor,
        query_positions: torch.Tensor,
        memory: torch.Tensor,
        positions: torch.Tensor,
        attention_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """`queries, query_positions (B, T Q, C)`, `memory, positions (B, T S, C)`, mask as in the encoder."""
        attended, _ = self.self_attn(queries, query_positions)
        queries = self.self_attn_norm(queries + self.dropout(attended))
        attended, _ = self.cross_attn(queries, query_positions, attention_mask, memory, positions)
        return self.feed_forward(self.cross_attn_norm(queries + self.dropout(attended)))


class VistrInstanceHead(nn.Module):
    """Convolutions over time and space: the features of an instance in all frames to the logits of its masks."""

    def __init__(self, in_channels: int):
        super().__init__()
        channels = max(in_channels // 2, 1)
        sizes = [in_channels, channels, channels]
        self.convolutions = nn.ModuleList(nn.Conv3d(size, channels, 3, padding=2, dilation=2) for size in sizes)
        self.norms = nn.ModuleList(nn.GroupNorm(math.gcd(4, channels), channels) for _ in sizes)
        self.output = nn.Conv3d(channels, 1, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(T, D, h, w)` to `(T, h, w)`."""
        features = features.transpose(0, 1)[None]  # (1, D, T, h, w)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            features = norm(convolution(features)).relu_()
        return self.output(features)[0, 0]


class VistrPreTrainedModel(VisPreTrainedModel):
    config: VistrConfig
    _no_split_modules = ["VistrEncoderLayer", "VistrDecoderLayer"]

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, VistrInstanceHead):
            for part in (*module.convolutions, module.output):
                init.kaiming_uniform_(part.weight, a=1)
                init.zeros_(part.bias)
        elif isinstance(module, VistrModel):
            init.normal_(module.query_embed.weight)
            init.xavier_uniform_(module.input_projection.weight)
            init.zeros_(module.input_projection.bias)


class VistrEncoder(VistrPreTrainedModel):
    """Encoder layers over the places of all frames."""

    _can_record_outputs = {
        "hidden_states": VistrEncoderLayer,
        "attentions": OutputRecorder(VisAttention, layer_name=".self_attn", index=1),
    }

    def __init__(self, config: VistrConfig):
        super().__init__(config)
        self.layers = nn.ModuleList(VistrEncoderLayer(config) for _ in range(config.encoder_layers))
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        hidden_states: torch.Tensor,
        positions: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        """See [`VistrEncoderLayer`]."""
        for layer in self.layers:
            hidden_states = layer(hidden_states, positions, attention_mask)
        return BaseModelOutput(last_hidden_state=hidden_states)


class VistrDecoder(VistrPreTrainedModel):
    """Decoder layers, and one norm for the results of all of them."""

    _can_record_outputs = {
        "hidden_states": VistrDecoderLayer,
        "attentions": OutputRecorder(VisAttention, layer_name=".self_attn", index=1),
    }

    def __init__(self, config: VistrConfig):
        super().__init__(config)
        self.layers = nn.ModuleList(VistrDecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(config.d_model)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        query_positions: torch.Tensor,
        memory: torch.Tensor,
        positions: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> VistrDecoderOutput:
        """See [`VistrDecoderLayer`]; the queries start as zeros."""
        queries, states = torch.zeros_like(query_positions), []
        for layer in self.layers:
            queries = layer(queries, query_positions, memory, positions, attention_mask)
            states.append(self.norm(queries))
        return VistrDecoderOutput(last_hidden_state=states[-1], query_states=torch.stack(states))


class VistrModel(VistrPreTrainedModel):
    """Backbone, projection, encoder and decoder: a video in, queries of every instance in every frame out."""

    def __init__(self, config: VistrConfig):
        super().__init__(config)
        self.backbone = VisBackbone(config, strides=(4, 8, 16, 32))
        self.input_projection = nn.Conv2d(self.backbone.channels[-1], config.d_model, 1)
        self.encoder = VistrEncoder(config)
        self.query_embed = nn.Embedding(config.num_frames * config.num_queries, config.d_model)  # frame by frame
        self.decoder = VistrDecoder(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> VistrModelOutput:
        """
        Args:
            pixel_values_videos: `(B, F, 3, H, W)` normalised RGB frames.
            pixel_mask: `(B, F, H, W)`, 1 = real pixel. Real pixels start at the top left corner; a frame without any
                is temporal padding.

        Raises:
            ValueError: for another rank or other channels than above, a mask of another size, or a video of more
                frames than the model knows.
        """
        padded = pixel_mask is not None
        pixel_mask = check_video(pixel_values_videos, pixel_mask)
        B, T = len(pixel_values_videos), self.config.num_frames
        frames, places = clip_of_frames(pixel_mask.flatten(2).any(2), T)  # (B, T), (B, F)
        maps = in_frame_chunks(self.backbone, BACKBONE_FRAMES, pixel_values_videos.flatten(0, 1).to(self.dtype))
        features = take(self.input_projection(maps[-1]).unflatten(0, (B, -1)), frames)  # (B, T, C, h, w)
        mask = F.interpolate(pixel_mask.float(), size=features.shape[-2:])  # (B, F, h, w), nearest neighbours
        mask = take(mask.bool(), frames)
        positions = video_position_embedding(mask, self.config.d_model).to(features.dtype).flatten(1, 3)
        attention_mask = key_mask(mask.flatten(1), features.dtype) if padded else None
        kwargs["return_dict"] = True
        tokens = features.flatten(3).transpose(2, 3).flatten(1, 2)  # (B, T S, C)
        encoded = self.encoder(tokens, positions, attention_mask, **kwargs)
        memory = encoded.last_hidden_state

        queries = self.query_embed.weight.expand(B, -1, -1)  # (B, T Q, C)
        decoded = self.decoder(queries, memory, positions, attention_mask, **kwargs)
        states = decoded.query_states.unflatten(2, (T, -1))  # (D, B, T, Q, C)
        memory = memory.unflatten(1, (T, -1))  # (B, T, S, C)
        return VistrModelOutput(
            last_hidden_state=take(states[-1], places).transpose(1, 2),
            encoder_last_hidden_state=take(memory, places),
            query_states=states,
            memory=memory.transpose(2, 3).unflatten(3, mask.shape[2:]),
            feature_mask=mask,
            feature_maps=maps[:3],
            frames=frames,
            places=places,
            frame_sizes=frame_sizes_of(pixel_mask),
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )


def key_mask(real: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
    """
    Additive mask `(B, 1, 1, S)` over keys that are real where `(B, S)` says so, None where all are. Those of a video
    without any count as real.
    """
    real = real | ~real.any(1, keepdim=True)
    if not torch.compiler.is_compiling() and real.all():
        return None
    hidden = torch.finfo(dtype).min
    return torch.zeros(real.shape, dtype=dtype, device=real.device).masked_fill(~real, hidden)[:, None, None]


class VistrForVideoInstanceSegmentation(VistrPreTrainedModel):
    """VisTR with class, box and mask heads."""

    def __init__(self, config: VistrConfig):
        super().__init__(config)
        C, M = config.d_model, config.encoder_attention_heads
        self.model = VistrModel(config)
        self.class_embed = nn.Linear(C, config.num_labels + 1)  # "no object" last
        self.box_embed = MLP(C, C, 4, num_layers=3)
        self.attention_map = AttentionMap(C, M)
        channels = self.model.backbone.channels[2::-1]
        self.mask_head = FpnMaskHead(C, (M,), channels, SharedConv2d, DeformableConv2d)
        self.instance_head = VistrInstanceHead(self.mask_head.channels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        labels: list[dict[str, torch.Tensor]] | None = None,
        mask_top_k: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> VideoInstanceSegmentationOutput:
        """
        Args:
            pixel_values_videos: `(B, F, 3, H, W)` normalised RGB frames, F at most `num_frames` of the configuration.
            pixel_mask: `(B, F, H, W)`, 1 = real pixel; a frame without any is temporal padding.
            labels: one dict per video: `class_labels (n,)` in `[0, K)`, `boxes (n, F, 4)` cx cy w h in `[0, 1]` of the
                real pixels, `masks (n, F, H, W)` bool, `valid (n, F)` bool, present in the frame.
            mask_top_k: compute masks only for the queries of the k best classes.

        Raises:
            ValueError: for wrong shapes, a video of more frames than the model knows, labels out of range or not
                fitting the video, or a `mask_top_k` below 1.
            TypeError: for labels that are no tensors.
        """
        kwargs["return_dict"] = True
        outputs = self.model(pixel_values_videos, pixel_mask, **kwargs)
        layers = self.predict_classes_and_boxes(outputs)
        logits = layers[-1]["logits"]
        matched = {}
        if labels is not None:
            check_labels(labels, pixel_values_videos.shape, self.config.num_labels)
            matched = self.compute_loss(outputs, layers, labels)
        best, masks = best_queries(logits, mask_top_k), None
        if labels is None or not self.training or mask_top_k is not None:
            everything = torch.arange(self.config.num_queries, device=logits.device).expand(len(logits), -1)
            masks = torch.stack(self.predict_masks(outputs, everything if best is None else best))
        return VideoInstanceSegmentationOutput.of_layers(
            outputs, layers, **matched, pred_masks=masks, mask_query_indices=best
        )

    def predict_classes_and_boxes(self, outputs: VistrModelOutput) -> list[dict[str, torch.Tensor]]:
        """`frame_logits (B, F, Q, K + 1)`, `logits (B, Q, K)` and `pred_boxes (B, Q, F, 4)` after every layer."""
        layers = []
        for states in outputs.query_states:
            states = take(states, outputs.places)  # (B, F, Q, C)
            frame_logits = self.class_embed(states)
            boxes = self.box_embed(states).float().sigmoid().transpose(1, 2)
            probability = frame_logits.softmax(-1, dtype=torch.promote_types(frame_logits.dtype, torch.float32))
            logits = mean_log_odds(probability[..., :-1], outputs.frame_sizes[..., 0] > 0)
            layers.append({"frame_logits": frame_logits, "logits": logits, "pred_boxes": boxes})
        return layers

    def predict_masks(self, outputs: VistrModelOutput, queries: list[torch.Tensor]) -> list[torch.Tensor]:
        """Per video, mask logits `(k, F, h, w)` of its `queries (k,)`."""
        masks = []
        for video, (chosen, places) in enumerate(zip(queries, outputs.places, strict=True)):
            given = (
                outputs.query_states[-1][video][:, chosen],  # (T, k, C)
                outputs.memory[video],
                outputs.feature_mask[video],
                outputs.frames[video] + video * len(places),  # (T,) among the frames of all videos
            )
            climb = partial(self.frame_features, outputs.feature_maps)
            features = in_frame_chunks(climb, MASK_FRAMES, *given)  # (T, k, D, h, w)
            masks.append(torch.stack([self.instance_head(of_one)[places] for of_one in features.unbind(1)]))
        return masks

    def frame_features(self, feature_maps, states, memory, mask, frames) -> torch.Tensor:
        """
        Features `(N, k, D, h, w)` at stride 4 of k queries in each of N frames, with the queries `states (N, k, C)`,
        `memory (N, C, h, w)`, `mask (N, h, w)` and `frames (N,)`, where they are in the maps of the backbone.
        """
        attention_maps = self.attention_map(states, memory, mask)
        return self.mask_head(memory, [attention_maps], [maps[frames] for maps in reversed(feature_maps)])

    @torch.compiler.disable  # as many instances as a batch has
    def compute_loss(self, outputs: VistrModelOutput, layers: list[dict], labels: list[dict]) -> dict:
        """
        Match every decoder layer's queries to the labels, compute the masks of those of the last, apply the losses.
        Returns `loss` and `loss_dict`, in training also `matches` and `matched_masks` of the last layer.
        """
        layers = layers if self.config.auxiliary_loss else layers[-1:]
        frame_logits, boxes = ([layer[name] for layer in layers] for name in ("frame_logits", "pred_boxes"))
        matches = [
            match_instances(*layer, labels, outputs.frame_sizes, self.config)
            for layer in zip(frame_logits, boxes, strict=True)
        ]
        # Without a match the masks of one query are computed, so that all weights get gradients on all processes.
        queries = [query for query, _ in matches[-1]]
        masks = self.predict_masks(outputs, [query if len(query) else query.new_zeros(1) for query in queries])
        masks = torch.cat([of_video[: len(query)] for of_video, query in zip(masks, queries, strict=True)])
        loss, loss_dict = self.loss_function(
            frame_logits=frame_logits,
            boxes=boxes,
            masks=[None] * (len(layers) - 1) + [masks],
            matches=matches,
            labels=labels,
            frame_sizes=outputs.frame_sizes,
            config=self.config,
        )
        in_training = {"matches": matches[-1], "matched_masks": masks} if self.training else {}
        return {"loss": loss, "loss_dict": loss_dict, **in_training}


__all__ = ["VistrForVideoInstanceSegmentation", "VistrModel", "VistrPreTrainedModel"]
