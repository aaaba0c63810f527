"""Video processor of all models: videos of any kind to a padded batch, and model outputs to `VideoInstances`.

Letters: B videos, T frames, H and W height and width in pixels.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    PILImageResampling,
    SizeDict,
)
from transformers.processing_utils import VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata, make_batched_metadata

from ...results.candidates import check_count
from ...video.inputs import channels_first, check_pixels, is_array, is_one_video, list_videos
from .post_processing_vis import VisPostProcessing


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


MAX_FRAMES = 36  # what fits into 8 GB with a ResNet-50 at the published size


class ClipPlan(NamedTuple):
    """
    How a long video is cut.

    Attributes:
        num_frames: of a clip.
        stride: frames from the start of a clip to that of the next.
        full: whether the last clip begins earlier so that it has `num_frames` frames, too.
    """

    num_frames: int
    stride: int
    full: bool = False


class VisVideoProcessorKwargs(VideosKwargs, total=False):
    """
    size_divisor (`int`, *optional*):
        Pad height and width to multiples of it.
    clip_stride (`int`, *optional*):
        Frames from one clip of a long video to the next.
    tracker (`str`, *optional*):
        What joins the clips of a long video to tracks.
    tracker_options (`dict`, *optional*):
        Options of the tracker.
    """

    size_divisor: int | None
    clip_stride: int | None
    tracker: str | None
    tracker_options: dict | None


class VisInput:
    """What processors of videos and of images do unless they are told otherwise."""

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
    size_divisor = None
    model_input_names = ["pixel_values_videos", "pixel_mask"]


class VisVideoProcessor(VisPostProcessing, VisInput, BaseVideoProcessor):
    r"""
    Base of all video processors, complete but for what a model does differently: its sizes, and how its outputs become
    results, see [`VisPostProcessing`].

    Frames are resized, rescaled to 0..1, normalised with the ImageNet statistics and padded at the bottom, at the
    right and in time, so that videos of different sizes and lengths share a batch. Files are decoded with PyAV.

    Args:
        size (`dict`, *optional*, defaults to `{"shortest_edge": 360, "longest_edge": 640}`):
            Size in pixels after resizing; the aspect ratio is kept.
        do_pad (`bool`, *optional*, defaults to `True`):
            Pad to the largest video of the batch and return `pixel_mask`.
        size_divisor (`int`, *optional*):
            Pad height and width to multiples of it.
        clip_stride (`int`, *optional*):
            Frames from one clip of a long video to the next; five sixths of a clip by default, and where clips are not
            longer than it.
        tracker (`str`, *optional*, defaults to `"iou"`):
            What joins the clips of a long video to tracks: `"iou"`, the IoU of their masks ([`TrackStitcher`]), or
            `"devis"`, several cues ([`MultiCueStitcher`]).
        tracker_options (`dict`, *optional*):
            Options of the tracker, such as `{"center_cost": 1}`.
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
    """

    do_sample_frames = False
    clip_stride = None
    tracker = "iou"
    tracker_options = None
    valid_kwargs = VisVideoProcessorKwargs

    def clip_plan(self, config, max_frames: int | None = None) -> ClipPlan:
        """
        How a long video is cut for a model.

        Args:
            config: of the model; its `clip_length` is that of every clip if it knows no other.
            max_frames: longest clip of a model that takes any; 36 by default.

        Raises:
            ValueError: for another `max_frames` than a model's only length, or a `clip_stride` that is no number.
        """
        fixed = getattr(config, "clip_length", None)
        if fixed is not None and max_frames not in (None, fixed):
            raise ValueError(
                f"max_frames is {max_frames}; {config.model_type} knows clips of {fixed} frames only: leave it out"
            )
        length = fixed or max_frames or MAX_FRAMES
        stride = length - min(length // 6 or 1, length - 1)
        if self.clip_stride is not None:
            check_count("clip_stride", self.clip_stride)
            if self.clip_stride < length:
                stride = self.clip_stride
        return ClipPlan(length, stride, full=fixed is not None)

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
            if isinstance(video, list | tuple) and all(is_array(frame) for frame in video):
                video = _stack_frames(video)
            if is_array(video):
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


__all__ = ["VisVideoProcessor"]
