"""Stretches of tracks in a temporary file, until all of the video is known."""

import json
import struct
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..track_masks import Sighting
from ..values import plain_number

if TYPE_CHECKING:
    from ..video_instances import VideoInstances

# Before each record: where the next one of the same track is (0: none), its track, its stretch, its bytes.
_HEAD = struct.Struct("<qqqq")
_PLACE = struct.Struct("<q")


class SpooledTrack(NamedTuple):
    """Label and score as they were known last, and where the first and the last record are."""

    track_id: int
    label: int
    score: float
    first: int
    last: int


class Spool:
    """
    Tracks of a video, stretch by stretch. In memory is only where the first and the last of each track lie; each says
    where the next is.

    Args:
        folder: where the file is, that of temporary files by default; it has no name there, so that it goes with the
            process, however that ends.

    Attributes:
        scores_frames: whether scores of frames are known of all.
    """

    def __init__(self, folder: Path | None):
        self._file = tempfile.TemporaryFile(dir=folder)
        self._end = 0
        self._stretches = 0
        self._tracks: dict[int, SpooledTrack] = {}
        self.scores_frames = True

    def append(self, instances: "VideoInstances", start: int) -> None:
        """Add a stretch of the video whose first frame counts as frame `start`."""
        height, width = instances.size
        records, changed, place = [], {}, self._end
        for index, masks in enumerate(instances.masks):
            if masks.start == masks.stop:
                continue
            track = int(instances.track_ids[index])
            frames = [
                (start + frame, rle["counts"], box, frame_score)
                for frame, rle, box, frame_score in instances.sightings(index)
            ]
            content = json.dumps(frames, allow_nan=False).encode()
            records.append(_HEAD.pack(0, track, self._stretches, len(content)) + content)
            first = self._tracks[track].first if track in self._tracks else place
            label, score = int(instances.labels[index]), plain_number(instances.scores[index])
            changed[track] = SpooledTrack(track, label, score, first, place)
            place += len(records[-1])
        self._file.seek(self._end)
        self._file.writelines(records)
        self._file.flush()
        # Now that it is written; what a full disk has cut is written over.
        for track in changed.keys() & self._tracks.keys():
            self._file.seek(self._tracks[track].last)
            self._file.write(_PLACE.pack(changed[track].last))
        self._file.flush()
        self._end, self._stretches = place, self._stretches + 1
        self._tracks |= changed
        self.scores_frames = self.scores_frames and (instances.scores_frames or not changed)
        self._size = [height, width]

    def tracks(self) -> list[SpooledTrack]:
        """All tracks, best score first, then by id."""
        return sorted(self._tracks.values(), key=lambda track: (-track.score, track.track_id))

    def sightings(self, track: SpooledTrack) -> Iterator[Sighting]:
        """Those of one track, frame by frame."""
        place: int | None = track.first
        while place is not None:
            following = self._head(place)[0]
            yield from self._record(place)
            place = following or None

    def in_order(self) -> Iterator[tuple[SpooledTrack, Sighting]]:
        """Those of all tracks, in the order of the frames, and within a frame in which tracks were given."""

        for _, records in groupby(self._records(), key=lambda record: record[1]):
            found = [(self._tracks[track], seen) for track, _, place in records for seen in self._record(place)]
            yield from sorted(found, key=lambda pair: pair[1].frame)

    def _records(self) -> Iterator[tuple[int, int, int]]:
        """Track, stretch and place of each."""
        place = 0
        while place < self._end:
            _, track, stretch, length = self._head(place)
            yield track, stretch, place
            place += _HEAD.size + length

    def _head(self, place: int) -> tuple[int, int, int, int]:
        self._file.seek(place)
        return _HEAD.unpack(self._file.read(_HEAD.size))

    def _record(self, place: int) -> list[Sighting]:
        length = self._head(place)[-1]
        frames = json.loads(self._file.read(length))
        return [
            Sighting(frame, {"size": list(self._size), "counts": counts}, box, frame_score)
            for frame, counts, box, frame_score in frames
        ]

    def close(self) -> None:
        self._file.close()
