"""YouTube-VIS: results lists and annotation files, whose entries list every frame of the video."""

from collections.abc import Callable, Iterator
from typing import Any

from ..json_text import ANNOTATION, RESULT, SCORED_RESULT, Columns, to_json, track_text, write_list
from .sink import SpooledSink
from .spool import SpooledTrack


class YtvisSink(SpooledSink):
    """The results list of YouTube-VIS, as of `VideoInstances.to_ytvis`, for evaluators: best score first."""

    def _finish(self) -> None:
        columns = SCORED_RESULT if self._spool.scores_frames else RESULT
        write_list(self.write, self._entries(self._head, columns))
        self.write("\n")

    def _entries(self, head: Callable[[SpooledTrack], dict[str, Any]], columns: Columns) -> Iterator[Iterator[str]]:
        for track in self._spool.tracks():
            yield track_text(head(track), lambda track=track: self._spool.sightings(track), self.num_frames, columns)

    def _head(self, track: SpooledTrack) -> dict[str, Any]:
        return {
            "video_id": self.video_id,
            "category_id": self.category_id(track.label),
            "score": track.score,
            "track_id": track.track_id,
            "label": self._video.label_name(track.label),
        }


class YtvisAnnotationsSink(YtvisSink):
    """
    An annotation file of YouTube-VIS with one video, as data sets have it: `load_vis_dataset` reads it. The id of an
    annotation is that of its track.
    """

    def _finish(self) -> None:
        height, width = self._video.size
        video = {"id": self.numeric_id, "height": height, "width": width, "length": self.num_frames}
        self.write(f'{{"videos": [{to_json(video)[:-1]}, "file_names": ')
        write_list(self.write, ([to_json(self.file_name(index))] for index in range(self.num_frames)))
        self.write(f'}}], "categories": {to_json(self.categories())}, "annotations": ')
        write_list(self.write, self._entries(self._annotation_head, ANNOTATION))
        self.write("}\n")

    def _annotation_head(self, track: SpooledTrack) -> dict[str, Any]:
        return {
            "id": track.track_id,
            "video_id": self.numeric_id,
            "category_id": self.category_id(track.label),
            "iscrowd": 0,
            "score": track.score,
        }
