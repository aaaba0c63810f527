"""Leaves each object of a video with one track."""

import numpy as np

from ..results.video_instances import VideoInstances
from .stitching import mask_overlap


def suppress_duplicates(instances: VideoInstances, iou_threshold: float = 0.5) -> VideoInstances:
    """
    Leave out tracks that show the object of a better one once more, whatever their class.

    The masks of two tracks are compared over the frames in which the one with the lower score is visible, so that a
    short second track of an object that is seen for long goes as well: summed intersection over summed union. Tracks
    are looked at from the best score on, and compared with those that stay.

    Args:
        instances: the tracks of one video.
        iou_threshold: 0..1, the IoU above which a track is left out. 1 leaves all.

    Returns:
        Those that stay, in the order given.
    """
    number = len(instances)
    intersection, union = np.zeros((number, number)), np.zeros((number, number))  # [i, j]: where j is visible
    for frame in range(instances.num_frames if number > 1 and iou_threshold < 1 else 0):
        masks = [track[frame] for track in instances.masks]
        overlap, areas, _ = mask_overlap(masks, masks)
        intersection += overlap
        union += (areas + areas.T - overlap) * (areas.T > 0)
    iou = intersection / np.maximum(union, 1)
    kept: list[int] = []
    for track in np.argsort(-instances.scores, kind="stable"):
        if not (iou[kept, track] > iou_threshold).any():
            kept.append(track)
    return instances[sorted(kept)]
