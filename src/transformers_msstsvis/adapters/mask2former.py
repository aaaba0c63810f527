"""
Mask2Former for video instance segmentation ("Mask2Former for Video Instance Segmentation"): the decoder attends to all
frames of a clip at once, so that a query is a track.

Letters: B videos, T frames, Q queries, K labels, k queries with masks, C channels, H W pixels of the frames, h w of a
feature map or of the masks.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation
from transformers.utils import logging

from ..models.vis.modeling_vis import BACKBONE_FRAMES, VideoInstanceSegmentationOutput, best_queries, in_frame_chunks
from ..models.vis.video_processing_vis import VisVideoProcessor
from .adapter import Adapter, AdapterPostProcessing, chosen_of, log_odds

logger = logging.get_logger(__name__)

STRIDE = 32  # of the coarsest map, in pixels


class Mask2FormerVideoProcessor(AdapterPostProcessing, VisVideoProcessor):
    r"""
    Video processor of Mask2Former for video instance segmentation. Its arguments are those of [`VisVideoProcessor`];
    it reads the settings of `Mask2FormerImageProcessor`, too.

    Example:

    ```python
    >>> import numpy as np
    >>> from transformers_msstsvis import Mask2FormerVideoProcessor

    >>> processor = Mask2FormerVideoProcessor()
    >>> inputs = processor(np.zeros((5, 720, 1280, 3), dtype=np.uint8), return_tensors="pt")
    >>> inputs["pixel_values_videos"].shape
    torch.Size([1, 5, 3, 384, 640])
    ```
    """

    size_divisor = STRIDE


class FramePositions(nn.Module):
    """
    Position embedding of frames that are stacked along the height: that of an image in every frame, and the place of
    the frame in the clip.

    Args:
        of_image: the embedding of an image.
        channels: of the embedding.

    Attributes:
        num_frames: T, how many frames are stacked.
    """

    def __init__(self, of_image: nn.Module, channels: int):
        super().__init__()
        self.of_image, self.channels, self.num_frames = of_image, channels, 1

    def forward(
        self, shape: torch.Size, device: torch.device, dtype: torch.dtype, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`shape` `(B, C, T h, w)` to an embedding of this shape."""
        height = shape[2] // self.num_frames
        place = self.of_image(torch.Size((*shape[:2], height, shape[3])), device, dtype, None)
        frames = self.of_frames(device).to(dtype)
        return (place[:, :, None] + frames.T[None, :, :, None, None]).flatten(2, 3)

    def of_frames(self, device: torch.device) -> torch.Tensor:
        """`(T, C)` sines and cosines of the place of every frame."""
        place = torch.arange(1, self.num_frames + 1, device=device) / (self.num_frames + 1e-6) * 2 * math.pi
        channel = torch.arange(self.channels, device=device)
        angle = place[:, None] / 10000 ** (2 * (channel // 2) / self.channels)
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=-1).flatten(1)


class Mask2FormerForVideoInstanceSegmentation(Adapter, Mask2FormerForUniversalSegmentation):
    """
    Mask2Former for video instance segmentation, with the weights of `Mask2FormerForUniversalSegmentation`, which are
    the same in number and shape for images and for videos.

    Example:

    ```python
    >>> from transformers import pipeline
    >>> import transformers_msstsvis

    >>> model = "shivi/video-mask2former-swin-tiny-youtubevis-2021-instance"
    >>> tracks = pipeline("video-instance-segmentation", model=model)("clip.mp4")
    ```
    """

    config_class = Mask2FormerConfig
    video_processor_class = Mask2FormerVideoProcessor

    def __init__(self, config: Mask2FormerConfig):
        super().__init__(config)
        decoder = self.model.transformer_module
        decoder.position_embedder = FramePositions(decoder.position_embedder, config.hidden_dim)
        decoder.decoder.mask_predictor.register_forward_hook(_forget_masks)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """
        As of every model of this package. Configuration and weights of a checkpoint for images look the same; where
        neither the name nor the architecture says that it is one for videos, there is a warning.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        config = (loaded[0] if isinstance(loaded, tuple) else loaded).config
        names = (str(pretrained_model_name_or_path), *(config.architectures or ()))
        if not any("video" in name.lower() for name in names):
            logger.warning(
                f"Nothing says that {pretrained_model_name_or_path} was trained on videos: a Mask2Former of images "
                "has the same weights, but identities that may not hold. Those of videos have it in their names."
            )
        return loaded

    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        labels: Any = None,
        mask_top_k: int | None = None,
        **kwargs,
    ) -> VideoInstanceSegmentationOutput:
        """
        Args:
            pixel_values_videos: `(B, T, 3, H, W)`.
            pixel_mask: `(B, T, H, W)`, 1 = real pixel.
            labels: refused.
            mask_top_k: give masks of so many queries, those of the best classes; by default of all.

        Returns:
            [`VideoInstanceSegmentationOutput`] without boxes.
        """
        frame_sizes = self.check_inputs(pixel_values_videos, pixel_mask, labels)
        pixel_values_videos = pixel_values_videos.to(self.dtype)
        clips = [self._decode(*self._encode(clip)) for clip in _unpadded(pixel_values_videos, frame_sizes)]
        queries = torch.cat([queries for queries, _ in clips])  # (B, Q, C)
        logits = log_odds(self.class_predictor(queries))
        chosen = best_queries(logits, mask_top_k)
        embed = self.model.transformer_module.decoder.mask_predictor.mask_embedder
        masks = [
            torch.einsum("qc, cthw -> qthw", of_video, features)
            for of_video, (_, features) in zip(embed(chosen_of(queries, chosen)), clips, strict=True)
        ]
        return VideoInstanceSegmentationOutput(
            logits=logits,
            pred_masks=_padded(masks, _real(frame_sizes)),
            mask_query_indices=chosen,
            frame_sizes=frame_sizes,
            last_hidden_state=queries,
        )

    def _encode(self, clip: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Frames `(T, 3, H, W)` one by one to the features of the masks, `(T, C, h, w)`, and three coarser maps."""

        def encode(frames: torch.Tensor) -> list[torch.Tensor]:
            maps = self.model.pixel_level_module(frames, output_hidden_states=False)
            return [maps.decoder_last_hidden_state, *maps.decoder_hidden_states]

        features, *levels = in_frame_chunks(encode, BACKBONE_FRAMES, clip)
        return features, levels

    def _decode(self, features: torch.Tensor, levels: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The maps of all frames at once to the queries `(1, Q, C)`, and the features of the masks, `(C, T, h, w)`.

        Frames are stacked along the height, where attention sees all places alike. Masks restrict it, which are
        resized by a whole factor, so that no pixel of a frame reaches another one.
        """
        self.model.transformer_module.position_embedder.num_frames = len(features)
        outputs = self.model.transformer_module(
            multi_scale_features=[_stacked(level) for level in levels], mask_features=_stacked(features)
        )
        return outputs.intermediate_hidden_states[-1].transpose(0, 1), features.transpose(0, 1)


def _stacked(maps: torch.Tensor) -> torch.Tensor:
    """`(T, C, h, w)` to `(1, C, T h, w)`."""
    return maps.transpose(0, 1).flatten(1, 2)[None]


def _unpadded(pixel_values_videos: torch.Tensor, frame_sizes: torch.Tensor) -> list[torch.Tensor]:
    """The real frames `(T, 3, H, W)` of every video, whose sides are the next multiples of 32, whatever the batch."""
    clips = []
    for frames, sizes, real in zip(pixel_values_videos, frame_sizes, _real(frame_sizes), strict=True):
        height, width = sizes.amax(0).clamp(min=1).tolist()
        frames = frames[real, :, :height, :width]
        clips.append(F.pad(frames, (0, -width % STRIDE, 0, -height % STRIDE)))
    return clips


def _padded(masks: list[torch.Tensor], real: torch.Tensor) -> torch.Tensor:
    """
    Mask logits `(k, T, h, w)` of every video in one tensor, with frames and pixels that show nothing, where
    `real (B, T)` is False.
    """
    height, width = (max(of_video.shape[axis] for of_video in masks) for axis in (2, 3))
    padded = masks[0].new_full((len(masks), len(masks[0]), real.shape[1], height, width), -1e4)
    for place, of_video, there in zip(padded, masks, real, strict=True):
        place[:, there, : of_video.shape[2], : of_video.shape[3]] = of_video
    return padded


def _real(frame_sizes: torch.Tensor) -> torch.Tensor:
    """`(B, T)` which frames are real; all of a video without any."""
    real = frame_sizes[..., 0] > 0
    return real | ~real.any(1, keepdim=True)


def _forget_masks(module: nn.Module, inputs: tuple, outputs: tuple) -> tuple:
    """The decoder would keep the masks of all queries after every layer, and only needs where to attend."""
    masks, attention_mask = outputs
    return masks[:, :0], attention_mask


__all__ = ["Mask2FormerForVideoInstanceSegmentation", "Mask2FormerVideoProcessor"]
