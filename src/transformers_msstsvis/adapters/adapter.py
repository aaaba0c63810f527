"""
What all adapters have in common.

Letters: B videos, T frames, Q queries, K labels, k queries with masks, h w pixels of the masks.
"""

from typing import Any, ClassVar

import torch
from transformers import BaseVideoProcessor

from ..models.auto import MODELS
from ..models.vis.modeling_vis import CheckedLoading, check_video, frame_sizes_of, take
from ..models.vis.video_processing_vis import VisVideoProcessor


class Adapter(CheckedLoading):
    """
    Mixin for a subclass of a model of transformers whose forward takes videos and returns
    [`VideoInstanceSegmentationOutput`], without boxes.

    Attributes:
        video_processor_class: of the processor that belongs to it.
    """

    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    video_processor_class: ClassVar[type[VisVideoProcessor]]

    def own_processor(self, processor: BaseVideoProcessor) -> VisVideoProcessor:
        """The processor that belongs to the model, with the settings of the one that its checkpoint names."""
        if isinstance(processor, self.video_processor_class):
            return processor
        settings = {name: value for name, value in processor.to_dict().items() if name != "video_processor_type"}
        return self.video_processor_class.from_dict(settings)

    def check_inputs(
        self, pixel_values_videos: torch.Tensor, pixel_mask: torch.Tensor | None, labels: Any
    ) -> torch.Tensor:
        """
        `(B, T, 2)` height and width of the real pixels of every frame, zero for padding frames.

        Raises:
            TypeError, ValueError: for a batch of another kind or shape, or with labels.
        """
        if labels is not None:
            raise ValueError(
                f"labels were given, and {type(self).__name__} can be used, but not trained; expected one of "
                f"{', '.join(MODELS)} for that"
            )
        return frame_sizes_of(check_video(pixel_values_videos, pixel_mask))


class AdapterPostProcessing:
    """What the outputs of adapters lack."""

    predicts_boxes = False


def chosen_of(queries: torch.Tensor, chosen: torch.Tensor | None) -> torch.Tensor:
    """Those of `queries (B, Q, C)` that get masks, `(B, k, C)`; all where `chosen (B, k)` is None."""
    return queries if chosen is None else take(queries, chosen)


def log_odds(class_logits: torch.Tensor) -> torch.Tensor:
    """`(..., K + 1)` class logits, of which the last is "no object", to `(..., K)` log-odds of each class."""
    return torch.logit(class_logits.float().softmax(-1)[..., :-1], eps=1e-7)
