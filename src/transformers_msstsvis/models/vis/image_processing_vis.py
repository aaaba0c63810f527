"""Image processors of all models: a still is a video of one frame."""

from os import PathLike

import numpy as np
import torch
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import SizeDict, is_pil_image
from transformers.processing_utils import ImagesKwargs

from ...video.download import is_url
from ...video.images import read_image
from ...video.inputs import channels_first, check_pixels
from .post_processing_vis import VisPostProcessing
from .video_processing_vis import VisInput, check_aspect_ratio, make_batch


class VisImageProcessorKwargs(ImagesKwargs, total=False):
    """
    size_divisor (`int`, *optional*):
        Pad height and width to multiples of it.
    """

    size_divisor: int | None


class VisImageProcessorMixin(VisPostProcessing, VisInput):
    """What the image processors share whatever they resize with."""

    valid_kwargs = VisImageProcessorKwargs

    def fetch_images(self, image_url_or_urls):
        """Files as the frames of a video are read, see [`~transformers_msstsvis.video.images.read_image`]."""
        if isinstance(image_url_or_urls, str | PathLike) and not is_url(image_url_or_urls):
            return read_image(image_url_or_urls)
        return super().fetch_images(image_url_or_urls)

    def process_image(self, image, input_data_format=None, device=None, **kwargs) -> torch.Tensor:
        """
        One PIL image, read as a frame is, or array to `(3, H, W)`, values unchanged.

        Raises:
            ValueError: for another rank, or no axis of three channels.
        """
        if is_pil_image(image):
            image, input_data_format = read_image(image), "channels_last"
        if image.ndim != 3:
            raise ValueError(
                f"the image has shape {tuple(image.shape)}; expected (height, width, 3) or (3, height, width): repeat "
                "a grey channel three times"
            )
        image = channels_first(image[None], input_data_format)[0]
        return image if device is None else image.to(device)

    def _preprocess(
        self,
        images: list[torch.Tensor],
        do_resize: bool,
        size: SizeDict,
        resample,
        do_center_crop: bool | None = None,
        do_rescale: bool = True,
        rescale_factor: float = 1 / 255,
        do_normalize: bool = True,
        image_mean=None,
        image_std=None,
        do_pad: bool | None = True,
        pad_size=None,
        size_divisor: int | None = None,
        return_tensors=None,
        **kwargs,
    ) -> BatchFeature:
        if do_center_crop:
            raise ValueError("do_center_crop is not supported: masks are mapped back to the whole image; crop before")
        videos = []
        for image in images:
            image = self._for_backend(check_pixels(image, do_rescale), do_rescale)
            if do_resize:
                check_aspect_ratio(image, size)
                image = self.resize(image, size=size, resample=resample)
            image = self._rescale_and_normalize(image, do_rescale, rescale_factor, do_normalize, image_mean, image_std)
            videos.append(image[None])
        return make_batch(videos, do_pad, size_divisor, pad_size, return_tensors)


class VisImageProcessor(VisImageProcessorMixin, TorchvisionBackend):
    r"""
    Base of all image processors: every image becomes a video of one frame.

    The arguments are those of [`VisVideoProcessor`]. Calling it takes an image or a list of images of any sizes:
    PIL images, arrays `(H, W, 3)` or `(3, H, W)`, paths or URLs. It returns `pixel_values_videos (B, 1, 3, H, W)`
    float32 and `pixel_mask (B, 1, H, W)` int64, 1 = real pixel.

    Raises:
        ValueError: for images of a wrong shape or layout, or with pixels that are NaN or out of range.
    """

    def _for_backend(self, image: torch.Tensor, do_rescale: bool) -> torch.Tensor:
        return image.contiguous()

    def _rescale_and_normalize(self, image: torch.Tensor, *settings) -> torch.Tensor:
        return self.rescale_and_normalize(image, *settings)


class VisImageProcessorPil(VisImageProcessorMixin, PilBackend):
    """[`VisImageProcessor`] that resizes with Pillow, as the published code does; the rest is the same."""

    def _for_backend(self, image: torch.Tensor, do_rescale: bool) -> np.ndarray:
        # Pillow resizes RGB images as bytes only.
        return (image.round().to(torch.uint8) if do_rescale else image).cpu().numpy()

    def _rescale_and_normalize(
        self, image: np.ndarray, do_rescale, rescale_factor, do_normalize, image_mean, image_std
    ) -> torch.Tensor:
        if do_rescale:
            image = self.rescale(image, rescale_factor)
        if do_normalize:
            image = self.normalize(image, image_mean, image_std)
        return torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))


__all__ = ["VisImageProcessor", "VisImageProcessorPil"]
