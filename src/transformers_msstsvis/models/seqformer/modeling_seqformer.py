"""SeqFormer: video instance segmentation by instance queries that look at every frame and gather over time what they
found (ECCV 2022). The trunk of MS-STS VIS, and what its published code runs.

Letters: B videos, T frames, Q queries, L levels, S pixels over all levels, C channels, K labels, D decoder layers.
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
from ...layers.backbone import VisBackbone
from ...layers.box_refinement import BoxHeads, refined_boxes
from ...layers.deformable_attention import DeformableAttention
from ...layers.feature_levels import FeatureLevels, InputProjection, level_maps
from ...layers.feed_forward import MLP, FeedForward
from ...layers.linear import in_autocast_dtype
from ...losses.common import check_labels, flatten_matches
from ...recomputation import made_again, recomputed
from ..vis.modeling_vis import (
    BACKBONE_FRAMES,
    VideoInstanceSegmentationOutput,
    VisPreTrainedModel,
    best_queries,
    check_video,
    frame_sizes_of,
    in_frame_chunks,
)
from .configuration_seqformer import SeqFormerConfig
from .dynamic_mask_head import MaskFeaturePyramid, dynamic_masks, num_dynamic_parameters
from .loss_seqformer import match_instances

ATTENTION_FRAMES = {"cpu": 1}


@dataclass
class SeqFormerDecoderOutput(ModelOutput):
    """
    Output of [`SeqFormerDecoder`].

    Args:
        last_hidden_state: `(B, Q, C)` instance queries after the last layer.
        instance_queries: `(D, B, Q, C)` instance queries after every layer.
        box_queries: `(D, B, T, Q, C)` box queries after every layer.
        boxes: `(D, B, T, Q, 4)` boxes of every layer, cx cy w h in `[0, 1]` of the real pixels.
        reference_points: D tensors `(B, T, Q, 2 or 4)`, what every layer started from.
    """

    last_hidden_state: torch.FloatTensor | None = None
    instance_queries: torch.FloatTensor | None = None
    box_queries: torch.FloatTensor | None = None
    boxes: torch.FloatTensor | None = None
    reference_points: tuple[torch.FloatTensor, ...] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class SeqFormerModelOutput(ModelOutput):
    """
    Output of [`SeqFormerModel`].

    Args:
        last_hidden_state: `(B, Q, C)` instance queries after the last decoder layer.
        encoder_last_hidden_state: `(B, T, S, C)` encoder features.
        instance_queries, box_queries, boxes, reference_points: see [`SeqFormerDecoderOutput`].
        spatial_shapes: `(height, width)` of every feature level.
        frame_sizes: `(B, T, 2)` height and width of the real pixels of every frame; zero for padding frames.
        decoder_hidden_states, decoder_attentions: instance queries and their self-attention weights per decoder layer.
        encoder_hidden_states: features per encoder layer, `(B, T, S, C)`.
    """

    last_hidden_state: torch.FloatTensor | None = None
    encoder_last_hidden_state: torch.FloatTensor | None = None
    instance_queries: torch.FloatTensor | None = None
    box_queries: torch.FloatTensor | None = None
    boxes: torch.FloatTensor | None = None
    reference_points: tuple[torch.FloatTensor, ...] | None = None
    spatial_shapes: list | None = None
    frame_sizes: torch.LongTensor | None = None
    decoder_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    decoder_attentions: tuple[torch.FloatTensor, ...] | None = None
    encoder_hidden_states: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class SeqFormerForVideoInstanceSegmentationOutput(VideoInstanceSegmentationOutput):
    """
    Output of [`SeqFormerForVideoInstanceSegmentation`]: that of every model, and

    Args:
        spatial_shapes: `(height, width)` of every level of the encoder features, in training with labels.
    """

    spatial_shapes: list | None = None


class SeqFormerEncoderLayer(GradientCheckpointingLayer):
    """Deformable self-attention within each frame, then a feed-forward network."""

    def __init__(self, config: SeqFormerConfig):
        super().__init__()
        self.self_attn = DeformableAttention(
            config.d_model, config.encoder_attention_heads, config.num_feature_levels, config.encoder_n_points
        )
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.d_model)
        self.feed_forward = FeedForward(
            config.d_model, config.encoder_ffn_dim, config.dropout, config.activation_function
        )

    def forward(
        self,
        hidden_states: torch.Tensor,
        positions: torch.Tensor,
        reference_points: torch.Tensor,
        levels: FeatureLevels,
    ) -> torch.Tensor:
        """`hidden_states, positions (B, T, S, C)`, `reference_points (B, T, S, L, 2)`, mask and shapes of `levels`."""
        frames = [tensor.flatten(0, 1) for tensor in (hidden_states, positions, reference_points, levels.mask)]
        over_time = self.attend_over_time(hidden_states, levels)
        if over_time is not None:
            frames.append(over_time.flatten(0, 1))

        again = self.gradient_checkpointing  # all of this is

        def at_positions(hidden_states, positions):
            return in_autocast_dtype(hidden_states + positions)

        def update(hidden_states, positions, reference_points, feature_mask, over_time=None):
            with made_again(at_positions, hidden_states, positions, unless=again) as query:
                attended = self.self_attn(query, reference_points, hidden_states, feature_mask, levels.spatial_shapes)
            attended = attended if over_time is None else attended + over_time
            with made_again(self.norm, hidden_states + self.dropout(attended), unless=again) as normed:
                return self.feed_forward(normed)

        return in_frame_chunks(update, ATTENTION_FRAMES, *frames, in_training=True).view_as(hidden_states)

    def attend_over_time(self, hidden_states: torch.Tensor, levels: FeatureLevels) -> torch.Tensor | None:
        """What the frames tell each other, `(B, T, S, C)`, added to the attention: nothing in SeqFormer."""
        return None


class SeqFormerDecoderLayer(GradientCheckpointingLayer):
    """
    Instance queries know the video, box queries know one frame each: box queries look at their frame, and instance
    queries gather over time what they found (SeqFormer, section 3).
    """

    def __init__(self, config: SeqFormerConfig):
        super().__init__()
        C, heads, dropout = config.d_model, config.decoder_attention_heads, config.attention_dropout
        self.self_attn = VisAttention(config, C, heads, dropout=dropout)
        self.self_attn_norm = nn.LayerNorm(C)
        self.box_self_attn = VisAttention(config, C, heads, dropout=dropout)
        self.box_self_attn_norm = nn.LayerNorm(C)
        self.cross_attn = DeformableAttention(C, heads, config.num_feature_levels, config.decoder_n_points)
        self.box_output_proj = nn.Linear(C, C)
        self.cross_attn_norm = nn.LayerNorm(C)
        self.box_cross_attn_norm = nn.LayerNorm(C)
        self.time_weights = nn.Linear(C, 1)
        self.feed_forward = FeedForward(C, config.decoder_ffn_dim, config.dropout, config.activation_function)
        self.box_feed_forward = FeedForward(C, config.decoder_ffn_dim, config.dropout, config.activation_function)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        instance_queries: torch.Tensor,
        box_queries: torch.Tensor,
        query_positions: torch.Tensor,
        reference_points: torch.Tensor,
        features: torch.Tensor,
        levels: FeatureLevels,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        `instance_queries, query_positions (B, Q, C)`, `box_queries (B, T, Q, C)`, `reference_points
        (B, T, Q, L, 2 or 4)`, `features (B, T, S, C)`, mask and shapes of `levels` to new instance and box queries.
        """
        frame_mask = levels.mask.any(-1)  # (B, T)
        box_positions = query_positions[:, None].expand_as(box_queries)

        attended, _ = self.self_attn(instance_queries, query_positions)
        instance_queries = self.self_attn_norm(instance_queries + self.dropout(attended))
        attended, _ = self.box_self_attn(box_queries.flatten(0, 1), box_positions.flatten(0, 1))
        box_queries = self.box_self_attn_norm(box_queries + self.dropout(attended.view_as(box_queries)))
        box_queries = self.attend_over_time(box_queries, frame_mask)

        frames = [tensor.flatten(0, 1) for tensor in (box_queries + box_positions, reference_points, features)]
        sampled = in_frame_chunks(
            lambda *chunk: self.cross_attn.sample(*chunk, levels.spatial_shapes),
            ATTENTION_FRAMES,
            *frames,
            levels.mask.flatten(0, 1),
            in_training=True,
        ).view_as(box_queries)
        box_queries = self.box_cross_attn_norm(box_queries + self.dropout(self.box_output_proj(sampled)))
        box_queries = self.box_feed_forward(box_queries)

        weights = self.time_weights(box_queries)  # (B, T, Q, 1)
        weights = weights.masked_fill(~frame_mask[:, :, None, None], torch.finfo(weights.dtype).min).softmax(dim=1)
        gathered = (self.cross_attn.output_proj(sampled) * weights).sum(dim=1)  # (B, Q, C)
        instance_queries = self.cross_attn_norm(instance_queries + self.dropout(gathered))
        return self.feed_forward(instance_queries), box_queries

    def attend_over_time(self, box_queries: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        """Box queries `(B, T, Q, C)` that know of those of other frames: the same in SeqFormer."""
        return box_queries


class SeqFormerPreTrainedModel(VisPreTrainedModel):
    config: SeqFormerConfig
    _no_split_modules = ["SeqFormerEncoderLayer", "SeqFormerDecoderLayer"]

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, MaskFeaturePyramid):
            for convolution in (*module.fusions, *module.reductions):
                init.kaiming_uniform_(convolution.weight, a=1)
                init.zeros_(convolution.bias)
        elif isinstance(module, SeqFormerModel):
            init.normal_(module.level_embed)
            init.normal_(module.query_embed.weight)
        elif isinstance(module, SeqFormerForVideoInstanceSegmentation):
            for class_head in module.class_embed:
                init.constant_(class_head.bias, -math.log((1 - 0.01) / 0.01))  # focal prior: 1% of queries match


class SeqFormerEncoder(SeqFormerPreTrainedModel):
    """Encoder layers over the flattened feature levels of all frames."""

    layer_class = SeqFormerEncoderLayer
    _can_record_outputs = {"hidden_states": SeqFormerEncoderLayer}

    def __init__(self, config: SeqFormerConfig):
        super().__init__(config)
        self.layers = nn.ModuleList(self.layer_class(config) for _ in range(config.encoder_layers))
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(self, levels: FeatureLevels, **kwargs: Unpack[TransformersKwargs]) -> BaseModelOutput:
        """The features of `levels` after all layers: `(B, T, S, C)`."""
        hidden_states = levels.features
        reference_points = levels.pixel_centres()
        for layer in self.layers:
            hidden_states = layer(hidden_states, levels.positions, reference_points, levels)
        return BaseModelOutput(last_hidden_state=hidden_states)


class SeqFormerDecoder(SeqFormerPreTrainedModel):
    """Decoder layers with iterative box refinement in every frame."""

    layer_class = SeqFormerDecoderLayer
    _can_record_outputs = {
        "hidden_states": OutputRecorder(SeqFormerDecoderLayer, index=0),
        "attentions": OutputRecorder(VisAttention, layer_name=".self_attn", index=1),
    }

    def __init__(self, config: SeqFormerConfig):
        super().__init__(config)
        self.layers = nn.ModuleList(self.layer_class(config) for _ in range(config.decoder_layers))
        self.box_embed = BoxHeads(config.d_model, config.decoder_layers)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        instance_queries: torch.Tensor,
        query_positions: torch.Tensor,
        reference_points: torch.Tensor,
        levels: FeatureLevels,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SeqFormerDecoderOutput:
        """
        Args:
            instance_queries, query_positions: `(B, Q, C)`.
            reference_points: `(B, T, Q, 2)` first centres in `[0, 1]` of the real pixels.
            levels: the encoder's features, with their mask, ratios and shapes.
        """
        box_queries = instance_queries[:, None].expand(-1, reference_points.shape[1], -1, -1)  # (B, T, Q, C)
        instances, boxes_of, references, boxes = [], [], [], []
        for layer, box_embed in zip(self.layers, self.box_embed, strict=True):
            scale = levels.valid_ratios.repeat(1, 1, 1, reference_points.shape[-1] // 2)  # (B, T, L, 2 or 4)
            instance_queries, box_queries = layer(
                instance_queries,
                box_queries,
                query_positions,
                reference_points[:, :, :, None] * scale[:, :, None],
                levels.features,
                levels,
            )
            instances.append(instance_queries)
            boxes_of.append(box_queries)
            references.append(reference_points)
            boxes.append(refined_boxes(reference_points, box_embed(box_queries)))  # (B, T, Q, 4)
            reference_points = boxes[-1].detach()
        return SeqFormerDecoderOutput(
            last_hidden_state=instance_queries,
            instance_queries=torch.stack(instances),
            box_queries=torch.stack(boxes_of),
            boxes=torch.stack(boxes),
            reference_points=tuple(references),
        )


class SeqFormerModel(SeqFormerPreTrainedModel):
    """Backbone, projection, encoder and decoder: a video in, instance queries and their boxes in every frame out."""

    encoder_class = SeqFormerEncoder
    decoder_class = SeqFormerDecoder

    def __init__(self, config: SeqFormerConfig):
        super().__init__(config)
        self.backbone = VisBackbone(config)
        self.input_projection = InputProjection(self.backbone.channels, config.d_model, config.num_feature_levels)
        self.level_embed = nn.Parameter(torch.empty(config.num_feature_levels, config.d_model))
        self.encoder = self.encoder_class(config)
        self.query_embed = nn.Embedding(config.num_queries, 2 * config.d_model)
        self.reference_points = nn.Linear(config.d_model, 2)
        self.decoder = self.decoder_class(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SeqFormerModelOutput:
        """
        Args:
            pixel_values_videos: `(B, T, 3, H, W)` normalised RGB frames.
            pixel_mask: `(B, T, H, W)`, 1 = real pixel. Real pixels start at the top left corner; a frame without any
                is temporal padding.

        Raises:
            ValueError: for another rank or other channels than above, or a mask of another size.
        """
        kwargs["return_dict"] = True
        pixel_mask = check_video(pixel_values_videos, pixel_mask)
        levels = self.feature_levels(pixel_values_videos, pixel_mask)
        encoded = self.encoder(levels, **kwargs)
        levels = levels._replace(features=encoded.last_hidden_state, positions=None)
        decoded = self.decoder(*self.queries(*pixel_values_videos.shape[:2]), levels, **kwargs)
        return SeqFormerModelOutput(
            last_hidden_state=decoded.last_hidden_state,
            encoder_last_hidden_state=levels.features,
            spatial_shapes=levels.spatial_shapes,
            instance_queries=decoded.instance_queries,
            box_queries=decoded.box_queries,
            boxes=decoded.boxes,
            reference_points=decoded.reference_points,
            frame_sizes=frame_sizes_of(pixel_mask),
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            encoder_hidden_states=encoded.hidden_states,
        )

    def feature_levels(self, pixel_values_videos: torch.Tensor, pixel_mask: torch.Tensor) -> FeatureLevels:
        """Backbone and projection, frame by frame."""
        maps = in_frame_chunks(
            lambda frames: self.input_projection(self.backbone(frames)),
            BACKBONE_FRAMES,
            pixel_values_videos.flatten(0, 1).to(self.dtype),
        )
        return FeatureLevels.of(maps, pixel_mask, self.level_embed)

    def queries(self, B: int, T: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Instance queries and their positions `(B, Q, C)`, and where they look first, `(B, T, Q, 2)`."""
        positions, queries = self.query_embed.weight.expand(B, -1, -1).chunk(2, dim=-1)  # (B, Q, C) each
        centres = self.reference_points(positions).float().sigmoid()[:, None].expand(-1, T, -1, -1)
        return queries, positions, centres


class SeqFormerForVideoInstanceSegmentation(SeqFormerPreTrainedModel):
    """SeqFormer with class, box and mask heads."""

    base_model_class = SeqFormerModel

    def __init__(self, config: SeqFormerConfig):
        super().__init__(config)
        self.model = self.base_model_class(config)
        self.class_embed = nn.ModuleList(
            nn.Linear(config.d_model, config.num_labels) for _ in range(config.decoder_layers)
        )
        self.mask_features = MaskFeaturePyramid(config.d_model, config.mask_feature_channels)
        num_parameters = num_dynamic_parameters(config.mask_feature_channels, config.mask_channels, config.mask_layers)
        self.controller = MLP(config.d_model, config.d_model, num_parameters, num_layers=3)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        labels: list[dict[str, torch.Tensor]] | None = None,
        mask_top_k: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SeqFormerForVideoInstanceSegmentationOutput:
        """
        Args:
            pixel_values_videos: `(B, T, 3, H, W)` normalised RGB frames.
            pixel_mask: `(B, T, H, W)`, 1 = real pixel; a frame without any is temporal padding.
            labels: one dict per video: `class_labels (n,)` in `[0, K)`, `boxes (n, T, 4)` cx cy w h in `[0, 1]` of the
                real pixels, `masks (n, T, H, W)` bool, `valid (n, T)` bool, present in the frame; what the others say
                of other frames is ignored.
            mask_top_k: compute masks only for the queries of the k best classes.

        Raises:
            ValueError: for wrong shapes, labels out of range or not fitting the video, or a `mask_top_k` below 1.
            TypeError: for labels that are no tensors.
        """
        kwargs["return_dict"] = True
        outputs = self.model(pixel_values_videos, pixel_mask, **kwargs)
        logits = [head(states) for head, states in zip(self.class_embed, outputs.instance_queries, strict=True)]
        boxes = outputs.boxes.transpose(2, 3)  # (D, B, Q, T, 4)
        features = self.predict_mask_features(outputs)

        losses = {}
        if labels is not None:
            check_labels(labels, pixel_values_videos.shape, self.config.num_labels)
            losses = self.compute_loss(outputs, logits, boxes, features, labels)
        queries = best_queries(logits[-1], mask_top_k)
        wanted = labels is None or not self.training or mask_top_k is not None
        return SeqFormerForVideoInstanceSegmentationOutput(
            **losses,
            logits=logits[-1],
            pred_boxes=boxes[-1],
            pred_masks=self.predict_masks(outputs, features, -1, queries) if wanted else None,
            mask_query_indices=queries,
            frame_sizes=outputs.frame_sizes,
            auxiliary_outputs=[{"logits": a, "pred_boxes": b} for a, b in zip(logits[:-1], boxes[:-1], strict=True)],
            last_hidden_state=outputs.last_hidden_state,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            decoder_hidden_states=outputs.decoder_hidden_states,
            decoder_attentions=outputs.decoder_attentions,
            encoder_hidden_states=outputs.encoder_hidden_states,
        )

    def predict_mask_features(self, outputs: SeqFormerModelOutput) -> torch.Tensor:
        """Encoder features of strides 8, 16 and 32 to mask features `(B, T, D, h, w)` at stride 8."""
        memory = outputs.encoder_last_hidden_state
        return self.mask_features(level_maps(memory, outputs.spatial_shapes)[:3]).unflatten(0, memory.shape[:2])

    def predict_masks(
        self, outputs: SeqFormerModelOutput, features: torch.Tensor, layer: int, queries: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mask logits `(B, k, T, 2h, 2w)` of `queries (B, k)` (all when None) after a decoder layer."""
        states = outputs.instance_queries[layer]  # (B, Q, C)
        centres = outputs.reference_points[layer][..., :2]  # (B, T, Q, 2)
        if queries is not None:
            states = states.gather(1, queries[..., None].expand(-1, -1, states.shape[-1]))
            index = queries[:, None, :, None].expand(-1, centres.shape[1], -1, 2)
            centres = centres.gather(2, index)
        return self.dynamic_masks(states, centres, outputs.frame_sizes, features)

    def dynamic_masks(self, states, centres, frame_sizes, features) -> torch.Tensor:
        """Queries `(N, k, C)` and centres `(N, T, k, 2)` on features `(N, T, D, h, w)`: `(N, k, T, 2h, 2w)`."""
        pixels = centres * frame_sizes[:, :, None].flip(-1)  # xy in input pixels
        config = self.config
        return dynamic_masks(features, self.controller(states), pixels, config.mask_channels, config.mask_layers)

    def masks_of_matched(self, states, centres, frame_sizes, features, video) -> torch.Tensor:
        """Mask logits `(N, T, 2h, 2w)` of `states (N, 1, C)`, `centres (N, T, 1, 2)` on the features of `video`."""
        return self.dynamic_masks(states, centres, frame_sizes[video], features[video])[:, 0]

    @torch.compiler.disable  # as many instances as a batch has
    def compute_loss(self, outputs, logits, boxes, features, labels) -> dict:
        """
        Match every decoder layer's queries to the labels, compute the masks of the matched ones, apply the losses.
        Returns `loss` and `loss_dict`, and in training matches, masks and shapes of the last layer.
        """
        frame_mask = outputs.frame_sizes[..., 0] > 0  # (B, T)
        layers = list(range(len(logits))) if self.config.auxiliary_loss else [len(logits) - 1]
        matches, masks = [], []
        for layer in layers:
            match = match_instances(logits[layer], boxes[layer], labels, frame_mask, self.config)
            video, query, _ = flatten_matches(match)
            states = outputs.instance_queries[layer][video, query][:, None]  # (N, 1, C)
            centres = outputs.reference_points[layer][video, :, query, None, :2]  # (N, T, 1, 2)
            predicted = recomputed(self.masks_of_matched, states, centres, outputs.frame_sizes, features, video)
            matches.append(match)
            masks.append(predicted)  # (N, T, 2h, 2w)
        loss, loss_dict = self.loss_function(
            logits=[logits[layer] for layer in layers],
            boxes=[boxes[layer] for layer in layers],
            masks=masks,
            matches=matches,
            labels=labels,
            frame_mask=frame_mask,
            config=self.config,
        )
        losses = {"loss": loss, "loss_dict": loss_dict}
        if self.training:
            shapes = outputs.spatial_shapes
            losses |= {"matches": matches[-1], "matched_masks": masks[-1], "spatial_shapes": shapes}
        return losses


__all__ = ["SeqFormerForVideoInstanceSegmentation", "SeqFormerModel", "SeqFormerPreTrainedModel"]
