"""Masks of each instance for itself."""

from typing import TYPE_CHECKING

import numpy as np

from ...files import written_aside
from ..rle import decode_mask
from .sink import FolderSink

if TYPE_CHECKING:
    from ..video_instances import VideoInstances


class InstanceMasksSink(FolderSink):
    """
    A folder for each track, `001`, `002`, ..., of PNGs `00000.png`, ..., by the number of the frame, of the frames in
    which it is visible: 255 is the object, 0 is not. Masks may overlap. That is how SA-V keeps the masks of a video.
    """

    def _write(self, instances: "VideoInstances") -> None:
        from PIL import Image

        for index, masks in enumerate(instances.masks):
            folder = self._partial / f"{instances.track_ids[index]:03d}"
            for frame, rle in masks.visible():
                folder.mkdir(exist_ok=True)
                image = Image.fromarray(decode_mask(rle).astype(np.uint8) * 255)
                with written_aside(folder / self._png_name(frame)) as unfinished:
                    image.save(unfinished, compress_level=1)  # twice as fast, and they are small
