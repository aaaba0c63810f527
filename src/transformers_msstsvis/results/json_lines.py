"""JSON Lines of a video read back, while it is written or afterwards."""

from collections.abc import Iterator
from os import PathLike

from .line_format import read_stretches
from .video_instances import VideoInstances


def read_json_lines(path: str | PathLike, num_frames: int = 64) -> Iterator[VideoInstances]:
    """
    Read what a sink of kind `"jsonl"` wrote, a stretch of the video at a time; `VideoInstances.join` makes one result
    of them, as `VideoInstances.load_json` does at once.

    A last line that was cut, because the process that wrote it was killed, is left out.

    Args:
        path: the file.
        num_frames: of a stretch; the last one may be shorter. A file without frames gives one stretch without any.

    Raises:
        ValueError: if the file is no JSON Lines of this kind, or frames are missing.
    """
    return read_stretches(VideoInstances, path, num_frames)
