"""JSON Lines: what was found, frame by frame, as it is found."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..line_format import frame_lines, header_line
from .sink import LinesSink

if TYPE_CHECKING:
    from ..video_instances import VideoInstances


class JsonLinesSink(LinesSink):
    """JSON Lines, as `line_format` describes them: read back by `read_json_lines` and `VideoInstances.load_json`."""

    def _header(self, instances: "VideoInstances") -> str:
        return header_line(instances, self.video_id, self.category_ids)

    def _lines(self, instances: "VideoInstances") -> Iterable[str]:
        return frame_lines(instances, self.category_ids)
