"""DeVIS: deformable attention over space and time, with a query for every instance in every frame (2022).

Letters: B videos, T frames of the model, F frames given, Q queries of a frame, S pixels over all L levels, C channels,
K labels, D decoder layers.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
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
from ...layers.box_refinement import BoxHeads, refined_boxes
from ...layers.deformable_convolution import ModulatedDeformableConv2d
from ...layers.feature_levels import FeatureLevels, InputProjection, level_maps
from ...layers.feed_forward import FeedForward
from ...layers.fpn_mask_head import FpnMaskHead
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
from .configuration_devis import DevisConfig
from .loss_devis import match_instances
from .temporal_attention_devis import ATTENTION_FRAMES, TemporalDeformableAttention

MASK_FRAMES = {"cpu": 1}
MASK_LEVELS = 3  # of the encoder's features, finest first, that the mask head climbs


@dataclass
class DevisDecoderOutput(ModelOutput):
    """
    Output of [`DevisDecoder`].

    Args:
        last_hidden_state: `(B, T, Q, C)` queries after the last layer.
        query_states: `(D, B, T, Q, C)` queries after every layer.
        boxes: `(D, B, T, Q, 4)` boxes of every layer, cx cy w h in `[0, 1]` of the real pixels.
    """

    last_hidden_state: torch.FloatTensor | None = None
    query_states: torch.FloatTensor | None = None
    boxes: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class DevisModelOutput(ModelOutput):
    """
    Output of [`DevisModel`], of the frames given.

    Args:
        last_hidden_state: `(B, Q, F, C)` queries after the last decoder layer.
        encoder_last_hidden_state: `(B, F, S, C)` encoder features, levels finest first.
        query_states: D tensors `(B, F, Q, C)`, queries after every decoder layer.
        boxes: D tensors `(B, F, Q, 4)`, boxes of every decoder layer, cx cy w h in `[0, 1]` of the real pixels.
        feature_mask: `(B, F, S)` bool, True = real pixel.
        spatial_shapes: `(height, width)` of every feature level.
        finest_map: `(B F, C', h, w)` map of the backbone of stride 4.
        frame_sizes: `(B, F, 2)` height and width of the real pixels of every frame; zero for padding frames.
        decoder_hidden_states, decoder_attentions: queries and their self-attention weights per decoder layer.
        encoder_hidden_states: features per encoder layer, `(B, T, S, C)`.
    """

    last_hidden_state: torch.FloatTensor | None = None
    encoder_last_hidden_state: torch.FloatTensor | None = None
    query_states: list[torch.FloatTensor] | None = None
    boxes: list[torch.FloatTensor] | None = None
    feature_mask: torch.BoolTensor | None = None
    spatial_shapes: list | None = None
    finest_map: torch.FloatTensor | None = None
    frame_sizes: torch.LongTensor | None = None
    decoder_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    decoder_attentions: tuple[torch.FloatTensor, ...] | None = None
    encoder_hidden_states: tuple[torch.FloatTensor, ...] | None = None


def other_frames(num_frames: int, device: torch.device, window: int | None = None) -> torch.Tensor:
    """
    The frames at which a frame looks beside itself, int64 `(T, T - 1)`: all others. Or `(T, window)`: half of the
    window before it, half behind; where the clip ends, those of the other side.
    """
    frames = torch.arange(num_frames, device=device)
    if window is None:
        others = frames[: num_frames - 1].expand(num_frames, -1)
        return others + (others >= frames[:, None])
    steps = torch.arange(-(window // 2), window // 2 + 1, device=device)
    steps = steps[steps != 0]
    place = frames[:, None] + steps
    mirrored = frames[:, None] - steps
    place = torch.where((place < 0) | (place >= num_frames), mirrored, place)
    return place.clamp(0, num_frames - 1)


class DevisEncoderLayer(GradientCheckpointingLayer):
    """Every pixel looks at its frame and at the others, then a feed-forward network."""

    def __init__(self, config: DevisConfig):
        super().__init__()
        self.self_attn = TemporalDeformableAttention(
            config.d_model,
            config.encoder_attention_heads,
            config.num_feature_levels,
            config.encoder_n_points,
            config.encoder_n_temporal_points,
            config.encoder_temporal_window or config.num_frames - 1,
            temporal_reference="first_level",
        )
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.d_model)
        self.feed_forward = FeedForward(
            config.d_model, config.encoder_ffn_dim, config.dropout, config.activation_function
        )

    def forward(
        self,
        hidden_states: torch.Tensor,
        reference_points: torch.Tensor,
        levels: FeatureLevels,
        others: torch.Tensor,
    ) -> torch.Tensor:
        """`hidden_states (B, T, S, C)`, `reference_points (B, T, S, L, 2)`, positions and shapes of `levels`."""
        query = hidden_states + levels.positions
        attended = self.self_attn(query, reference_points, hidden_states, levels.spatial_shapes, others)

        def update(hidden_states, attended):
            attended = hidden_states + self.dropout(attended)
            with made_again(self.norm, attended, unless=self.gradient_checkpointing) as normed:
                return self.feed_forward(normed)

        frames = hidden_states.flatten(0, 1), attended.flatten(0, 1)
        return in_frame_chunks(update, ATTENTION_FRAMES, *frames, in_training=True).view_as(hidden_states)


class DevisDecoderLayer(GradientCheckpointingLayer):
    """Queries of all frames attend to each other, then each looks at its frame and at the others."""

    def __init__(self, config: DevisConfig):
        super().__init__()
        C, heads = config.d_model, config.decoder_attention_heads
        self.self_attn = VisAttention(config, C, heads, dropout=config.attention_dropout)
        self.self_attn_norm = nn.LayerNorm(C)
        self.cross_attn = TemporalDeformableAttention(
            C,
            heads,
            config.num_feature_levels,
            config.decoder_n_points,
            config.decoder_n_temporal_points,
            config.num_frames - 1,
            temporal_reference="same_query" if config.instance_aware_attention else "own",
        )
        self.cross_attn_norm = nn.LayerNorm(C)
        self.dropout = nn.Dropout(config.dropout)
        self.feed_forward = FeedForward(C, config.decoder_ffn_dim, config.dropout, config.activation_function)

    def forward(
        self,
        queries: torch.Tensor,
        query_positions: torch.Tensor,
        reference_points: torch.Tensor,
        levels: FeatureLevels,
        others: torch.Tensor,
    ) -> torch.Tensor:
        """
        `queries, query_positions (B, T, Q, C)`, `reference_points (B, T, Q, L, 2 or 4)`, features and shapes of
        `levels`.
        """
        attended, _ = self.self_attn(queries.flatten(1, 2), query_positions.flatten(1, 2))
        queries = self.self_attn_norm(queries + self.dropout(attended.view_as(queries)))
        query = queries + query_positions
        attended = self.cross_attn(query, reference_points, levels.features, levels.spatial_shapes, others)
        return self.feed_forward(self.cross_attn_norm(queries + self.dropout(attended)))


class DevisPreTrainedModel(VisPreTrainedModel):
    config: DevisConfig
    _no_split_modules = ["DevisEncoderLayer", "DevisDecoderLayer"]

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, DevisModel):
            for parameter in (module.level_embed, module.temporal_embed, module.query_embed.weight):
                init.normal_(parameter)
        elif isinstance(module, DevisForVideoInstanceSegmentation):
            for class_head in module.class_embed:
                init.constant_(class_head.bias, -math.log((1 - 0.01) / 0.01))  # focal prior: 1% of queries match


class DevisEncoder(DevisPreTrainedModel):
    """Encoder layers over the flattened feature levels of all frames."""

    _can_record_outputs = {"hidden_states": DevisEncoderLayer}

    def __init__(self, config: DevisConfig):
        super().__init__(config)
        self.layers = nn.ModuleList(DevisEncoderLayer(config) for _ in range(config.encoder_layers))
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(self, levels: FeatureLevels, **kwargs: Unpack[TransformersKwargs]) -> BaseModelOutput:
        """The features of `levels` after all layers: `(B, T, S, C)`."""
        hidden_states, centres = levels.features, levels.pixel_centres()
        others = other_frames(hidden_states.shape[1], hidden_states.device, self.config.encoder_temporal_window)
        for layer in self.layers:
            hidden_states = layer(hidden_states, centres, levels, others)
        return BaseModelOutput(last_hidden_state=hidden_states)


class DevisDecoder(DevisPreTrainedModel):
    """Decoder layers with iterative box refinement in every frame."""

    _can_record_outputs = {
        "hidden_states": DevisDecoderLayer,
        "attentions": OutputRecorder(VisAttention, layer_name=".self_attn", index=1),
    }

    def __init__(self, config: DevisConfig):
        super().__init__(config)
        self.layers = nn.ModuleList(DevisDecoderLayer(config) for _ in range(config.decoder_layers))
        self.box_embed = BoxHeads(config.d_model, config.decoder_layers)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        queries: torch.Tensor,
        query_positions: torch.Tensor,
        reference_points: torch.Tensor,
        levels: FeatureLevels,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DevisDecoderOutput:
        """
        Args:
            queries, query_positions: `(B, T, Q, C)`.
            reference_points: `(B, T, Q, 2)` first centres in `[0, 1]` of the real pixels.
            levels: the encoder's features, with their ratios and shapes.
        """
        others = other_frames(queries.shape[1], queries.device)
        ratios = levels.valid_ratios[:, :1]  # (B, 1, L, 2), as published those of the first frame
        states, boxes = [], []
        for layer, box_embed in zip(self.layers, self.box_embed, strict=True):
            scale = ratios.repeat(1, 1, 1, reference_points.shape[-1] // 2)[:, :, None]  # (B, 1, 1, L, 2 or 4)
            queries = layer(queries, query_positions, reference_points[:, :, :, None] * scale, levels, others)
            states.append(queries)
            boxes.append(refined_boxes(reference_points, box_embed(queries)))
            reference_points = boxes[-1] if self.config.box_gradient_propagation else boxes[-1].detach()
        return DevisDecoderOutput(
            last_hidden_state=queries, query_states=torch.stack(states), boxes=torch.stack(boxes)
        )


class DevisModel(DevisPreTrainedModel):
    """Backbone, projection, encoder and decoder: a video in, queries of every instance in every frame out."""

    def __init__(self, config: DevisConfig):
        super().__init__(config)
        self.backbone = VisBackbone(config, strides=(4, 8, 16, 32))
        self.input_projection = InputProjection(self.backbone.channels[1:], config.d_model, config.num_feature_levels)
        self.level_embed = nn.Parameter(torch.empty(config.num_feature_levels, config.d_model))
        self.temporal_embed = nn.Parameter(torch.empty(config.num_frames, config.d_model))
        self.encoder = DevisEncoder(config)
        self.query_embed = nn.Embedding(config.num_frames * config.num_queries, 2 * config.d_model)  # frame by frame
        self.reference_points = nn.Linear(config.d_model, 2)
        self.decoder = DevisDecoder(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DevisModelOutput:
        """
        Args:
            pixel_values_videos: `(B, F, 3, H, W)` normalised RGB frames.
            pixel_mask: `(B, F, H, W)`, 1 = real pixel. Real pixels start at the top left corner; a frame without any
                is temporal padding.

        Raises:
            ValueError: for another rank or other channels than above, a mask of another size, or a video of more
                frames than the model knows.
        """
        kwargs["return_dict"] = True
        pixel_mask = check_video(pixel_values_videos, pixel_mask)
        frames, places = clip_of_frames(pixel_mask.flatten(2).any(2), self.config.num_frames, mirrored=True)
        finest, levels = self.feature_levels(pixel_values_videos, pixel_mask, frames)
        encoded = self.encoder(levels, **kwargs)
        levels = levels._replace(features=encoded.last_hidden_state, positions=None)
        decoded = self.decoder(*self.queries(len(pixel_values_videos)), levels, **kwargs)
        return DevisModelOutput(
            last_hidden_state=take(decoded.last_hidden_state, places).transpose(1, 2),
            encoder_last_hidden_state=take(levels.features, places),
            query_states=[take(states, places) for states in decoded.query_states],
            boxes=[take(boxes, places) for boxes in decoded.boxes],
            feature_mask=take(levels.mask, places),
            spatial_shapes=levels.spatial_shapes,
            finest_map=finest,
            frame_sizes=frame_sizes_of(pixel_mask),
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            encoder_hidden_states=encoded.hidden_states,
        )

    def feature_levels(
        self, pixel_values_videos: torch.Tensor, pixel_mask: torch.Tensor, frames: torch.Tensor
    ) -> tuple[torch.Tensor, FeatureLevels]:
        """The backbone's map of stride 4, of the frames given, and the levels of the model's `frames (B, T)`."""

        def project(frames):
            finest, *maps = self.backbone(frames)
            return [finest, *self.input_projection(maps)]

        videos = pixel_values_videos.flatten(0, 1).to(self.dtype)
        finest, *maps = in_frame_chunks(project, BACKBONE_FRAMES, videos)
        maps = [take(level.unflatten(0, (len(frames), -1)), frames).flatten(0, 1) for level in maps]
        levels = FeatureLevels.of(maps, take(pixel_mask, frames), self.level_embed, offset=0.0)
        return finest, levels._replace(positions=levels.positions + self.temporal_embed[:, None])

    def queries(self, B: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries and their positions `(B, T, Q, C)`, and where they look first, `(B, T, Q, 2)`."""
        embedding = self.query_embed.weight.unflatten(0, (self.config.num_frames, -1)).expand(B, -1, -1, -1)
        positions, queries = embedding.chunk(2, dim=-1)
        return queries, positions, self.reference_points(positions).float().sigmoid()


class DevisForVideoInstanceSegmentation(DevisPreTrainedModel):
    """DeVIS with class, box and mask heads."""

    def __init__(self, config: DevisConfig):
        super().__init__(config)
        C, M = config.d_model, config.encoder_attention_heads
        self.model = DevisModel(config)
        self.class_embed = nn.ModuleList(nn.Linear(C, config.num_labels) for _ in range(config.decoder_layers))
        self.attention_maps = nn.ModuleList(AttentionMap(C, M) for _ in range(MASK_LEVELS))  # coarse to fine
        channels = (C, C, self.model.backbone.channels[0])
        kind = ModulatedDeformableConv2d
        self.mask_head = FpnMaskHead(C, MASK_LEVELS * (M,), channels, kind, kind)
        self.mask_output = kind(self.mask_head.channels, 1)
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
            labels: one dict per video, as of every model: `class_labels (n,)` in `[0, K)`, `boxes (n, F, 4)`,
                `masks (n, F, H, W)` and `valid (n, F)`.
            mask_top_k: compute masks only for the queries of the k best classes.

        Raises:
            ValueError: for wrong shapes, a video of more frames than the model knows, labels out of range or not
                fitting the video, or a `mask_top_k` below 1.
            TypeError: for labels that are no tensors.
        """
        kwargs["return_dict"] = True
        outputs = self.model(pixel_values_videos, pixel_mask, **kwargs)
        layers = self.predict_classes_and_boxes(outputs)
        best, masks, matched = best_queries(layers[-1]["logits"], mask_top_k), None, {}
        if labels is not None:
            check_labels(labels, pixel_values_videos.shape, self.config.num_labels)
            matched = self.compute_loss(outputs, layers, labels)
        if labels is None or not self.training or mask_top_k is not None:
            every = torch.arange(self.config.num_queries, device=self.device).expand(len(pixel_values_videos), -1)
            masks = torch.stack(self.predict_masks(outputs, -1, every if best is None else best))
        return VideoInstanceSegmentationOutput.of_layers(
            outputs, layers, **matched, pred_masks=masks, mask_query_indices=best
        )

    def predict_classes_and_boxes(self, outputs: DevisModelOutput) -> list[dict[str, torch.Tensor]]:
        """`frame_logits (B, F, Q, K)`, `logits (B, Q, K)` and `pred_boxes (B, Q, F, 4)` after every layer."""
        layers, real = [], outputs.frame_sizes[..., 0] > 0
        for class_embed, states, boxes in zip(self.class_embed, outputs.query_states, outputs.boxes, strict=True):
            frame_logits = class_embed(states)
            wide = frame_logits.to(torch.promote_types(frame_logits.dtype, torch.float32))
            logits = mean_log_odds(wide.sigmoid(), real)
            layers.append({"frame_logits": frame_logits, "logits": logits, "pred_boxes": boxes.transpose(1, 2)})
        return layers

    def predict_masks(
        self, outputs: DevisModelOutput, layer: int, queries: list[torch.Tensor] | torch.Tensor
    ) -> list[torch.Tensor]:
        """Per video, mask logits `(k, F, h, w)` of its `queries (k,)` after a decoder layer."""
        maps = level_maps(outputs.encoder_last_hidden_state, outputs.spatial_shapes)[MASK_LEVELS - 1 :: -1]
        real = level_maps(outputs.feature_mask[..., None], outputs.spatial_shapes)[MASK_LEVELS - 1 :: -1]
        videos = zip(*(x.unflatten(0, (len(queries), -1)) for x in (*maps, *real, outputs.finest_map)), strict=True)
        states = (states[:, chosen] for states, chosen in zip(outputs.query_states[layer], queries, strict=True))
        masks = [
            in_frame_chunks(self.frame_masks, MASK_FRAMES, states_of_video, *video)
            for states_of_video, video in zip(states, videos, strict=True)
        ]
        return [of_video.transpose(0, 1) for of_video in masks]

    def frame_masks(self, states: torch.Tensor, *maps: torch.Tensor) -> torch.Tensor:
        """
        Mask logits `(N, k, h, w)` at stride 4 of k queries in each of N frames, with the queries `states (N, k, C)`;
        `maps` of the frames, coarse to fine: features `(N, C, h_l, w_l)`, real pixels `(N, 1, h_l, w_l)`, and the
        backbone's of stride 4.
        """
        features, real, finest = maps[:MASK_LEVELS], maps[MASK_LEVELS:-1], maps[-1]
        levels = zip(self.attention_maps, features, real, strict=True)
        attention_maps = [attend(states, level, mask[:, 0]) for attend, level, mask in levels]
        result = self.mask_head(features[0], attention_maps, [*features[1:], finest])  # (N, k, D, h, w)
        return self.mask_output(result.flatten(0, 1)).unflatten(0, result.shape[:2]).squeeze(2)

    @torch.compiler.disable  # as many instances as a batch has
    def compute_loss(self, outputs: DevisModelOutput, layers: list[dict], labels: list[dict]) -> dict:
        """
        Match every decoder layer's queries to the labels, compute the masks of those of the layers that have mask
        losses, apply the losses. Returns `loss` and `loss_dict`, in training also `matches` and `matched_masks` of the
        last layer.
        """
        last = len(layers) - 1
        with_masks = {last, *(layer for layer in self.config.auxiliary_mask_layers if 0 <= layer < last)}
        numbers = range(len(layers)) if self.config.auxiliary_loss else [last]
        frame_logits, boxes = ([layers[i][name] for i in numbers] for name in ("frame_logits", "pred_boxes"))
        matches = [
            match_instances(*layer, labels, outputs.frame_sizes, self.config)
            for layer in zip(frame_logits, boxes, strict=True)
        ]
        masks = [
            self.matched_masks(outputs, layer, match) if layer in with_masks else None
            for layer, match in zip(numbers, matches, strict=True)
        ]
        loss, loss_dict = self.loss_function(
            frame_logits=frame_logits,
            boxes=boxes,
            masks=masks,
            matches=matches,
            labels=labels,
            frame_sizes=outputs.frame_sizes,
            config=self.config,
        )
        in_training = {"matches": matches[-1], "matched_masks": masks[-1]} if self.training else {}
        return {"loss": loss, "loss_dict": loss_dict, **in_training}

    def matched_masks(self, outputs: DevisModelOutput, layer: int, match: list) -> torch.Tensor:
        """
        Mask logits `(N, F, h, w)` of the matched queries after a layer, video by video. Without a match those of one
        query are computed and cut off, so that all weights get gradients on all processes.
        """
        queries = [query for query, _ in match]
        masks = self.predict_masks(outputs, layer, [query if len(query) else query.new_zeros(1) for query in queries])
        return torch.cat([of_video[: len(query)] for of_video, query in zip(masks, queries, strict=True)])


__all__ = ["DevisForVideoInstanceSegmentation", "DevisModel", "DevisPreTrainedModel"]
