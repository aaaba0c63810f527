"""Video processor of MS-STS VIS: videos of any kind to a padded batch, and model outputs to `VideoInstances`.

Letters: B videos, T frames, H and W height and width in pixels.
"""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ChannelDimension,
    PILImageResampling,
    SizeDict,
    is_pil_image,
)
from transformers.processing_utils import VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata, make_batched_metadata

from ...video.download import is_url
from ...video.images import IMAGE_SUFFIXES
from .post_processing_vis import post_process_video_instance_segmentation


def list_videos(videos: Any) -> list[Any]:
    """
    Tell one video from several.

    Args:
        videos: one video: a path, URL, folder or glob pattern; an array `(T, H, W, 3)` or `(T, 3, H, W)`; a list of
            frames, which are PIL images, arrays `(H, W, 3)` or `(3, H, W)`, or image files. Or several: a list of
            such, which may differ in kind, layout and size, or an array of five dimensions.

    Returns:
        The videos, one after the other.

    Raises:
        ValueError: for an empty list, a wrong number of dimensions, frames and videos in one list, or deeper nesting.
        TypeError: for anything else.
    """
    if isinstance(videos, str | PathLike):
        return [videos]
    if _is_array(videos):
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
    return not (_is_array(videos) and videos.ndim == 5)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | torch.Tensor)


def _is_frame(value: Any) -> bool:
    if isinstance(value, str | PathLike):
        return not is_url(value) and Path(value).suffix.lower() in IMAGE_SUFFIXES and not Path(value).is_dir()
    return is_pil_image(value) or (_is_array(value) and value.ndim == 3)


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


def check_aspect_ratio(video: torch.Tensor, size: SizeDict) -> None:
    """
    Raises:
        ValueError: for frames `(..., H, W)` so narrow that not one pixel is left of a side after resizing to `size`,
            and for a size below one pixel.
    """
    given = {name: side for name, side in dict(size).items() if side is not None}
    if any(side < 1 for side in given.values()):
        raise ValueError(f"size is {given}; expected at least one pixel a side")
    shorter, longer = sorted(video.shape[-2:])
    if size.longest_edge and shorter * size.longest_edge < longer:
        raise ValueError(
            f"the frames have size {tuple(video.shape[-2:])} (height, width), of which less than a pixel is left "
            f"after resizing to a longest edge of {size.longest_edge}; crop them, or give a larger size"
        )


def pad_videos(
    videos: list[torch.Tensor], size_divisor: int | None = None, pad_size: SizeDict | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Pad videos at the bottom, at the right and in time to one size.

    Args:
        videos: tensors `(T, 3, H, W)` of any sizes.
        size_divisor: height and width become multiples of it.
        pad_size: height and width of the result; by default the largest of the videos.

    Returns:
        Pixel values `(B, T, 3, H, W)`, zero in the padding, and pixel mask `(B, T, H, W)` int64, 1 = real pixel.

    Raises:
        ValueError: if a video is larger than `pad_size`.
    """
    frames, height, width = (max(video.shape[axis] for video in videos) for axis in (0, 2, 3))
    if pad_size is not None:
        if height > pad_size.height or width > pad_size.width:
            raise ValueError(
                f"pad_size is {(pad_size.height, pad_size.width)}, but after resizing the videos reach "
                f"{(height, width)} (height, width); give a larger pad_size or a smaller size"
            )
        height, width = pad_size.height, pad_size.width
    if size_divisor:
        height, width = (-(-side // size_divisor) * size_divisor for side in (height, width))
    values, masks = [], []
    for video in videos:
        padding = (0, width - video.shape[3], 0, height - video.shape[2])
        in_time = (0, frames - video.shape[0])
        values.append(F.pad(video, (*padding, 0, 0, *in_time)))
        real = torch.ones_like(video[:, 0], dtype=torch.int64)
        masks.append(F.pad(real, (*padding, *in_time)))
    return torch.stack(values), torch.stack(masks)


def make_batch(
    videos: list[torch.Tensor],
    do_pad: bool | None,
    size_divisor: int | None = None,
    pad_size: SizeDict | None = None,
    return_tensors=None,
) -> BatchFeature:
    """
    Videos `(T, 3, H, W)` to the inputs of the model: padded with a mask, or else as a list, or one tensor on request.

    Raises:
        ValueError: if one tensor is wanted of videos that differ in shape and are not padded.
    """
    if do_pad:
        values, mask = pad_videos(videos, size_divisor, pad_size)
        return BatchFeature({"pixel_values_videos": values, "pixel_mask": mask}, tensor_type=return_tensors)
    shapes = sorted({tuple(video.shape) for video in videos})
    if return_tensors is not None and len(shapes) > 1:
        raise ValueError(f"the videos have shapes {shapes} and share no batch unpadded; pass do_pad=True")
    return BatchFeature({"pixel_values_videos": videos}, tensor_type=return_tensors)


class MsstsVisVideoProcessorKwargs(VideosKwargs, total=False):
    """
    size_divisor (`int`, *optional*):
        Pad height and width to multiples of it.
    """

    size_divisor: int | None


class MsstsVisVideoProcessor(BaseVideoProcessor):
    r"""
    Video processor of MS-STS VIS and of the models that share its input.

    Frames are resized, rescaled to 0..1, normalised with the ImageNet statistics and padded at the bottom, at the
    right and in time, so that videos of different sizes and lengths share a batch. Files are decoded with PyAV.

    Args:
        size (`dict`, *optional*, defaults to `{"shortest_edge": 360, "longest_edge": 640}`):
            Size in pixels after resizing; the aspect ratio is kept.
        do_pad (`bool`, *optional*, defaults to `True`):
            Pad to the largest video of the batch and return `pixel_mask`.
        size_divisor (`int`, *optional*):
            Pad height and width to multiples of it.
        do_resize, resample, do_rescale, rescale_factor, do_normalize, image_mean, image_std, do_sample_frames,
            num_frames, fps, return_metadata, device:
            As in every video processor. With `do_rescale=False` the values of arrays are taken as they are; otherwise
            they are integers in 0..255, or floats in 0..255 or, where no value of a video exceeds 1, in 0..1.

    Calling it takes one video or a list of them: a path, URL, folder or glob pattern; an array or tensor
    `(T, H, W, 3)` or `(T, 3, H, W)`; a list of PIL images, arrays or image files, which are the frames of one video.
    Every video of a list may have its own kind, layout and size. It returns `pixel_values_videos (B, T, 3, H, W)`
    float32 and `pixel_mask (B, T, H, W)` int64, 1 = real pixel; a frame without any is padding in time.

    Raises:
        ValueError: for videos of a wrong shape or layout, without frames, or with pixels that are NaN or out of range.
        FileNotFoundError: for a path that does not exist.

    Example:

    ```python
    >>> import numpy as np
    >>> from transformers_msstsvis import MsstsVisVideoProcessor

    >>> processor = MsstsVisVideoProcessor()
    >>> inputs = processor(np.zeros((5, 720, 1280, 3), dtype=np.uint8), return_tensors="pt")
    >>> inputs["pixel_values_videos"].shape
    torch.Size([1, 5, 3, 360, 640])
    ```
    """

    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"shortest_edge": 360, "longest_edge": 640}
    default_to_square = False
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_pad = True
    do_sample_frames = False
    size_divisor = None
    model_input_names = ["pixel_values_videos", "pixel_mask"]
    valid_kwargs = MsstsVisVideoProcessorKwargs

    post_process_video_instance_segmentation = staticmethod(post_process_video_instance_segmentation)

    def fetch_videos(self, video_url_or_urls, sample_indices_fn: Callable | None = None):
        """
        Decode one video, or a list of them, with PyAV.

        Args:
            video_url_or_urls: path, URL, folder or glob pattern, or the list of a video's frames; or a list of videos.
            sample_indices_fn: metadata to the indices of the frames to keep; all by default.

        Returns:
            Frames `(T, H, W, 3)` uint8 RGB and [`VideoMetadata`]; for several videos a list of each.
        """
        # Imported here, as everywhere: models do not depend on how data is read until a file is given.
        from ...video.reader import VideoReader

        videos = list_videos(video_url_or_urls)
        if not is_one_video(video_url_or_urls):
            fetched = [self.fetch_videos(video, sample_indices_fn) for video in videos]
            return [frames for frames, _ in fetched], [metadata for _, metadata in fetched]
        reader = VideoReader(videos[0])
        if sample_indices_fn is None:
            frames = list(reader)
            metadata = _metadata(frames, reader.fps, len(frames))
        else:
            # A first pass counts the frames: what files announce is not always there.
            total, first = 0, None
            for frame in reader:
                total, first = total + 1, frame if first is None else first
            metadata = _metadata([first], reader.fps, total)
            metadata.frames_indices = _sampled(sample_indices_fn, metadata)
            wanted = set(metadata.frames_indices)
            kept = {index: frame for index, frame in enumerate(reader) if index in wanted}
            frames = [kept[index] for index in metadata.frames_indices]
        return np.stack(frames), metadata

    def _decode_and_sample_videos(
        self, videos, video_metadata=None, do_sample_frames: bool | None = None, sample_indices_fn=None
    ) -> tuple[list, list[VideoMetadata]]:
        videos = list_videos(videos)
        given = None if video_metadata is None else make_batched_metadata(videos, video_metadata)
        sample_indices_fn = sample_indices_fn if do_sample_frames else None
        decoded, metadata = [], []
        for index, video in enumerate(videos):
            if isinstance(video, list | tuple) and all(_is_array(frame) for frame in video):
                video = _stack_frames(video)
            if _is_array(video):
                about = _metadata(video, None, len(video))
                if given is not None:
                    about.update({name: value for name, value in given[index].items() if value is not None})
                if sample_indices_fn is not None and len(video):
                    about.frames_indices = _sampled(sample_indices_fn, about)
                    video = video[about.frames_indices]
            else:
                video, about = self.fetch_videos(video, sample_indices_fn)
            decoded.append(video)
            metadata.append(about)
        return decoded, metadata

    def _prepare_input_videos(
        self, videos: list, do_convert_rgb: bool | None = None, input_data_format=None, device=None
    ) -> list[torch.Tensor]:
        # Decoded files are channels last, whatever the arrays beside them are.
        videos = [channels_first(video, input_data_format) for video in videos]
        return [video if device is None else video.to(device) for video in videos]

    def _preprocess(
        self,
        videos: list[torch.Tensor],
        do_resize: bool,
        size: SizeDict,
        resample,
        do_center_crop: bool | None,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean,
        image_std,
        do_pad: bool | None,
        size_divisor: int | None = None,
        return_tensors=None,
        **kwargs,
    ) -> BatchFeature:
        if do_center_crop:
            raise ValueError("do_center_crop is not supported: masks are mapped back to the whole frame; crop before")
        processed = []
        for video in videos:
            video = check_pixels(video, do_rescale)
            if do_resize:
                check_aspect_ratio(video, size)
                video = self.resize(video.contiguous(), size=size, resample=resample)
            video = self.rescale_and_normalize(video, do_rescale, rescale_factor, do_normalize, image_mean, image_std)
            processed.append(video)
        return make_batch(processed, do_pad, size_divisor, return_tensors=return_tensors)


def _metadata(video, fps: float | None, total: int) -> VideoMetadata:
    last = len(video) > 0 and video[0].shape[-1] == 3
    height, width = (None, None) if not len(video) else video[0].shape[:2] if last else video[0].shape[-2:]
    return VideoMetadata(
        total_num_frames=total,
        fps=fps,
        width=width,
        height=height,
        duration=total / fps if fps else None,
        frames_indices=list(range(total)),
    )


def _sampled(sample_indices_fn: Callable, metadata: VideoMetadata) -> list[int]:
    indices = [int(index) for index in sample_indices_fn(metadata=metadata)]
    if not indices:
        raise ValueError(
            f"no frame is left of {metadata.total_num_frames} after sampling; raise num_frames or fps, or pass "
            "do_sample_frames=False"
        )
    return indices


def _stack_frames(frames: list) -> torch.Tensor:
    shapes = sorted({tuple(frame.shape) for frame in frames})
    if len(shapes) > 1:
        raise ValueError(f"the frames of a video have shapes {shapes}; expected one shape: resize them first")
    return torch.stack([torch.as_tensor(frame) for frame in frames])


__all__ = ["MsstsVisVideoProcessor"]
