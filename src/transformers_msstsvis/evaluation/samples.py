"""Pictures of what was found in videos, for the eye."""

from collections.abc import Sequence
from os import PathLike

import numpy as np
from PIL import Image

from ..results.drawing import contact_sheet, draw_instances
from ..results.video_instances import VideoInstances
from ..video.images import read_image

SAMPLE_THRESHOLD = 0.3
SAMPLE_FRAMES = 4
SAMPLE_WIDTH = 1600  # pixels of a drawn sample, at most


def prediction_sheet(frames: Sequence[str | PathLike], found: VideoInstances) -> np.ndarray:
    """
    Frames of a video side by side with the instances of a score of 0.3 or more, uint8 `(H, W, 3)`.

    Args:
        frames: image files of the whole video, of which up to four are drawn.
        found: what was found in it.

    Raises:
        ImageError: when a frame can't be read.
        ValueError: when it is of another size than the masks.
    """
    found = found.filter(SAMPLE_THRESHOLD)
    chosen = np.linspace(0, len(frames) - 1, min(SAMPLE_FRAMES, len(frames))).round().astype(int).tolist()
    drawn = [draw_instances(read_image(frames[frame]), found, frame) for frame in chosen]
    sheet = Image.fromarray(contact_sheet(drawn, columns=len(drawn)))
    sheet.thumbnail((SAMPLE_WIDTH, sheet.height))
    return np.asarray(sheet)
