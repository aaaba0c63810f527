"""
Tracks of a model that carries its queries from clip to clip: a query is the same object in the whole video.

Letters: T frames of a clip, Q queries, K labels, n queries that were found.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..results.candidates import check_boxes
from ..results.rle import RLE
from ..results.track_masks import TrackMasks
from ..results.video_instances import VideoInstances
from .stitcher import Stitcher


@dataclass
class QueryClip:
    """
    The queries that were found in one clip.

    Args:
        queries: `(n,)` their indices.
        masks: for each of them `T` masks, None where there is no pixel.
        class_logits: `(Q, K + 1)` mean over the frames of the clip; the last one is "no object".
        num_frames: T.
        top_k: pairs of a query and a class that are wanted of the video.
        size: `(H, W)` in pixels.
        fps: frames per second, if known.
        id2label: class names by label, if known.
    """

    queries: list[int]
    masks: list[list[RLE | None]]
    class_logits: torch.Tensor
    num_frames: int
    top_k: int
    size: tuple[int, int]
    fps: float | None = None
    id2label: Mapping[int, str] | None = None


def query_clip(
    outputs: Any,
    video: int,
    size: tuple[int, int],
    processor: Any,
    threshold: float,
    top_k: int,
    mask_threshold: float,
    boxes: str,
) -> QueryClip:
    """
    What a model found in one clip: the queries of its best pairs of a query and a class.

    Args:
        outputs: of the model, with `frame_logits (B, T, Q, K + 1)`.
        video: which row of them.
        size: `(H, W)` of the video in pixels.
        processor: of the model.
        threshold, top_k, mask_threshold, boxes: as of the pipeline.
    """
    check_boxes(boxes, outputs.pred_boxes is not None)
    found = processor.candidates(outputs, video, threshold, top_k)
    of_query = dict(zip(found.queries.tolist(), range(len(found.queries)), strict=True))
    rows = list(of_query.values())
    found = found._replace(**{name: getattr(found, name)[rows] for name in ("scores", "labels", "queries", "rows")})
    real = outputs.frame_sizes[video, :, 0] > 0
    return QueryClip(
        queries=list(of_query),
        masks=processor.masks_of(outputs, video, found, size, mask_threshold),
        class_logits=outputs.frame_logits[video][real].detach().float().mean(0).cpu(),
        num_frames=int(real.sum()),
        top_k=top_k,
        size=size,
    )


class QueryTracks(Stitcher):
    """
    Puts the clips of a video one behind the other: what a query shows is a track from the first frame to the last.

    The class logits of a query are the mean over the frames of the clips in which it was found; the best pairs of a
    query and a class are the tracks of a stretch. So a video of one clip gives what is published, and an object that
    comes late into a long video scores as high as others. A query that is there with several classes has a track, and
    an id, for each; that of its best class keeps its id when this class changes.
    """

    def __init__(self):
        super().__init__()
        self._masks: dict[int, dict[int, RLE]] = {}  # by query and frame
        self._logits: dict[int, tuple[torch.Tensor, int]] = {}  # by query: sum over frames, and how many
        self._ids: set[int] = set()

    def add(self, clip: QueryClip, start: int) -> None:
        """
        Add the next clip, whose first frame is `start`.

        Raises:
            ValueError: if the clip does not begin where the video so far ends.
        """
        if start != self.num_frames:
            raise ValueError(
                f"clip begins at frame {start} after {self.num_frames} frames; expected no gap or overlap"
            )
        for query, masks in zip(clip.queries, clip.masks, strict=True):
            total, frames = self._logits.get(query, (0.0, 0))
            added = clip.class_logits[query] * clip.num_frames
            self._logits[query] = (total + added, frames + clip.num_frames)
            visible = {frame: mask for frame, mask in enumerate(masks, start) if mask is not None}
            self._masks.setdefault(query, {}).update(visible)
        self._first_clip = self._first_clip or clip
        self.num_frames = start + clip.num_frames

    @property
    def alive(self) -> set[int]:
        """All, for any of them may come back."""
        return self._ids

    def _collect(self, start: int, stop: int) -> VideoInstances:
        first = self._first_clip
        masks = {query: self._in_frames(query, start, stop) for query in self._masks}
        queries = [query for query, of_query in masks.items() if of_query.start < of_query.stop]
        scores = torch.stack([self._probability(query) for query in queries]) if queries else torch.zeros(0, 1)
        best, pairs = scores.flatten().topk(min(first.top_k, scores.numel()))
        rows, labels = pairs // scores.shape[1], pairs % scores.shape[1]
        # Of a query's classes the best one is 0, the next 1, ...
        ranks = (scores[rows] > best[:, None]).sum(1)
        track_ids = ranks * len(first.class_logits) + torch.tensor(queries, dtype=torch.long)[rows] + 1
        self._ids |= {*track_ids.tolist()}
        return VideoInstances(
            scores=best.numpy(),
            labels=labels.numpy(),
            track_ids=track_ids.numpy(),
            masks=[masks[queries[row]] for row in rows.tolist()],
            boxes=None,
            size=first.size,
            num_frames=stop - start,
            fps=first.fps,
            id2label=first.id2label,
        )

    def _in_frames(self, query: int, start: int, stop: int) -> TrackMasks:
        frames = self._masks[query]
        visible = [frame for frame in frames if start <= frame < stop]
        if not visible:
            return TrackMasks([], num_frames=stop - start)
        first = min(visible)
        masks = [frames.get(frame) for frame in range(first, max(visible) + 1)]
        return TrackMasks(masks, first - start, stop - start)

    def _probability(self, query: int) -> torch.Tensor:
        """`(K,)` of every class."""
        total, frames = self._logits[query]
        return (total / frames).softmax(-1)[:-1]

    def _forget(self, stop: int) -> None:
        for query, frames in self._masks.items():
            self._masks[query] = {frame: mask for frame, mask in frames.items() if frame >= stop}
