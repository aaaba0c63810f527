"""What was found in a video: masks as run lengths, the one result type, its exporters and its pictures."""

from .rle import RLE, decode_mask, encode_mask
from .video_instances import VideoInstances

__all__ = ["RLE", "VideoInstances", "decode_mask", "encode_mask"]
