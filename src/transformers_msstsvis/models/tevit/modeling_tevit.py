"""TeViT: queries that look into the boxes of their instance, frame by frame and over time (2022).

Letters: B videos, T frames, N = B T frames of all videos, Q queries, R boxes, P pairs of a query and a class that get
masks, S pixels over all levels, C channels, K labels.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.image_transforms import center_to_corners_format, corners_to_center_format
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ...layers.attention import VisAttention
from ...layers.backbone import VisBackbone
from ...layers.feature_pyramid import FeaturePyramid
from ...layers.feed_forward import FeedForward
from ...layers.linear import Linear
from ...layers.region_features import region_features
from ...losses.common import check_labels, flatten_matches
from ..vis.modeling_vis import (
    BACKBONE_FRAMES,
    VideoInstanceSegmentationOutput,
    VisPreTrainedModel,
    check_video,
    frame_sizes_of,
    in_frame_chunks,
    mean_log_odds,
)
from .configuration_tevit import TevitConfig
from .loss_tevit import match_instances, present_instances
from .messenger_backbone_tevit import MessengerBackbone

STAGE_FRAMES = {"cpu": 1}
MASK_FRAMES = {"cpu": 2}
BOX_CELLS, MASK_CELLS = 7, 14  # of a side of a box, that its queries and its masks look at
MASKS = 10  # pairs of a query and a class that get masks in inference
LARGEST_STEP = abs(math.log(16 / 1000))  # of a box, from one stage to the next: to 62.5 times the size


@dataclass
class TevitDecoderOutput(ModelOutput):
    """
    Output of [`TevitDecoder`].

    Args:
        last_hidden_state: `(B, T, Q, C)` queries after the last stage.
        query_states: per stage `(B, T, Q, C)` queries after it.
        attended_states: per stage `(B, T, Q, C)` queries after its attention, which its masks are made of.
        boxes: per stage `(B, T, Q, 4)` float32 corners in pixels.
    """

    last_hidden_state: torch.FloatTensor | None = None
    query_states: list[torch.FloatTensor] | None = None
    attended_states: list[torch.FloatTensor] | None = None
    boxes: list[torch.FloatTensor] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class TevitModelOutput(ModelOutput):
    """
    Output of [`TevitModel`].

    Args:
        last_hidden_state: `(B, Q, T, C)` queries after the last stage.
        query_states, attended_states, boxes: per stage, see [`TevitDecoderOutput`].
        features: `(N, S, C)` of the feature pyramid, levels finest first.
        spatial_shapes: `(height, width)` of every level.
        frame_sizes: `(B, T, 2)` height and width of the real pixels of every frame; zero for padding frames.
        encoder_last_hidden_state, encoder_hidden_states: None.
        decoder_hidden_states, decoder_attentions: queries and their self-attention weights per stage.
    """

    last_hidden_state: torch.FloatTensor | None = None
    encoder_last_hidden_state: torch.FloatTensor | None = None
    query_states: list[torch.FloatTensor] | None = None
    attended_states: list[torch.FloatTensor] | None = None
    boxes: list[torch.FloatTensor] | None = None
    features: torch.FloatTensor | None = None
    spatial_shapes: list | None = None
    frame_sizes: torch.LongTensor | None = None
    decoder_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    decoder_attentions: tuple[torch.FloatTensor, ...] | None = None
    encoder_hidden_states: tuple[torch.FloatTensor, ...] | None = None


class DynamicConv(nn.Module):
    """Two 1x1 convolutions whose weights a query makes for its own box."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.shapes = (channels, inner), (inner, channels)
        self.dynamic_layer = Linear(channels, 2 * channels * inner)
        self.norm_in = nn.LayerNorm(inner)
        self.norm_out = nn.LayerNorm(channels)

    def forward(self, queries: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        """`queries (R, C)` and the cells of their boxes, `regions (R, P, C)`, to `(R, P, C)`."""
        halves = self.dynamic_layer(queries).chunk(2, dim=-1)
        first, second = (half.unflatten(-1, shape) for half, shape in zip(halves, self.shapes, strict=True))
        regions = self.norm_in(regions @ first).relu_()
        return self.norm_out(regions @ second).relu_()


class PredictionHead(nn.ModuleList):
    """`num_layers` linear layers with layer norm and ReLU, and a linear layer: `(..., C)` to `(..., outputs)`."""

    def __init__(self, channels: int, outputs: int, num_layers: int):
        super().__init__()
        for _ in range(num_layers):
            self.extend([Linear(channels, channels, bias=False), nn.LayerNorm(channels), nn.ReLU(inplace=True)])
        self.append(Linear(channels, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self:
            x = layer(x)
        return x


class TevitStage(GradientCheckpointingLayer):
    """
    Queries attend to each other, then to themselves in the other frames, and read the boxes of their instances
    (spatio-temporal query interaction).
    """

    def __init__(self, config: TevitConfig):
        super().__init__()
        C = config.d_model
        self.self_attn = VisAttention(config, C, config.decoder_attention_heads)  # both attentions share it
        self.self_attn_norm = nn.LayerNorm(C)
        self.dynamic_conv = DynamicConv(C, config.dynamic_dim)
        self.projection = Linear(BOX_CELLS**2 * C, C)
        self.projection_norm = nn.LayerNorm(C)
        self.dynamic_conv_norm = nn.LayerNorm(C)
        self.feed_forward = FeedForward(C, config.decoder_ffn_dim)

    def forward(
        self,
        queries: torch.Tensor,
        boxes: torch.Tensor,
        features: torch.Tensor,
        spatial_shapes: list[tuple[int, int]],
        unseen: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """
        Args:
            queries: `(B, T, Q, C)`.
            boxes: `(B, T, Q, 4)` corners in pixels.
            features: `(N, S, C)`, levels finest first.
            spatial_shapes: `(height, width)` of every level.
            unseen: `(B, 1, 1, T)` additive mask that hides padding frames.

        Returns:
            The queries `(B, T, Q, C)` at the end and after attention, and from the eager implementation the weights
            `(N, M, Q, Q)` of the attention in a frame.
        """

        def read(queries, boxes, features):
            frames = torch.arange(queries.shape[0], device=queries.device).repeat_interleave(queries.shape[1])
            cells = region_features(features, spatial_shapes, boxes.flatten(0, 1), frames, BOX_CELLS)
            found = self.projection(self.dynamic_conv(queries.flatten(0, 1), cells).flatten(1))
            found = self.projection_norm(found).relu_().view_as(queries)
            return self.feed_forward(self.dynamic_conv_norm(queries + found))

        attended, weights = self.interact(queries, unseen)
        frames = attended.flatten(0, 1), boxes.detach().flatten(0, 1), features
        return in_frame_chunks(read, STAGE_FRAMES, *frames).view_as(queries), attended, weights

    def interact(self, queries: torch.Tensor, unseen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attention within every frame, then of every query over time."""
        B, T, Q, _ = queries.shape
        in_frame = queries.flatten(0, 1)
        attended, weights = self.self_attn(in_frame)
        in_frame = self.self_attn_norm(in_frame + attended)
        over_time = in_frame.unflatten(0, (B, T)).transpose(1, 2).flatten(0, 1)  # (B Q, T, C)
        attended, _ = self.self_attn(over_time, attention_mask=unseen.repeat_interleave(Q, dim=0))
        over_time = self.self_attn_norm(over_time + attended)
        return over_time.unflatten(0, (B, Q)).transpose(1, 2).contiguous(), weights


class TevitMaskHead(nn.Module):
    """Masks of 28x28 pixels of boxes, for every class."""

    def __init__(self, config: TevitConfig):
        super().__init__()
        C = config.d_model
        self.dynamic_conv = DynamicConv(C, config.dynamic_dim)
        self.convolutions = nn.ModuleList(nn.Conv2d(C, C, 3, padding=1, bias=False) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(C) for _ in self.convolutions)
        self.upsample = nn.ConvTranspose2d(C, C, 2, stride=2)
        self.output = nn.Conv2d(C, config.num_labels, 1)

    def init_layer_weights(self) -> None:
        for layer in (*self.convolutions, self.upsample, self.output):
            init.xavier_uniform_(layer.weight)
        for layer in (self.upsample, self.output):
            init.zeros_(layer.bias)

    def forward(self, queries: torch.Tensor, regions: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """
        Args:
            queries: `(R, C)` after attention.
            regions: `(R, 14 * 14, C)` cells of their boxes.
            classes: `(R,)` the class of each.

        Returns:
            `(R, 28, 28)` mask logits.
        """
        x = self.dynamic_conv(queries, regions).mT.unflatten(-1, (MASK_CELLS, -1))  # (R, C, 14, 14)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = norm(convolution(x)).relu_()
        x = self.upsample(x).relu_()
        weight, bias = self.output.weight[classes, :, 0, 0], self.output.bias[classes]
        return torch.einsum("rchw,rc->rhw", x, weight) + bias[:, None, None]


class TevitPreTrainedModel(VisPreTrainedModel):
    config: TevitConfig
    _no_split_modules = ["MessengerBlock", "TevitStage"]

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, TevitStage):
            for layer in (module.self_attn.q_proj, module.self_attn.k_proj, module.self_attn.v_proj):
                init.xavier_uniform_(layer.weight, gain=0.5**0.5)  # as of the three together
        elif isinstance(module, TevitModel):
            init.normal_(module.query_features.weight)
            init.copy_(
                module.query_boxes.weight, torch.tensor([0.5, 0.5, 1.0, 1.0]).expand(self.config.num_queries, 4)
            )
        elif isinstance(module, TevitForVideoInstanceSegmentation):
            for class_head in module.class_embed:
                init.constant_(class_head[-1].bias, -math.log((1 - 0.01) / 0.01))  # focal prior: 1% of queries match


def moved_boxes(boxes: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """
    Boxes `(..., 4)`, corners in pixels, moved by parts of their own size, `delta (..., 4)`; not clipped to the frame.
    """
    centre, size = corners_to_center_format(boxes).split(2, dim=-1)
    step, growth = delta.to(boxes.dtype).split(2, dim=-1)
    centre = centre + 0.5 * step * size
    size = size * growth.clamp(-LARGEST_STEP, LARGEST_STEP).exp()
    return center_to_corners_format(torch.cat((centre, size), dim=-1))


class TevitDecoder(TevitPreTrainedModel):
    """The stages of the head, each with the boxes of the one before."""

    _can_record_outputs = {"hidden_states": TevitStage, "attentions": OutputRecorder(TevitStage, index=2)}

    def __init__(self, config: TevitConfig):
        super().__init__(config)
        self.layers = nn.ModuleList(TevitStage(config) for _ in range(config.decoder_layers))
        self.box_embed = nn.ModuleList(PredictionHead(config.d_model, 4, num_layers=3) for _ in self.layers)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        queries: torch.Tensor,
        boxes: torch.Tensor,
        features: torch.Tensor,
        spatial_shapes: list[tuple[int, int]],
        unseen: torch.Tensor,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TevitDecoderOutput:
        """As of [`TevitStage`]."""
        states, attended_states, all_boxes = [], [], []
        for layer, box_embed in zip(self.layers, self.box_embed, strict=True):
            queries, attended, _ = layer(queries, boxes, features, spatial_shapes, unseen)
            boxes = moved_boxes(boxes, box_embed(queries))
            states.append(queries)
            attended_states.append(attended)
            all_boxes.append(boxes)
            boxes = boxes.detach()
        return TevitDecoderOutput(
            last_hidden_state=queries, query_states=states, attended_states=attended_states, boxes=all_boxes
        )


class TevitModel(TevitPreTrainedModel):
    """Backbone, feature pyramid and the stages of the head: a video in, queries and boxes of every frame out."""

    def __init__(self, config: TevitConfig):
        super().__init__(config)
        self.strides = (4, 8, 16, 32)
        self.backbone = MessengerBackbone(config) if config.num_messengers else VisBackbone(config, self.strides)
        self.feature_pyramid = FeaturePyramid(self.backbone.channels, config.d_model)
        self.query_boxes = nn.Embedding(config.num_queries, 4)  # cx cy w h of the real pixels
        self.query_features = nn.Embedding(config.num_queries, config.d_model)
        self.decoder = TevitDecoder(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TevitModelOutput:
        """
        Args:
            pixel_values_videos: `(B, T, 3, H, W)` normalised RGB frames, zero in the padding.
            pixel_mask: `(B, T, H, W)`, 1 = real pixel. Real pixels start at the top left corner; a frame without any
                is temporal padding.

        Raises:
            ValueError: for another rank or other channels than above, or a mask of another size.
        """
        kwargs["return_dict"] = True
        pixel_mask = check_video(pixel_values_videos, pixel_mask)
        frame_sizes = frame_sizes_of(pixel_mask)
        real = frame_sizes[..., 0] > 0
        real = real | ~real.any(1, keepdim=True)  # of a video without a frame, all
        features = self.feature_levels(pixel_values_videos.flatten(0, 1).to(self.dtype), real)
        spatial_shapes = [tuple(-(-side // stride) for side in pixel_mask.shape[2:]) for stride in self.strides]
        unseen = torch.zeros_like(real, dtype=self.dtype).masked_fill(~real, torch.finfo(self.dtype).min)
        decoded = self.decoder(*self.queries(frame_sizes), features, spatial_shapes, unseen[:, None, None], **kwargs)
        return TevitModelOutput(
            last_hidden_state=decoded.last_hidden_state.transpose(1, 2),
            query_states=decoded.query_states,
            attended_states=decoded.attended_states,
            boxes=decoded.boxes,
            features=features,
            spatial_shapes=spatial_shapes,
            frame_sizes=frame_sizes,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
        )

    def feature_levels(self, frames: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Features `(N, S, C)`, levels finest first, of `frames (N, 3, H, W)`; `real (B, T)`."""
        messengers = self.config.num_messengers > 0

        def levels(*given):
            maps = self.feature_pyramid(given if messengers else self.backbone(*given))
            return torch.cat([level.flatten(2).mT for level in maps], dim=1)

        return in_frame_chunks(levels, BACKBONE_FRAMES, *(self.backbone(frames, real) if messengers else (frames,)))

    def queries(self, frame_sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries `(B, T, Q, C)` and their boxes `(B, T, Q, 4)`, corners in pixels, the same in all frames."""
        queries, boxes = self.query_features.weight, self.query_boxes.weight
        boxes = center_to_corners_format(boxes.to(torch.promote_types(boxes.dtype, torch.float32)))
        sizes = frame_sizes.flip(-1).repeat(1, 1, 2)[:, :, None]  # (B, T, 1, 4) w h w h
        return queries.expand(*frame_sizes.shape[:2], -1, -1), boxes * sizes


def best_pairs(logits: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The pairs of a query and a class that get masks: of `logits (B, Q, K)` the best, both `(B, P)`, P at most Q K.

    Raises:
        ValueError: for a number below 1.
    """
    if number < 1:
        raise ValueError(f"mask_top_k is {number}; expected at least 1, or None for {MASKS}")
    pairs = logits.flatten(1).nan_to_num(nan=-math.inf)
    best = pairs.topk(min(number, pairs.shape[1]), dim=1).indices
    return best // logits.shape[-1], best % logits.shape[-1]


class TevitForVideoInstanceSegmentation(TevitPreTrainedModel):
    """TeViT with class and mask heads."""

    def __init__(self, config: TevitConfig):
        super().__init__(config)
        self.model = TevitModel(config)
        stages = range(config.decoder_layers)
        self.class_embed = nn.ModuleList(PredictionHead(config.d_model, config.num_labels, 1) for _ in stages)
        self.mask_heads = nn.ModuleList(TevitMaskHead(config) for _ in stages)
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
            pixel_values_videos: `(B, T, 3, H, W)` normalised RGB frames, zero in the padding.
            pixel_mask: `(B, T, H, W)`, 1 = real pixel; a frame without any is temporal padding.
            labels: one dict per video, as of every model: `class_labels (n,)` in `[0, K)`, `boxes (n, T, 4)`,
                `masks (n, T, H, W)` and `valid (n, T)`.
            mask_top_k: compute masks only for the k best pairs of a query and a class, 10 by default.

        Returns:
            `pred_masks (B, P, T, 28, 28)`: the logits of a mask lie in the box of its query in that frame, see
            [`~transformers_msstsvis.results.mask_pasting.pasted_mask`]; `mask_query_indices` and
            `mask_label_indices (B, P)` tell of what they are. `pred_boxes` may leave `[0, 1]`.

        Raises:
            ValueError: for wrong shapes, labels out of range or not fitting the video, or a `mask_top_k` below 1.
            TypeError: for labels that are no tensors.
        """
        kwargs["return_dict"] = True
        outputs = self.model(pixel_values_videos, pixel_mask, **kwargs)
        layers, fields = self.predict_classes_and_boxes(outputs), {}
        if labels is not None:
            check_labels(labels, pixel_values_videos.shape, self.config.num_labels)
            fields = self.compute_loss(outputs, layers, labels)
        if labels is None or not self.training or mask_top_k is not None:
            queries, classes = best_pairs(layers[-1]["logits"], MASKS if mask_top_k is None else mask_top_k)
            fields |= {"mask_query_indices": queries, "mask_label_indices": classes}
            fields["pred_masks"] = self.predict_masks(outputs, queries, classes)
        return VideoInstanceSegmentationOutput.of_layers(outputs, layers, **fields)

    def predict_classes_and_boxes(self, outputs: TevitModelOutput) -> list[dict[str, torch.Tensor]]:
        """`frame_logits (B, T, Q, K)`, `logits (B, Q, K)` and `pred_boxes (B, Q, T, 4)` after every stage."""
        layers, real = [], outputs.frame_sizes[..., 0] > 0
        sizes = outputs.frame_sizes.clamp(min=1).flip(-1).repeat(1, 1, 2)[:, :, None]  # (B, T, 1, 4) w h w h
        for class_embed, states, boxes in zip(self.class_embed, outputs.query_states, outputs.boxes, strict=True):
            frame_logits = class_embed(states)
            logits = mean_log_odds(frame_logits.to(boxes.dtype).sigmoid(), real)
            boxes = corners_to_center_format(boxes) / sizes
            layers.append({"frame_logits": frame_logits, "logits": logits, "pred_boxes": boxes.transpose(1, 2)})
        return layers

    def predict_masks(self, outputs: TevitModelOutput, queries: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Mask logits `(B, P, T, 28, 28)` of pairs of a query and a class, both `(B, P)`, after the last stage."""
        B, T = outputs.frame_sizes.shape[:2]
        frames = torch.arange(B * T, device=queries.device)
        masks = self.frame_masks(outputs, -1, frames, *(x.repeat_interleave(T, dim=0) for x in (queries, classes)))
        return masks.unflatten(0, (B, T)).transpose(1, 2)

    def frame_masks(
        self, outputs: TevitModelOutput, stage: int, frames: torch.Tensor, queries: torch.Tensor, classes: torch.Tensor
    ) -> torch.Tensor:
        """
        Mask logits `(n, P, 28, 28)` after a stage, of P boxes in each of n `frames (n,)`, whose queries and classes
        are both `(n, P)`.
        """
        states, boxes = (x[stage].flatten(0, 1) for x in (outputs.attended_states, outputs.boxes))

        def masks(frames, queries, classes):
            of_boxes = frames.repeat_interleave(queries.shape[1]), queries.flatten()
            places = outputs.spatial_shapes, boxes.detach()[of_boxes], of_boxes[0]
            cells = region_features(outputs.features, *places, MASK_CELLS)
            return self.mask_heads[stage](states[of_boxes], cells, classes.flatten()).unflatten(0, queries.shape)

        return in_frame_chunks(masks, MASK_FRAMES, frames, queries, classes)

    @torch.compiler.disable  # as many instances as a batch has
    def compute_loss(self, outputs: TevitModelOutput, layers: list[dict], labels: list[dict]) -> dict:
        """
        Match the queries of every stage to the labels, compute the masks of the matched ones, apply the losses.
        Returns `loss` and `loss_dict`, in training also `matches` and `matched_masks` of the last stage.
        """
        frame_logits, boxes = ([layer[name] for layer in layers] for name in ("frame_logits", "pred_boxes"))
        matches = [
            match_instances(*layer, labels, outputs.frame_sizes, self.config)
            for layer in zip(frame_logits, boxes, strict=True)
        ]
        masks = [self.matched_masks(outputs, stage, match, labels) for stage, match in enumerate(matches)]
        given = frame_logits, boxes, masks, matches, labels, outputs.frame_sizes, self.config
        fields = dict(zip(("loss", "loss_dict"), self.loss_function(*given), strict=True))
        return fields | ({"matches": matches[-1], "matched_masks": masks[-1]} if self.training else {})

    def matched_masks(self, outputs: TevitModelOutput, stage: int, match: list, labels: list[dict]) -> torch.Tensor:
        """
        Mask logits `(N, T, 28, 28)` of the matched queries after a stage, video by video, for the classes of their
        instances; zero where these are absent. Without a match all weights stay in the graph, which distributed
        training needs.
        """
        video, query, _ = flatten_matches(match)
        classes = torch.cat([target["class_labels"][found] for target, (_, found) in zip(labels, match, strict=True)])
        present = present_instances(labels, match, outputs.frame_sizes)  # (N, T)
        row, frame = present.nonzero(as_tuple=True)
        masks = outputs.features.new_zeros(*present.shape, 2 * MASK_CELLS, 2 * MASK_CELLS)
        if not row.shape[0]:
            return masks + 0.0 * sum(weight.sum() for weight in self.mask_heads[stage].parameters())
        frames = video[row] * present.shape[1] + frame
        found = self.frame_masks(outputs, stage, frames, query[row, None], classes[row, None])
        return masks.index_put((row, frame), found[:, 0].to(masks.dtype))


__all__ = ["TevitForVideoInstanceSegmentation", "TevitModel", "TevitPreTrainedModel"]
