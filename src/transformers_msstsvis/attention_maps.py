"""Where a model looks for a track: its sampling points in every frame, with their attention."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from .layers.query_sampling import QuerySampling, deformable_cross_attention, recorded_queries
from .models.vis.video_processing_vis import pad_videos
from .pipelines import VideoInstanceSegmentationPipeline
from .results.rle import RLE
from .results.video_instances import VideoInstances
from .tracking.stitching import mask_overlap


def attention_of_track(
    segmenter: VideoInstanceSegmentationPipeline,
    video: Any,
    instances: VideoInstances,
    track_id: int,
    max_frames: int | None = None,
    top_k: int = 10,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """
    Where a model looks for a track in the last decoder layer, frame by frame.

    The clips of the video run once more. In each, the track is the query among the `top_k` best ones whose masks cover
    those of the track most. Frames that clips share have the points of the earlier clip.

    Args:
        segmenter: the pipeline, whose model has deformable attention in its decoder.
        video: that the tracks were found in, whatever the pipeline reads.
        instances: the tracks.
        track_id: one of theirs.
        max_frames, top_k: as of the pipeline.

    Yields:
        Points `(k, 2)` x y in pixels of the frame, and their attention weights `(k,)`; none in the clips that do not
        show the track.

    Raises:
        ValueError: for a model without deformable attention in its decoder, or a track that there is not.
    """
    check_looks_at_points(segmenter)
    masks = instances.masks[index_of_track(instances, track_id)]

    def look() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        done = 0
        for clip in segmenter.preprocess(video, max_frames, on_error="raise"):
            start, stop = clip["start"], min(clip["stop"], len(masks))
            query, sampling = _query_of_track(segmenter, clip, masks[start:stop], top_k)
            for frame in range(done - start, stop - start):
                yield _places_in(sampling, query, frame, clip["size"])
            done = max(done, stop)

    return look()


def check_looks_at_points(segmenter: VideoInstanceSegmentationPipeline) -> None:
    """
    Raises:
        ValueError: for a model without deformable attention in its decoder.
    """
    deformable_cross_attention(segmenter.model)


def index_of_track(instances: VideoInstances, track_id: int) -> int:
    """
    Raises:
        ValueError: if there is no such track.
    """
    found = np.flatnonzero(instances.track_ids == track_id)
    if not len(found):
        there = ", ".join(map(str, sorted(instances.track_ids.tolist())))
        raise ValueError(
            f"there is no track {track_id}; expected {f'one of {there}' if there else 'one, but none was found'}"
        )
    return int(found[0])


def _query_of_track(
    segmenter: VideoInstanceSegmentationPipeline, clip: dict[str, Any], masks: list[RLE | None], top_k: int
) -> tuple[int | None, QuerySampling]:
    """The query of a clip that shows the masks of a track, None if there is none, and where all queries look."""
    processor, model = segmenter.video_processor, segmenter.model
    inputs = pad_videos([clip["pixels"]], processor.size_divisor)
    pixels, pixel_mask = (tensor.to(segmenter.device) for tensor in inputs)
    with torch.inference_mode(), recorded_queries(model) as recorded:
        outputs = model(pixel_values_videos=pixels, pixel_mask=pixel_mask, mask_top_k=top_k)
    found = processor.candidates(outputs, 0, 0.0, top_k)
    shown = processor.masks_of(outputs, 0, found, clip["size"], 0.5)
    common, union = np.zeros((1, len(shown))), np.zeros((1, len(shown)))
    for frame, mask in enumerate(masks):
        overlap, areas, others = mask_overlap([mask], [of_query[frame] for of_query in shown])
        common += overlap
        union += areas + others - overlap
    [sampling] = recorded
    padded, real = np.array(pixels.shape[-1:-3:-1]), outputs.frame_sizes[0].amax(0).flip(0).cpu().numpy()
    sampling = sampling._replace(points=sampling.points * torch.from_numpy(padded / real).float())
    query = int(found.queries[common[0].argmax()]) if common.any() else None
    return query, sampling


def _places_in(
    sampling: QuerySampling, query: int | None, frame: int, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Points in pixels and weights of all that the query of whatever frame looks at in this one."""
    if query is None:
        return np.zeros((0, 2), dtype=np.float32), np.zeros(0, dtype=np.float32)
    there = sampling.frames == frame  # (T, k)
    points = sampling.points[:, query][there].numpy() * np.array([size[1], size[0]], dtype=np.float32)
    return points, sampling.weights[:, query][there].numpy()
