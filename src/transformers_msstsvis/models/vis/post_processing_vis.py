"""From model outputs to `VideoInstances`, for the processors of all models.

Letters: B videos, T frames, Q queries, K labels, n candidates, k queries with masks.
"""

import math
from collections.abc import Mapping, Sequence
from numbers import Real

import numpy as np
import torch
from transformers.image_transforms import center_to_corners_format
from transformers.utils import ModelOutput

from ...results.candidates import Candidates, best_pairs, check_boxes, check_count
from ...results.mask_resizing import resized_mask
from ...results.rle import RLE
from ...results.video_instances import VideoInstances


class VisPostProcessing:
    """
    From model outputs to `VideoInstances`, for the processors of all models. A model whose outputs mean something else
    overrides [`~VisPostProcessing.candidates`], [`~VisPostProcessing.masks_of`] or [`~VisPostProcessing.mask_size`].

    Attributes:
        min_frame_score: below it an object is absent from a frame, for models that score every frame.
        predicts_boxes: whether the model predicts boxes beside the masks.
    """

    min_frame_score: float | None = None
    predicts_boxes: bool = True

    def post_process_video_instance_segmentation(
        self,
        outputs: ModelOutput,
        target_sizes: Sequence[tuple[int, int]] | torch.Tensor | None = None,
        threshold: float = 0.0,
        top_k: int = 10,
        mask_threshold: float = 0.5,
        id2label: Mapping[int, str] | None = None,
        boxes: str = "mask",
    ) -> list[VideoInstances]:
        """
        Turn model outputs into the instances of every video, as the published code does.

        Of a video the `top_k` best candidates are kept. Mask logits are resized bilinearly (half-pixel centres) to the
        target size, one frame at a time, and compared with the logit of `mask_threshold`; they are never held at full
        size for more than one frame. Padding of the batch is undone first: frames without real pixels are left out,
        and mask logits cropped to the map of the unpadded video.

        Args:
            outputs: [`VideoInstanceSegmentationOutput`]; with `mask_query_indices` only the queries that have masks
                count, with `mask_label_indices` only these pairs.
            target_sizes: `(height, width)` in pixels of every original video; the size of the model's input by
                default.
            threshold: smallest score, 0..1.
            top_k: candidates to keep per video.
            mask_threshold: probability, strictly between 0 and 1, above which a pixel belongs to the instance.
            id2label: class names, put into the results.
            boxes: `"mask"`: around the mask of each frame. `"model"`: as the model predicts them beside the masks,
                clipped to the frame; the two part where a video is unlike those of the training.

        Returns:
            One [`VideoInstances`] per video, best score first, track ids 1 to n. Instances without a single pixel in
            all frames are left out, and so are candidates whose score is not a number, with a warning.

        Raises:
            TypeError: if `outputs` are not what a model returns.
            ValueError: for missing masks, a wrong number of target sizes, or arguments out of range; if the best
                candidates contain a query whose masks were not computed.
        """
        _check_arguments(outputs, target_sizes, threshold, top_k, mask_threshold, boxes)
        frame_sizes = outputs.frame_sizes.cpu()
        results = []
        for video in range(len(frame_sizes)):
            real = frame_sizes[video, :, 0] > 0
            height, width = frame_sizes[video].amax(0).tolist()
            size = (height, width) if target_sizes is None else tuple(int(side) for side in target_sizes[video])
            if len(size) != 2 or (min(size) < 1 and real.any()):
                raise ValueError(f"target size of video {video} is {size}; expected (height, width) in pixels")

            found = self.candidates(outputs, video, threshold, top_k)
            masks = self.masks_of(outputs, video, found, size, mask_threshold)
            if found.frame_scores is not None and self.min_frame_score is not None:
                shown = (found.frame_scores[:, real] >= self.min_frame_score).tolist()
                masks = [
                    [mask if there else None for mask, there in zip(*frames, strict=True)]
                    for frames in zip(masks, shown, strict=True)
                ]
            corners = None
            if boxes == "model":
                corners = outputs.pred_boxes[video].detach().float().cpu()[found.queries][:, real]
                corners = center_to_corners_format(corners).clamp(0, 1) * torch.tensor([size[1], size[0]] * 2)
            keep = [index for index, frames in enumerate(masks) if any(mask is not None for mask in frames)]
            results.append(
                VideoInstances(
                    scores=found.scores[keep].numpy(),
                    labels=found.labels[keep].numpy(),
                    track_ids=np.arange(1, len(keep) + 1),
                    masks=[masks[index] for index in keep],
                    boxes=None if corners is None else corners[keep].numpy(),
                    size=size,
                    num_frames=int(real.sum()),
                    id2label=None if id2label is None else dict(id2label),
                    frame_scores=None if found.frame_scores is None else found.frame_scores[keep][:, real].numpy(),
                )
            )
        return results

    def candidates(self, outputs: ModelOutput, video: int, threshold: float, top_k: int) -> Candidates:
        """
        What may be in one video of the batch: the `top_k` best pairs of a query and a class that score at least
        `threshold`, so that a query can appear with several classes.
        """
        scores = outputs.logits[video].detach().float().sigmoid().cpu()  # (Q, K)
        with_masks, of_labels = (
            None if indices is None else indices[video].cpu()
            for indices in (outputs.mask_query_indices, outputs.mask_label_indices)
        )
        return best_pairs(scores, with_masks, threshold, top_k, video, of_labels)

    def masks_of(
        self, outputs: ModelOutput, video: int, found: Candidates, size: tuple[int, int], mask_threshold: float
    ) -> list[list[RLE | None]]:
        """The mask of every candidate in every real frame, `size` (height, width), None where it has no pixel."""
        frame_sizes = outputs.frame_sizes[video]
        rows, columns = (self.mask_size(side) for side in frame_sizes.amax(0).tolist())
        distinct, row_of_candidate = found.rows.unique(return_inverse=True)
        logits = outputs.pred_masks[video][..., :rows, :columns]
        logits = logits[distinct.to(logits.device)][:, frame_sizes[:, 0].to(logits.device) > 0]
        frames = logits.detach().float().cpu()
        masks = [[resized_mask(frame, size, mask_threshold) for frame in of_query] for of_query in frames]
        return [masks[row] for row in row_of_candidate]

    def unpadded(self, outputs: ModelOutput, video: int) -> ModelOutput:
        """
        One video of the batch alone, without frames and pixels of the padding: its logits, boxes, and masks, as logits
        of the whole frame.
        """
        real = outputs.frame_sizes[video, :, 0] > 0
        rows, columns = (self.mask_size(side) for side in outputs.frame_sizes[video].amax(0).tolist())
        names = ("logits", "frame_logits", "pred_boxes", "pred_masks", "mask_query_indices", "mask_label_indices")
        one = {name: outputs[name][video, None] for name in names if outputs.get(name) is not None}
        if "pred_boxes" in one:
            one["pred_boxes"] = one["pred_boxes"][:, :, real]
        one["pred_masks"] = one["pred_masks"][:, :, real, :rows, :columns]
        if "frame_logits" in one:
            one["frame_logits"] = one["frame_logits"][:, real]
        return type(outputs)(**one, frame_sizes=outputs.frame_sizes[video, None, real])

    def mask_size(self, side: int) -> int:
        """Rows or columns of the mask logits of a frame with `side` pixels: those of a map of stride 4."""
        return math.ceil(side / 4)


def with_frame_scores(found: Candidates, outputs: ModelOutput, video: int) -> Candidates:
    """Candidates with the score of their label in every frame, from the `frame_logits` of one sigmoid per class."""
    probability = outputs.frame_logits[video].detach().float().sigmoid().cpu()  # (T, Q, K)
    return found._replace(frame_scores=probability[:, found.queries, found.labels].T)


def _check_arguments(outputs, target_sizes, threshold, top_k, mask_threshold, boxes) -> None:
    if not isinstance(outputs, ModelOutput) or "frame_sizes" not in outputs:
        raise TypeError(
            f"outputs are of type {type(outputs).__name__}; expected what the model returns for a batch of videos"
        )
    if outputs.pred_masks is None:
        raise ValueError(
            "outputs hold no pred_masks, as in training with labels; put the model into eval mode, or pass mask_top_k"
        )
    if not 0 < mask_threshold < 1:
        raise ValueError(f"mask_threshold is {mask_threshold}; expected a probability between 0 and 1, both excluded")
    check_count("top_k", top_k)
    if not isinstance(threshold, Real):
        raise ValueError(f"threshold is {threshold!r}; expected a number")
    check_boxes(boxes, outputs.pred_boxes is not None)
    if target_sizes is not None and len(target_sizes) != len(outputs.frame_sizes):
        raise ValueError(
            f"{len(target_sizes)} target_sizes were given for {len(outputs.frame_sizes)} videos; expected one "
            "(height, width) for each"
        )
