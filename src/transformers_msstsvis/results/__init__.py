"""What was found in a video: masks as run lengths, the one result type, its exporters and its pictures."""

from .json_lines import read_json_lines
from .overlap import without_overlap
from .rle import RLE, decode_mask, encode_mask
from .sinks import SINKS, Sink, open_sink
from .video_instances import VideoInstances

__all__ = [
    "RLE",
    "SINKS",
    "Sink",
    "VideoInstances",
    "decode_mask",
    "encode_mask",
    "open_sink",
    "read_json_lines",
    "without_overlap",
]
