"""
VidEoMT ("VidEoMT: Your ViT is Secretly Also a Video Segmentation Model"), frame by frame, with the queries carried on.

Letters: B videos, T frames, N tokens of a frame, Q queries, K labels, k queries with masks, C channels, h w pixels of
the masks.
"""

from typing import Any

import torch
from transformers import VideomtConfig, VideomtForUniversalSegmentation, VideomtVideoProcessor

from ..models.vis.modeling_vis import BACKBONE_FRAMES, VideoInstanceSegmentationOutput, best_queries, in_frame_chunks
from ..models.vis.video_processing_vis import MAX_FRAMES, ClipPlan, VisVideoProcessor
from .adapter import Adapter, AdapterPostProcessing, chosen_of, log_odds


class VideomtPostProcessing(AdapterPostProcessing):
    """What its masks are: of frames that all have the size of the model, without padding."""

    def mask_size(self, side: int) -> int:
        """Rows or columns of the mask logits of a frame with `side` pixels, or more: all of them."""
        return side


class VideomtVisVideoProcessor(VideomtPostProcessing, VisVideoProcessor):
    r"""
    Video processor of VidEoMT for video instance segmentation. Its arguments are those of [`VisVideoProcessor`].
    Frames are resized to the square that the model knows, 640 pixels a side by default. Clips of a long video do not
    overlap, since the model carries its queries on from one to the next.

    Example:

    ```python
    >>> import numpy as np
    >>> from transformers_msstsvis import VideomtVisVideoProcessor

    >>> processor = VideomtVisVideoProcessor()
    >>> inputs = processor(np.zeros((5, 720, 1280, 3), dtype=np.uint8), return_tensors="pt")
    >>> inputs["pixel_values_videos"].shape
    torch.Size([1, 5, 3, 640, 640])
    ```
    """

    size = {"height": 640, "width": 640}
    tracker = "query"

    def clip_plan(self, config, max_frames: int | None = None) -> ClipPlan:
        """Clips of `max_frames`, 36 by default, one after the other; their length changes no mask."""
        length = max_frames or MAX_FRAMES
        return ClipPlan(length, length)

    def to_dict(self) -> dict[str, Any]:
        """With the type that transformers knows, so that the processor loads there, too."""
        return {**super().to_dict(), "video_processor_type": VideomtVideoProcessor.__name__}


class VideomtForVideoInstanceSegmentation(Adapter, VideomtForUniversalSegmentation):
    """
    VidEoMT for video instance segmentation, with the weights of `VideomtForUniversalSegmentation`.

    A query stays with its object over the whole video, however long: the queries after a frame are those that the next
    one begins with. A video in parts gives the same as a whole one, with the `last_hidden_state` of a part as
    `query_states` of the next.

    Example:

    ```python
    >>> from transformers import pipeline
    >>> import transformers_msstsvis

    >>> segmenter = pipeline("video-instance-segmentation", model="tue-mps/videomt-dinov2-small-ytvis2019")
    >>> tracks = segmenter("clip.mp4")
    ```
    """

    config_class = VideomtConfig
    video_processor_class = VideomtVisVideoProcessor
    carried = {"query_states": "last_hidden_state"}

    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        labels: Any = None,
        query_states: torch.Tensor | None = None,
        mask_top_k: int | None = None,
        **kwargs,
    ) -> VideoInstanceSegmentationOutput:
        """
        Args:
            pixel_values_videos: `(B, T, 3, H, W)` of the size that the configuration says.
            pixel_mask: `(B, T, H, W)`, 1 = real pixel; frames without any are padding in time.
            labels: refused.
            query_states: `(B, Q, C)` the queries after the frame before; by default the video begins here.
            mask_top_k: give masks of so many queries, those of the best classes; by default of all.

        Returns:
            [`VideoInstanceSegmentationOutput`] without boxes. `logits` are of the mean over the frames of
            `frame_logits (B, T, Q, K + 1)`, as published; `last_hidden_state (B, Q, C)` are the queries after the last
            real frame.
        """
        frame_sizes = self.check_inputs(pixel_values_videos, pixel_mask, labels)
        self._check_size(pixel_values_videos)
        real = frame_sizes[..., 0] > 0  # (B, T)
        patches = in_frame_chunks(self._encode, BACKBONE_FRAMES, pixel_values_videos.flatten(0, 1))
        frames, of_frames = [], patches.unflatten(0, real.shape).unbind(1)
        for tokens, is_real in zip(of_frames, real.unbind(1), strict=True):
            tokens, after = self._decode(tokens, query_states)
            before = after if query_states is None else query_states
            query_states = torch.where(is_real[:, None, None], after, before)
            frames.append(tokens)
        frame_logits = torch.stack([self.class_predictor(self._queries(tokens)) for tokens in frames], dim=1)
        of_real = frame_logits.float() * real[..., None, None]
        logits = log_odds(of_real.sum(1) / real.sum(1).clamp(min=1)[:, None, None])
        chosen = best_queries(logits, mask_top_k)
        return VideoInstanceSegmentationOutput(
            logits=logits,
            frame_logits=frame_logits,
            pred_masks=torch.stack([self._masks(tokens, chosen) for tokens in frames], dim=2),
            mask_query_indices=chosen,
            frame_sizes=frame_sizes,
            last_hidden_state=query_states,
        )

    def _encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Frames `(B T, 3, H, W)` to their tokens `(B T, N, C)` before the queries join them."""
        tokens = self.embeddings(pixel_values)
        for layer in self.layers[: -self.config.num_blocks]:
            tokens = layer(tokens)
        return tokens

    def _decode(self, tokens: torch.Tensor, before: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """
        One frame of each video: its tokens `(B, N, C)` and the queries of the frame before to the tokens after the
        last layer, queries first, and the queries to carry on.
        """
        queries = self.query.weight.expand(len(tokens), -1, -1)
        if before is not None:
            queries = self.query_updater(before) + queries
        tokens = torch.cat((queries, tokens), dim=1)
        for layer in self.layers[-self.config.num_blocks :]:
            tokens = layer(tokens)
        return self.layernorm(tokens), self._queries(tokens)

    def _queries(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, : self.config.num_queries]

    def _masks(self, tokens: torch.Tensor, chosen: torch.Tensor | None) -> torch.Tensor:
        """Mask logits `(B, k, h, w)` of the chosen queries in one frame."""
        queries = chosen_of(self._queries(tokens), chosen)
        patches = tokens[:, self.config.num_queries + self.embeddings.num_prefix_tokens :]
        features = self.upscale_block(patches.transpose(1, 2).unflatten(2, self.grid_size))
        return torch.einsum("bqc, bchw -> bqhw", self.mask_head(queries), features)

    def _check_size(self, pixel_values_videos: torch.Tensor) -> None:
        size = (self.config.image_size, self.config.image_size)
        if tuple(pixel_values_videos.shape[3:]) != size:
            raise ValueError(
                f"pixel_values_videos has frames of {tuple(pixel_values_videos.shape[3:])} (height, width) and the "
                f"model knows {size} only: take the video processor of its checkpoint, with this size"
            )


__all__ = ["VideomtForVideoInstanceSegmentation", "VideomtVisVideoProcessor"]
