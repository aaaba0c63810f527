"""What a user may pass as a video: one or several, its layout, and the range of its values.

Letters: T frames, H and W height and width in pixels.
"""

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.image_utils import ChannelDimension, is_pil_image

from .download import is_url
from .images import IMAGE_SUFFIXES


def list_videos(videos: Any) -> list[Any]:
    """
    Tell one video from several.

    Args:
        videos: one video: a path, URL, folder or glob pattern; bytes or a file object; an array `(T, H, W, 3)` or
            `(T, 3, H, W)`; a list of frames, which are PIL images, arrays `(H, W, 3)` or `(3, H, W)`, or image files.
            Or several: a list of such, which may differ in kind, layout and size, or an array of five dimensions.

    Returns:
        The videos, one after the other.

    Raises:
        ValueError: for an empty list, a wrong number of dimensions, frames and videos in one list, or deeper nesting.
        TypeError: for anything else.
    """
    if isinstance(videos, str | PathLike) or is_file_content(videos):
        return [videos]
    if is_array(videos):
        if videos.ndim == 5:
            return list(videos)
        if videos.ndim == 4:
            return [videos]
        hint = ": add the frame dimension of a single image with [None]" if videos.ndim == 3 else ""
        raise ValueError(
            f"the video has shape {tuple(videos.shape)}; expected (frames, height, width, 3) or "
            f"(frames, 3, height, width){hint}"
        )
    if is_pil_image(videos):
        raise ValueError("the video is a single image; put it into a list, or use the image processor")
    if not isinstance(videos, list | tuple):
        raise TypeError(
            f"the video is of type {type(videos).__name__}; expected a path or URL, an array, a list of frames, or a "
            "list of videos"
        )
    if not videos:
        raise ValueError("the list of videos is empty; expected at least one video, or the frames of one")
    if is_one_video(videos):
        return [videos]
    if any(_is_frame(item) and not isinstance(item, str | PathLike) for item in videos):
        raise ValueError("the list mixes frames with videos; pass the frames of one video, or a list of videos")
    singles = [list_videos(item) for item in videos]
    if any(len(single) > 1 for single in singles):
        raise ValueError("the list of videos holds a list of videos; pass them as one flat list")
    return [single for [single] in singles]


def is_one_video(videos: Any) -> bool:
    """Whether this is one video and not several: anything but a list, unless it is a list of frames, and five axes."""
    if isinstance(videos, list | tuple):
        return all(_is_frame(item) for item in videos)
    return not (is_array(videos) and videos.ndim == 5)


def is_file_content(source: Any) -> bool:
    """Whether this is the content of a file: bytes, or a file object."""
    return isinstance(source, bytes | bytearray | memoryview) or callable(getattr(source, "read", None))


def is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | torch.Tensor)


def _is_frame(value: Any) -> bool:
    if isinstance(value, str | PathLike):
        return not is_url(value) and Path(value).suffix.lower() in IMAGE_SUFFIXES and not Path(value).is_dir()
    return is_pil_image(value) or (is_array(value) and value.ndim == 3)


def channels_first(video: np.ndarray | torch.Tensor, input_data_format: str | None = None) -> torch.Tensor:
    """
    Bring an array to `(T, 3, H, W)`; the channel axis is the one of length 3, unless `input_data_format` says.

    Raises:
        ValueError: for another rank, no frame, no axis of three channels, or two candidates for it.
    """
    video = torch.as_tensor(video)
    shape = tuple(video.shape)
    expected = "expected (frames, height, width, 3) or (frames, 3, height, width)"
    if video.ndim != 4:
        raise ValueError(f"the video has shape {shape}; {expected}")
    if input_data_format is None:
        if shape[1] == shape[-1] == 3:
            raise ValueError(
                f"the video has shape {shape}, where channels could come first or last; say which with "
                'input_data_format="channels_first" or "channels_last"'
            )
        input_data_format = ChannelDimension.LAST if shape[-1] == 3 else ChannelDimension.FIRST
    if ChannelDimension(input_data_format) == ChannelDimension.LAST:
        video = video.movedim(-1, 1)
    if video.shape[1] != 3:
        raise ValueError(
            f"the video has shape {shape} without an axis of 3 channels where one belongs; {expected}: repeat a grey "
            "channel three times, drop an alpha channel, put frames before channels"
        )
    if 0 in shape:
        raise ValueError(f"the video has shape {shape}, which is empty; {expected} with at least one frame")
    return video


def check_pixels(video: torch.Tensor, do_rescale: bool | None) -> torch.Tensor:
    """
    Check the values of a video and bring them to 0..255.

    Args:
        video: any shape; integers in 0..255, or floats in 0..255, or in 0..1 where no value of the video exceeds 1.
        do_rescale: if false the values are taken as they are, so that any finite ones will do.

    Returns:
        uint8, or float32 where floats were given.

    Raises:
        ValueError: for NaN or infinite values, values outside of 0..255, or booleans.
    """
    if video.dtype == torch.bool or video.is_complex():
        raise ValueError(f"the video is of type {video.dtype}; expected integers in 0..255, or floats")
    if video.dtype == torch.uint8:
        return video
    if video.is_floating_point():
        video = video.float()
    lowest, highest = (value.item() for value in video.aminmax())
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise ValueError(
            "the video has pixels that are NaN or infinite; repair them, for example with torch.nan_to_num"
        )
    if not do_rescale:
        return video.float()
    if lowest < 0 or highest > 255:
        raise ValueError(
            f"the video has pixels from {lowest:g} to {highest:g}; expected 0..255 or 0..1: undo a normalisation, or "
            "pass do_rescale=False and do_normalize=False if it is to stay"
        )
    if not video.is_floating_point():
        return video.to(torch.uint8)
    return video * 255 if highest <= 1 else video
