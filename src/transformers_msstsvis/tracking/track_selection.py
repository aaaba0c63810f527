"""Which tracks of a video are its results: those that score enough, of the classes wanted, each object once."""

from collections.abc import Collection

import numpy as np

from ..results.video_instances import VideoInstances
from .stitching import mask_overlap


class TrackSelection:
    """
    Chooses among the tracks of a video, stretch by stretch, and numbers those that it shows 1, 2, ... as they come.

    A track is shown from the stretch on in which its score reaches the threshold, and then as long as it is there. It
    is left out where it covers a better one, of whatever class: the masks of the two are compared over all frames so
    far in which the one with the lower score is visible, so that a short second track of an object that is seen for
    long goes as well: summed intersection over summed union. Tracks are looked at from the best score on, those that
    are already shown before others, and compared with those that stay.

    Args:
        threshold: smallest score, 0..1.
        duplicate_iou: 0..1, the IoU above which a track is left out. 1 leaves all.
        labels: of the tracks that are wanted; all by default.
    """

    def __init__(self, threshold: float = 0.0, duplicate_iou: float = 1.0, labels: Collection[int] | None = None):
        self.threshold, self.duplicate_iou = threshold, duplicate_iou
        self.labels = None if labels is None else list(labels)
        self._numbers: dict[int, int] = {}  # by track
        self._num_tracks = 0
        self._shown: set[int] = set()
        self._areas: dict[int, float] = {}  # by track
        self._shared: dict[tuple[int, int], tuple[float, float]] = {}  # by pair: overlap, area of the first, in pixels

    def __call__(self, stretch: VideoInstances, alive: Collection[int] | None = None) -> VideoInstances:
        """
        Those to show of the next stretch, best first.

        Args:
            stretch: the tracks of some frames, with their ids and with the scores known so far.
            alive: ids of tracks that later stretches may have; all others are forgotten.
        """
        stretch = stretch[[masks.start < masks.stop for masks in stretch.masks]]
        self._compare(stretch)
        wanted = stretch.scores >= np.float32(self.threshold)
        wanted |= np.isin(stretch.track_ids, list(self._shown))
        if self.labels is not None:
            wanted &= np.isin(stretch.labels, self.labels)
        chosen = stretch[self._first_of_each(stretch, wanted)]
        self._shown = self._shown.difference(stretch.track_ids.tolist()) | {*chosen.track_ids.tolist()}
        chosen.track_ids = np.array([self._number(track) for track in chosen.track_ids.tolist()], dtype=np.int64)
        if alive is not None:
            self._forget(alive)
        return chosen[np.argsort(-chosen.scores, kind="stable")]

    def _compare(self, stretch: VideoInstances) -> None:
        """Add up what the tracks share in these frames."""
        if self.duplicate_iou >= 1:
            return
        for frame in range(stretch.num_frames if len(stretch) else 0):
            there = stretch.present(frame)
            tracks = stretch.track_ids[there].tolist()
            masks = [stretch.masks[index][frame] for index in there]
            overlaps, areas, _ = mask_overlap(masks, masks)
            for first, row, area in zip(tracks, overlaps.tolist(), areas[:, 0].tolist(), strict=True):
                self._areas[first] = self._areas.get(first, 0.0) + area
                for second, overlap in zip(tracks, row, strict=True):
                    before = self._shared.get((first, second), (0.0, 0.0))
                    self._shared[first, second] = (before[0] + overlap, before[1] + area)

    def _first_of_each(self, stretch: VideoInstances, wanted: np.ndarray) -> list[int]:
        """Rows of the wanted tracks without those that show an object once more."""
        shown = np.isin(stretch.track_ids, list(self._shown))
        kept: list[int] = []
        for row in np.lexsort((-stretch.scores, ~shown)):
            if wanted[row] and not any(self._iou(stretch, better, row) > self.duplicate_iou for better in kept):
                kept.append(int(row))
        return sorted(kept)

    def _iou(self, stretch: VideoInstances, better: int, row: int) -> float:
        """Over the frames in which the track in the row is visible."""
        first, second = int(stretch.track_ids[better]), int(stretch.track_ids[row])
        overlap, area = self._shared.get((first, second), (0.0, 0.0))
        return overlap / max(area + self._areas.get(second, 0.0) - overlap, 1.0)

    def _number(self, track: int) -> int:
        if track not in self._numbers:
            self._num_tracks += 1
            self._numbers[track] = self._num_tracks
        return self._numbers[track]

    def _forget(self, alive: Collection[int]) -> None:
        alive = {*alive}
        self._numbers = {track: number for track, number in self._numbers.items() if track in alive}
        self._shown &= alive
        self._areas = {track: area for track, area in self._areas.items() if track in alive}
        self._shared = {pair: shared for pair, shared in self._shared.items() if alive.issuperset(pair)}


def suppress_duplicates(instances: VideoInstances, iou_threshold: float = 0.5) -> VideoInstances:
    """The tracks of a video without those that show an object once more, as of [`TrackSelection`]."""
    selection = TrackSelection(duplicate_iou=iou_threshold)
    selection._compare(instances)
    return instances[selection._first_of_each(instances, np.ones(len(instances), dtype=bool))]
