"""MS-STS VIS: video instance segmentation with a multi-scale spatio-temporal split attention transformer.

With both temporal attentions off this is SeqFormer, which is also what the published MS-STS VIS code runs.

Letters: B videos, T frames, Q queries, L levels, S pixels over all levels, C channels, K labels, D decoder layers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.loss.loss_utils import LOSS_MAPPING
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ...checkpoint_files import LOADING_LOG, check_loaded, check_weights, held_back, told_in_words
from ...layers.attention import VisSelfAttention
from ...layers.backbone import VisBackbone
from ...layers.deformable_attention import DeformableAttention
from ...layers.feed_forward import MLP, FeedForward
from ...layers.position_embedding import sine_position_embedding
from ...losses.matcher import check_labels, match_instances
from ...losses.set_criterion import video_instance_segmentation_loss
from ..seqformer.dynamic_mask_head import MaskFeaturePyramid, dynamic_masks, num_dynamic_parameters
from .configuration_msstsvis import MsstsVisConfig
from .temporal_attention_msstsvis import FrameAttention, MultiScaleTemporalAttention

# At a time in inference: what a CPU's caches hold; elsewhere more than 4 cost memory and gain nothing.
BACKBONE_FRAMES = {"cpu": 2}
ATTENTION_FRAMES = {"cpu": 1}


@dataclass
class MsstsVisDecoderOutput(ModelOutput):
    """
    Output of [`MsstsVisDecoder`].

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
class MsstsVisModelOutput(ModelOutput):
    """
    Output of [`MsstsVisModel`].

    Args:
        last_hidden_state: `(B, Q, C)` instance queries after the last decoder layer.
        encoder_last_hidden_state: `(B, T, S, C)` encoder features.
        instance_queries, box_queries, boxes, reference_points: see [`MsstsVisDecoderOutput`].
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
class VideoInstanceSegmentationOutput(ModelOutput):
    """
    Output of every model for video instance segmentation. A query is an instance: it keeps its index in all frames.

    Args:
        loss: weighted sum of the losses, with `labels` only.
        loss_dict: every loss term, unweighted; suffix `_i` = after decoder layer i, none = last layer.
        logits: `(B, Q, K)` class logits, one sigmoid per class.
        pred_boxes: `(B, Q, T, 4)` cx cy w h in `[0, 1]` of the real pixels.
        pred_masks: `(B, Q, T, h, w)` mask logits at stride 4, or `(B, k, T, h, w)` with `mask_top_k=k`. Absent in
            training with labels, where only matched queries get masks, unless `mask_top_k` is given.
        mask_query_indices: `(B, k)` the query of every mask, with `mask_top_k`.
        frame_sizes: `(B, T, 2)` height and width of the real pixels of every frame; zero for padding frames.
        matches: per video the matched query and instance indices of the last layer, in training with labels.
        matched_masks: `(N, T, h, w)` mask logits of the matched queries, video by video, in training with labels.
        spatial_shapes: `(height, width)` of every level of the encoder features, in training with labels.
        auxiliary_outputs: one dict with `logits` and `pred_boxes` per decoder layer but the last.
        last_hidden_state: `(B, Q, C)` instance queries after the last decoder layer.
        encoder_last_hidden_state: `(B, T, S, C)` encoder features.
        decoder_hidden_states, decoder_attentions, encoder_hidden_states: per layer, on request.
    """

    loss: torch.FloatTensor | None = None
    loss_dict: dict | None = None
    logits: torch.FloatTensor | None = None
    pred_boxes: torch.FloatTensor | None = None
    pred_masks: torch.FloatTensor | None = None
    mask_query_indices: torch.LongTensor | None = None
    frame_sizes: torch.LongTensor | None = None
    matches: list | None = None
    matched_masks: torch.FloatTensor | None = None
    spatial_shapes: list | None = None
    auxiliary_outputs: list[dict] | None = None
    last_hidden_state: torch.FloatTensor | None = None
    encoder_last_hidden_state: torch.FloatTensor | None = None
    decoder_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    decoder_attentions: tuple[torch.FloatTensor, ...] | None = None
    encoder_hidden_states: tuple[torch.FloatTensor, ...] | None = None


def inverse_sigmoid(x: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """Logit of `x`, both sides kept above `eps`."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def in_frame_chunks(
    function: Callable[..., torch.Tensor], sizes: dict[str, int], *tensors: torch.Tensor
) -> torch.Tensor:
    """
    `function` of tensors `(N, ...)` that treats every frame alone. Without gradients as many frames at a time as
    `sizes` has for their device: the same result with a fraction of the memory.
    """
    size = sizes.get(tensors[0].device.type, 4)
    if torch.is_grad_enabled() or len(tensors[0]) <= size:
        return function(*tensors)
    result = None
    for start in range(0, len(tensors[0]), size):
        part = function(*(tensor[start : start + size] for tensor in tensors))
        if result is None:  # written part by part: a list of the parts would need the memory twice
            result = part.new_empty(len(tensors[0]), *part.shape[1:])
        result[start : start + size] = part
    return result


class MsstsVisInputProjection(nn.Module):
    """Backbone maps to L levels of C channels: 1x1 convolutions, and 3x3 of stride 2 for the levels beyond."""

    def __init__(self, config: MsstsVisConfig, channels: list[int]):
        super().__init__()
        extra = config.num_feature_levels - len(channels)
        inputs = [*channels, *([channels[-1]] + [config.d_model] * (extra - 1))[: max(extra, 0)]]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(size, config.d_model, 1)
            if level < len(channels)
            else nn.Conv2d(size, config.d_model, 3, stride=2, padding=1)
            for level, size in enumerate(inputs)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(32, config.d_model) for _ in inputs)

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """Three maps `(N, C_l, H_l, W_l)` to L maps `(N, C, H_l, W_l)`."""
        levels = []
        for index, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            source = maps[index] if index < len(maps) else (maps[-1] if index == len(maps) else levels[-1])
            levels.append(norm(convolution(source)))
        return levels


class MsstsVisEncoderLayer(GradientCheckpointingLayer):
    """Deformable self-attention within each frame plus the MS-STS module over frames, then a feed-forward network."""

    def __init__(self, config: MsstsVisConfig):
        super().__init__()
        self.self_attn = DeformableAttention(
            config.d_model, config.encoder_attention_heads, config.num_feature_levels, config.encoder_n_points
        )
        self.temporal_attn = MultiScaleTemporalAttention(config) if config.encoder_temporal_attention else None
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
        feature_mask: torch.Tensor,
        spatial_shapes: list[tuple[int, int]],
    ) -> torch.Tensor:
        """`hidden_states, positions (B, T, S, C)`, `reference_points (B, T, S, L, 2)`, `feature_mask (B, T, S)`."""
        frames = [tensor.flatten(0, 1) for tensor in (hidden_states, positions, reference_points, feature_mask)]
        if self.temporal_attn is not None:
            frames.append(self.temporal_attn(hidden_states, feature_mask, spatial_shapes).flatten(0, 1))

        def update(hidden_states, positions, reference_points, feature_mask, over_time=None):
            query = hidden_states + positions
            attended = self.self_attn(query, reference_points, hidden_states, feature_mask, spatial_shapes)
            attended = attended if over_time is None else attended + over_time
            return self.feed_forward(self.norm(hidden_states + self.dropout(attended)))

        return in_frame_chunks(update, ATTENTION_FRAMES, *frames).view_as(hidden_states)


class MsstsVisDecoderLayer(GradientCheckpointingLayer):
    """
    Instance queries know the video, box queries know one frame each: box queries look at their frame, and instance
    queries gather over time what they found (SeqFormer, section 3).
    """

    def __init__(self, config: MsstsVisConfig):
        super().__init__()
        C, heads, dropout = config.d_model, config.decoder_attention_heads, config.attention_dropout
        self.self_attn = VisSelfAttention(config, C, heads, dropout=dropout)
        self.self_attn_norm = nn.LayerNorm(C)
        self.box_self_attn = VisSelfAttention(config, C, heads, dropout=dropout)
        self.box_self_attn_norm = nn.LayerNorm(C)
        if config.decoder_temporal_attention:
            self.box_temporal_norm = nn.LayerNorm(C)
            self.box_temporal_attn = FrameAttention(config, C, heads)
        else:
            self.box_temporal_attn = None
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
        feature_mask: torch.Tensor,
        spatial_shapes: list[tuple[int, int]],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        `instance_queries, query_positions (B, Q, C)`, `box_queries (B, T, Q, C)`, `reference_points
        (B, T, Q, L, 2 or 4)`, `features (B, T, S, C)`, `feature_mask (B, T, S)` to new instance and box queries.
        """
        frame_mask = feature_mask.any(-1)  # (B, T)
        box_positions = query_positions[:, None].expand_as(box_queries)

        attended, _ = self.self_attn(instance_queries, query_positions)
        instance_queries = self.self_attn_norm(instance_queries + self.dropout(attended))
        attended, _ = self.box_self_attn(box_queries.flatten(0, 1), box_positions.flatten(0, 1))
        box_queries = self.box_self_attn_norm(box_queries + self.dropout(attended.view_as(box_queries)))
        if self.box_temporal_attn is not None:
            attended = self.box_temporal_attn(self.box_temporal_norm(box_queries), frame_mask)
            box_queries = box_queries + self.dropout(attended)

        frames = [tensor.flatten(0, 1) for tensor in (box_queries + box_positions, reference_points, features)]
        sampled = in_frame_chunks(
            lambda *chunk: self.cross_attn.sample(*chunk, spatial_shapes),
            ATTENTION_FRAMES,
            *frames,
            feature_mask.flatten(0, 1),
        ).view_as(box_queries)
        box_queries = self.box_cross_attn_norm(box_queries + self.dropout(self.box_output_proj(sampled)))
        box_queries = self.box_feed_forward(box_queries)

        weights = self.time_weights(box_queries)  # (B, T, Q, 1)
        weights = weights.masked_fill(~frame_mask[:, :, None, None], torch.finfo(weights.dtype).min).softmax(dim=1)
        gathered = (self.cross_attn.output_proj(sampled) * weights).sum(dim=1)  # (B, Q, C)
        instance_queries = self.cross_attn_norm(instance_queries + self.dropout(gathered))
        return self.feed_forward(instance_queries), box_queries


class MsstsVisPreTrainedModel(PreTrainedModel):
    config: MsstsVisConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _no_split_modules = ["MsstsVisEncoderLayer", "MsstsVisDecoderLayer"]
    _supports_sdpa = True
    _supports_attention_backend = True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """
        As of every model of transformers.

        Raises:
            ValueError: for weights that are no checkpoint, incomplete, more than plain tensors, of another model, or
                not of the shapes that the configuration says.
            OSError: when there is no such checkpoint.
        """
        folder = Path(str(pretrained_model_name_or_path), kwargs.get("subfolder", ""))
        if folder.is_dir() and kwargs.get("variant") is None:
            check_weights(folder)
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs, fits = {**kwargs, "ignore_mismatched_sizes": True}, not kwargs.get("ignore_mismatched_sizes")
        with told_in_words(pretrained_model_name_or_path), held_back(LOADING_LOG):
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
            if pretrained_model_name_or_path is not None:  # nor its weights are those of a checkpoint
                check_loaded(model, info, str(pretrained_model_name_or_path), fits)
        return (model, info) if wants_info else model

    def get_input_embeddings(self) -> None:
        """None: frames are no tokens. Sharding by accelerate asks for it."""
        return None

    def _initialize_weights(self, module, is_custom_code: bool = False):
        # transformers skips containers of external models, and with them the special values below
        super()._initialize_weights(module, is_custom_code=False)

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, DeformableAttention):
            _init_deformable_attention(module)
        elif isinstance(module, MultiScaleTemporalAttention):
            init.zeros_(module.up.weight)  # starts as the identity on the encoder layer
        elif isinstance(module, MsstsVisDecoderLayer):
            if module.box_temporal_attn is not None:
                init.zeros_(module.box_temporal_attn.attention.o_proj.weight)
        elif isinstance(module, MsstsVisInputProjection):
            for convolution in module.convolutions:
                init.xavier_uniform_(convolution.weight)
                init.zeros_(convolution.bias)
        elif isinstance(module, MaskFeaturePyramid):
            for convolution in (*module.fusions, *module.reductions):
                init.kaiming_uniform_(convolution.weight, a=1)
                init.zeros_(convolution.bias)
        elif isinstance(module, MsstsVisModel):
            init.normal_(module.level_embed)
            init.normal_(module.query_embed.weight)
        elif isinstance(module, MsstsVisDecoder):
            for index, box_head in enumerate(module.box_embed):
                init.zeros_(box_head.layers[-1].weight)
                bias = torch.zeros(4)
                bias[2:] = -2.0 if index == 0 else 0.0  # first guesses are small boxes
                init.copy_(box_head.layers[-1].bias, bias)
        elif isinstance(module, MsstsVisForVideoInstanceSegmentation):
            for class_head in module.class_embed:
                init.constant_(class_head.bias, -math.log((1 - 0.01) / 0.01))  # focal prior: 1% of queries match


def _init_deformable_attention(module: DeformableAttention) -> None:
    """Offsets of head m start along direction m, 1 to P steps long, and all places weigh the same."""
    angles = torch.arange(module.num_heads, dtype=torch.float32) * (2 * math.pi / module.num_heads)
    directions = torch.stack((angles.cos(), angles.sin()), dim=-1)
    directions = directions / directions.abs().amax(-1, keepdim=True)  # (M, 2)
    steps = torch.arange(1, module.num_points + 1, dtype=torch.float32)
    offsets = directions[:, None, None] * steps[:, None]  # (M, 1, P, 2)
    init.zeros_(module.sampling_offsets.weight)
    init.copy_(module.sampling_offsets.bias, offsets.expand(-1, module.num_levels, -1, -1).reshape(-1))
    init.zeros_(module.attention_weights.weight)
    init.zeros_(module.attention_weights.bias)


class MsstsVisEncoder(MsstsVisPreTrainedModel):
    """Encoder layers over the flattened feature levels of all frames."""

    _can_record_outputs = {"hidden_states": MsstsVisEncoderLayer}

    def __init__(self, config: MsstsVisConfig):
        super().__init__(config)
        self.layers = nn.ModuleList(MsstsVisEncoderLayer(config) for _ in range(config.encoder_layers))
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        hidden_states: torch.Tensor,
        positions: torch.Tensor,
        feature_mask: torch.Tensor,
        valid_ratios: torch.Tensor,
        spatial_shapes: list[tuple[int, int]],
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        """
        Args:
            hidden_states, positions: `(B, T, S, C)`.
            feature_mask: `(B, T, S)` bool, True = real pixel.
            valid_ratios: `(B, T, L, 2)` real fraction of every level's width and height.
            spatial_shapes: `(height, width)` of every level.
        """
        reference_points = self.reference_points(valid_ratios, spatial_shapes)
        for layer in self.layers:
            hidden_states = layer(hidden_states, positions, reference_points, feature_mask, spatial_shapes)
        return BaseModelOutput(last_hidden_state=hidden_states)

    @staticmethod
    def reference_points(valid_ratios: torch.Tensor, spatial_shapes: list[tuple[int, int]]) -> torch.Tensor:
        """Every pixel's own centre, as a fraction of every level: `(B, T, S, L, 2)` float32."""
        points = []
        for level, (height, width) in enumerate(spatial_shapes):
            y = (torch.arange(height, dtype=torch.float32, device=valid_ratios.device) + 0.5) / height
            x = (torch.arange(width, dtype=torch.float32, device=valid_ratios.device) + 0.5) / width
            grid = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1).flatten(0, 1)
            points.append(grid / valid_ratios[:, :, level, None])  # (B, T, H_l W_l, 2)
        return torch.cat(points, dim=2)[:, :, :, None] * valid_ratios[:, :, None]


class MsstsVisDecoder(MsstsVisPreTrainedModel):
    """Decoder layers with iterative box refinement in every frame."""

    _can_record_outputs = {
        "hidden_states": OutputRecorder(MsstsVisDecoderLayer, index=0),
        "attentions": OutputRecorder(VisSelfAttention, layer_name=".self_attn", index=1),
    }

    def __init__(self, config: MsstsVisConfig):
        super().__init__(config)
        self.layers = nn.ModuleList(MsstsVisDecoderLayer(config) for _ in range(config.decoder_layers))
        self.box_embed = nn.ModuleList(
            MLP(config.d_model, config.d_model, 4, num_layers=3) for _ in range(config.decoder_layers)
        )
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        instance_queries: torch.Tensor,
        query_positions: torch.Tensor,
        reference_points: torch.Tensor,
        features: torch.Tensor,
        feature_mask: torch.Tensor,
        valid_ratios: torch.Tensor,
        spatial_shapes: list[tuple[int, int]],
        **kwargs: Unpack[TransformersKwargs],
    ) -> MsstsVisDecoderOutput:
        """
        Args:
            instance_queries, query_positions: `(B, Q, C)`.
            reference_points: `(B, T, Q, 2)` first centres in `[0, 1]` of the real pixels.
            features: `(B, T, S, C)` encoder output.
            feature_mask: `(B, T, S)` bool, True = real pixel.
            valid_ratios: `(B, T, L, 2)` real fraction of every level's width and height.
            spatial_shapes: `(height, width)` of every level.
        """
        box_queries = instance_queries[:, None].expand(-1, features.shape[1], -1, -1)  # (B, T, Q, C)
        instances, boxes_of, references, boxes = [], [], [], []
        for layer, box_embed in zip(self.layers, self.box_embed, strict=True):
            scale = valid_ratios.repeat(1, 1, 1, reference_points.shape[-1] // 2)[:, :, None]  # (B, T, 1, L, 2 or 4)
            instance_queries, box_queries = layer(
                instance_queries,
                box_queries,
                query_positions,
                reference_points[:, :, :, None] * scale,
                features,
                feature_mask,
                spatial_shapes,
            )
            delta = box_embed(box_queries).float()  # (B, T, Q, 4)
            logits = inverse_sigmoid(reference_points)
            if logits.shape[-1] == 2:
                logits = F.pad(logits, (0, 2))
            instances.append(instance_queries)
            boxes_of.append(box_queries)
            references.append(reference_points)
            boxes.append((delta + logits).sigmoid())
            reference_points = boxes[-1].detach()
        return MsstsVisDecoderOutput(
            last_hidden_state=instance_queries,
            instance_queries=torch.stack(instances),
            box_queries=torch.stack(boxes_of),
            boxes=torch.stack(boxes),
            reference_points=tuple(references),
        )


class MsstsVisModel(MsstsVisPreTrainedModel):
    """Backbone, projection, encoder and decoder: a video in, instance queries and their boxes in every frame out."""

    def __init__(self, config: MsstsVisConfig):
        super().__init__(config)
        self.backbone = VisBackbone(config)
        self.input_projection = MsstsVisInputProjection(config, self.backbone.channels)
        self.level_embed = nn.Parameter(torch.empty(config.num_feature_levels, config.d_model))
        self.encoder = MsstsVisEncoder(config)
        self.query_embed = nn.Embedding(config.num_queries, 2 * config.d_model)
        self.reference_points = nn.Linear(config.d_model, 2)
        self.decoder = MsstsVisDecoder(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MsstsVisModelOutput:
        """
        Args:
            pixel_values_videos: `(B, T, 3, H, W)` normalised RGB frames.
            pixel_mask: `(B, T, H, W)`, 1 = real pixel. Real pixels start at the top left corner; a frame without any
                is temporal padding.

        Raises:
            ValueError: for another rank or other channels than above, or a mask of another size.
        """
        pixel_mask = check_video(pixel_values_videos, pixel_mask)
        B, T = pixel_values_videos.shape[:2]
        frames = pixel_values_videos.flatten(0, 1).to(self.dtype)  # (B T, 3, H, W)
        spatial_shapes = []

        def extract(frames):
            levels = self.input_projection(self.backbone(frames))
            spatial_shapes[:] = [(level.shape[-2], level.shape[-1]) for level in levels]
            return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)

        features = in_frame_chunks(extract, BACKBONE_FRAMES, frames).unflatten(0, (B, T))  # (B, T, S, C)
        masks = [_resize_mask(pixel_mask.flatten(0, 1), shape) for shape in spatial_shapes]
        positions = [
            sine_position_embedding(mask, self.config.d_model).flatten(1, 2).to(frames.dtype) + embedding
            for mask, embedding in zip(masks, self.level_embed, strict=True)
        ]
        valid_ratios = torch.stack([_valid_ratio(mask) for mask in masks], dim=1).unflatten(0, (B, T))
        feature_mask = torch.cat([mask.flatten(1) for mask in masks], dim=1).unflatten(0, (B, T))  # (B, T, S)
        positions = torch.cat(positions, dim=1).unflatten(0, (B, T))  # (B, T, S, C)
        kwargs["return_dict"] = True
        encoded = self.encoder(features, positions, feature_mask, valid_ratios, spatial_shapes, **kwargs)
        memory = encoded.last_hidden_state  # (B, T, S, C)

        query_positions, queries = self.query_embed.weight.expand(B, -1, -1).chunk(2, dim=-1)  # (B, Q, C) each
        centres = self.reference_points(query_positions).float().sigmoid()[:, None].expand(-1, T, -1, -1)
        decoded = self.decoder(
            queries, query_positions, centres, memory, feature_mask, valid_ratios, spatial_shapes, **kwargs
        )
        return MsstsVisModelOutput(
            last_hidden_state=decoded.last_hidden_state,
            encoder_last_hidden_state=memory,
            instance_queries=decoded.instance_queries,
            box_queries=decoded.box_queries,
            boxes=decoded.boxes,
            reference_points=decoded.reference_points,
            spatial_shapes=spatial_shapes,
            frame_sizes=torch.stack((pixel_mask.any(3).sum(2), pixel_mask.any(2).sum(2)), dim=-1),
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            encoder_hidden_states=encoded.hidden_states,
        )


def check_video(pixel_values_videos: torch.Tensor, pixel_mask: torch.Tensor | None) -> torch.Tensor:
    """
    Check the shapes of a batch and return its mask as `(B, T, H, W)` bool, all real when None.

    Raises:
        TypeError: for anything but a tensor.
        ValueError: naming the shape given, the one expected and the way out.
    """
    if not isinstance(pixel_values_videos, torch.Tensor):
        raise TypeError(
            f"pixel_values_videos is of type {type(pixel_values_videos).__name__}; expected a tensor (batch, frames, "
            '3, height, width), as the video processor gives with return_tensors="pt"'
        )
    shape = tuple(pixel_values_videos.shape)
    expected = "expected (batch, frames, 3, height, width)"
    if len(shape) == 4:
        raise ValueError(f"pixel_values_videos has shape {shape}; {expected}: add a batch dimension with [None]")
    if len(shape) != 5:
        raise ValueError(f"pixel_values_videos has shape {shape}; {expected}")
    if shape[2] != 3:
        hint = ": move the channels with .movedim(-1, 2)" if shape[-1] == 3 else ""
        hint = ": swap frames and channels with .transpose(1, 2)" if shape[1] == 3 and not hint else hint
        raise ValueError(f"pixel_values_videos has shape {shape}; {expected}{hint}")
    if 0 in shape:
        raise ValueError(f"pixel_values_videos has shape {shape}, an empty video; {expected} with at least one frame")
    if pixel_mask is None:
        return torch.ones(shape[:2] + shape[3:], dtype=torch.bool, device=pixel_values_videos.device)
    if tuple(pixel_mask.shape) != shape[:2] + shape[3:]:
        raise ValueError(
            f"pixel_mask has shape {tuple(pixel_mask.shape)} and pixel_values_videos {shape}; expected the mask to be "
            "(batch, frames, height, width) of the same sizes"
        )
    return pixel_mask.bool()


def _resize_mask(pixel_mask: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """`(N, H, W)` bool to `(N, height, width)` bool by nearest neighbours."""
    return F.interpolate(pixel_mask[:, None].float(), size=shape)[:, 0].bool()


def _valid_ratio(mask: torch.Tensor) -> torch.Tensor:
    """Real fraction of the width and the height of maps `(N, height, width)`: `(N, 2)`; 1 for padding frames."""
    ratio = torch.stack((mask.any(1).float().mean(1), mask.any(2).float().mean(1)), dim=-1)
    return ratio.masked_fill(ratio == 0, 1.0)


class MsstsVisForVideoInstanceSegmentation(MsstsVisPreTrainedModel):
    """MS-STS VIS with class, box and mask heads."""

    base_model_class = MsstsVisModel

    def __init__(self, config: MsstsVisConfig):
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
    ) -> VideoInstanceSegmentationOutput:
        """
        Args:
            pixel_values_videos: `(B, T, 3, H, W)` normalised RGB frames.
            pixel_mask: `(B, T, H, W)`, 1 = real pixel; a frame without any is temporal padding.
            labels: one dict per video: `class_labels (n,)` in `[0, K)`, `boxes (n, T, 4)` cx cy w h in `[0, 1]` of the
                real pixels (1e-6 where absent), `masks (n, T, H, W)` bool, `valid (n, T)` bool, present in the frame.
            mask_top_k: compute masks only for the queries of the k best classes.

        Raises:
            ValueError: for wrong shapes, labels out of range or not fitting the video, or a `mask_top_k` below 1.
            TypeError: for labels that are no tensors.
        """
        kwargs["return_dict"] = True
        outputs = self.model(pixel_values_videos, pixel_mask, **kwargs)
        logits = [head(states) for head, states in zip(self.class_embed, outputs.instance_queries, strict=True)]
        boxes = outputs.boxes.transpose(2, 3)  # (D, B, Q, T, 4)
        features = self.predict_mask_features(outputs.encoder_last_hidden_state, outputs.spatial_shapes)

        loss = loss_dict = masks = top_queries = None
        matched = {}
        if labels is not None:
            (loss, loss_dict), matches, matched_masks = self.compute_loss(
                outputs, logits, boxes, features, labels, pixel_values_videos
            )
            if self.training:
                matched = {"matches": matches, "matched_masks": matched_masks}
                matched["spatial_shapes"] = outputs.spatial_shapes
        if mask_top_k is not None:
            if mask_top_k < 1:
                raise ValueError(f"mask_top_k is {mask_top_k}; expected at least 1, or None for all masks")
            top_queries = logits[-1].amax(-1).topk(min(mask_top_k, self.config.num_queries), dim=1).indices  # (B, k)
        if labels is None or not self.training or mask_top_k is not None:
            masks = self.predict_masks(outputs, features, -1, top_queries)
        return VideoInstanceSegmentationOutput(
            loss=loss,
            loss_dict=loss_dict,
            logits=logits[-1],
            pred_boxes=boxes[-1],
            pred_masks=masks,
            mask_query_indices=top_queries,
            frame_sizes=outputs.frame_sizes,
            **matched,
            auxiliary_outputs=[{"logits": a, "pred_boxes": b} for a, b in zip(logits[:-1], boxes[:-1], strict=True)],
            last_hidden_state=outputs.last_hidden_state,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            decoder_hidden_states=outputs.decoder_hidden_states,
            decoder_attentions=outputs.decoder_attentions,
            encoder_hidden_states=outputs.encoder_hidden_states,
        )

    def predict_mask_features(self, memory: torch.Tensor, spatial_shapes: list[tuple[int, int]]) -> torch.Tensor:
        """Encoder features `(B, T, S, C)` to mask features `(B, T, D, h, w)` at stride 8."""
        levels = memory.flatten(0, 1).split([height * width for height, width in spatial_shapes], dim=1)[:3]
        maps = [
            level.transpose(1, 2).unflatten(2, shape) for level, shape in zip(levels, spatial_shapes, strict=False)
        ]
        return self.mask_features(maps).unflatten(0, memory.shape[:2])

    def predict_masks(
        self, outputs: MsstsVisModelOutput, features: torch.Tensor, layer: int, queries: torch.Tensor | None = None
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

    def compute_loss(self, outputs, logits, boxes, features, labels, pixel_values_videos):
        """
        Match every decoder layer's queries to the labels, compute the masks of the matched ones, apply the
        losses. Returns the losses, and matches and masks of the last layer.
        """
        check_labels(labels, pixel_values_videos.shape, self.config.num_labels)
        frame_mask = outputs.frame_sizes[..., 0] > 0  # (B, T)
        layers = list(range(len(logits))) if self.config.auxiliary_loss else [len(logits) - 1]
        matches, masks = [], []
        for layer in layers:
            match = match_instances(logits[layer], boxes[layer], labels, frame_mask, self.config)
            video = torch.cat([torch.full_like(queries, b) for b, (queries, _) in enumerate(match)])
            query = torch.cat([queries for queries, _ in match])
            states = outputs.instance_queries[layer][video, query][:, None]  # (N, 1, C)
            centres = outputs.reference_points[layer][video, :, query, None, :2]  # (N, T, 1, 2)
            predicted = self.dynamic_masks(states, centres, outputs.frame_sizes[video], features[video])[:, 0]
            matches.append(match)
            masks.append(predicted)  # (N, T, 2h, 2w)
        losses = self.loss_function(
            logits=[logits[layer] for layer in layers],
            boxes=[boxes[layer] for layer in layers],
            masks=masks,
            matches=matches,
            labels=labels,
            frame_mask=frame_mask,
            config=self.config,
        )
        return losses, matches[-1], masks[-1]


LOSS_MAPPING["MsstsVisForVideoInstanceSegmentation"] = video_instance_segmentation_loss

__all__ = [
    "MsstsVisForVideoInstanceSegmentation",
    "MsstsVisModel",
    "MsstsVisPreTrainedModel",
    "VideoInstanceSegmentationOutput",
]
