"""Label Studio: boxes of tracks, as it has no masks for video."""

from collections.abc import Iterator
from itertools import chain, pairwise
from typing import Any

from ..json_text import to_json, write_list
from ..track_masks import Sighting
from .sink import SpooledSink
from .spool import SpooledTrack


class LabelStudioSink(SpooledSink):
    """
    A task of Label Studio with predictions: a `videorectangle` for each track, with a key frame for every frame in
    which it is visible, x, y, width and height in percent of the frame. The last key frame before an absence is not
    `enabled`, which is how Label Studio ends a stretch.

    It fits a project with `<Video name="video" value="$video"/>`, `<VideoRectangle name="box" toName="video"/>` and
    `<Labels name="videoLabels" toName="video">`; `video_id` is what its tasks have as `video`.
    """

    def _finish(self) -> None:
        data = {"video": str(self.video_id)}
        self.write(
            f'[{{"data": {to_json(data)}, "predictions": [{{"model_version": "transformers_msstsvis", "result": '
        )
        write_list(self.write, map(self._region, self._spool.tracks()))
        self.write("}]}]\n")

    def _region(self, track: SpooledTrack) -> Iterator[str]:
        head = {
            "id": f"track-{track.track_id}",
            "from_name": "box",
            "to_name": "video",
            "type": "videorectangle",
            "origin": "prediction",
            "score": track.score,
            "meta": {"track_id": track.track_id},
        }
        value: dict[str, Any] = {"framesCount": self.length, "labels": [str(self._video.label_name(track.label))]}
        if self._video.fps is not None:
            value["duration"] = self.length / self._video.fps
        yield f'{to_json(head)[:-1]}, "value": {to_json(value)[:-1]}, "sequence": ['
        separator = ""
        for seen, following in pairwise(chain(self._spool.sightings(track), [None])):
            goes_on = following is not None and following.frame == seen.frame + 1
            yield separator + to_json(self._key_frame(seen, goes_on))
            separator = ", "
        yield "]}}"

    def _key_frame(self, seen: Sighting, goes_on: bool) -> dict[str, Any]:
        height, width = self._video.size
        x1, y1, x2, y2 = seen.box
        number = self._video.first_frame + seen.frame + 1  # Label Studio counts from 1
        key_frame = {
            "frame": number,
            "x": 100 * x1 / width,
            "y": 100 * y1 / height,
            "width": 100 * (x2 - x1) / width,
            "height": 100 * (y2 - y1) / height,
            "rotation": 0,
            "enabled": goes_on,
        }
        return key_frame if self._video.fps is None else {**key_frame, "time": number / self._video.fps}
