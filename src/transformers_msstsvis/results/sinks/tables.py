"""A table of boxes."""

import csv
import io
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..values import category_id, plain_number
from .sink import LinesSink

if TYPE_CHECKING:
    from ..video_instances import VideoInstances

COLUMNS = ("frame", "time", "track_id", "label", "category_id", "score", "x1", "y1", "x2", "y2", "area")


class CsvSink(LinesSink):
    """
    CSV with a row for each instance in each frame in which it is visible: the frame of the video from 0, its time in
    seconds (empty where the frame rate is unknown), class name, box in pixels (x2 and y2 are the far edges of the last
    pixels) and pixels of the mask.
    """

    def _header(self, instances: "VideoInstances") -> str:
        return _row(COLUMNS)

    def _lines(self, instances: "VideoInstances") -> Iterable[str]:
        for frame in range(instances.num_frames):
            place = instances.first_frame + frame
            time = "" if instances.fps is None else round(place / instances.fps, 6)
            for index in instances.present(frame).tolist():
                label, seen = instances.labels[index], instances.sighting(index, frame)
                yield _row(
                    (
                        place,
                        time,
                        instances.track_ids[index],
                        instances.label_name(label),
                        category_id(instances, label, self.category_ids),
                        plain_number(instances.scores[index]),
                        *seen.box,
                        seen.area,
                    )
                )


def _row(values: Iterable) -> str:
    row = io.StringIO()
    csv.writer(row, lineterminator="\n").writerow(values)
    return row.getvalue()
