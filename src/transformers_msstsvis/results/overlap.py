"""Every pixel to one instance."""

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
from pycocotools import mask as coco_mask

from .rle import RLE, encode_mask
from .track_masks import TrackMasks

if TYPE_CHECKING:
    from .video_instances import VideoInstances


def without_overlap(instances: "VideoInstances") -> "VideoInstances":
    """
    Give every pixel of a frame to one instance: that with the higher score, at equal scores that with the smaller
    track id.

    Masks without a pixel left become None, and the boxes of masks that lose pixels are those of what is left. All
    instances stay, in their order.

    Args:
        instances: what was found in a video, or in a stretch of one.

    Returns:
        The same without overlaps; `instances` itself where there are none.
    """
    in_front = np.lexsort((instances.track_ids, -instances.scores))
    rank = np.empty_like(in_front)
    rank[in_front] = np.arange(len(in_front))
    changed: dict[int, dict[int, RLE | None]] = defaultdict(dict)
    for frame in range(instances.num_frames):
        visible = instances.present(frame)
        visible = visible[np.argsort(rank[visible])].tolist()
        masks = [instances.masks[index][frame] for index in visible]
        if len(masks) < 2:
            continue
        # pycocotools compares boxes first, and masks only where these meet.
        overlaps = np.tril(coco_mask.iou(masks, masks, [0] * len(masks)) > 0, -1)
        for place in np.flatnonzero(overlaps.any(1)):
            hidden = coco_mask.merge([masks[other] for other in np.flatnonzero(overlaps[place])])
            pixels = coco_mask.decode([masks[place], hidden])
            changed[visible[place]][frame] = encode_mask(pixels[..., 0] > pixels[..., 1])
    return _with_masks(instances, changed) if changed else instances


def _with_masks(instances: "VideoInstances", changed: dict[int, dict[int, RLE | None]]) -> "VideoInstances":
    """With other masks of some instances in some frames, and the boxes of these."""
    all_masks, boxes, frame_scores = [], [], []
    for index, masks in enumerate(instances.masks):
        stretch, of_track = masks.stretch(), instances.boxes_of(index)
        for frame, rle in changed.get(index, {}).items():
            stretch[frame - masks.start] = rle
            of_track[frame - masks.start] = np.nan
        kept = TrackMasks(stretch, masks.start, instances.num_frames)
        part = slice(kept.start - masks.start, kept.stop - masks.start) if kept.stop else slice(0, 0)
        all_masks.append(kept)
        boxes.append(of_track[part])
        if instances.scores_frames:
            frame_scores.append(instances.frame_scores_of(index)[part])
    return type(instances)(
        scores=instances.scores,
        labels=instances.labels,
        track_ids=instances.track_ids,
        masks=all_masks,
        boxes=boxes,
        size=instances.size,
        num_frames=instances.num_frames,
        fps=instances.fps,
        id2label=instances.id2label,
        frame_scores=frame_scores if instances.scores_frames else None,
        first_frame=instances.first_frame,
    )
