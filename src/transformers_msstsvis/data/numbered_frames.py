"""The frames of a video that annotations call by their numbers."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .fields import listed
from .layouts import existing_frames_dir
from .mask_folders import images_of

_NUMBER = re.compile(r"(\d+)\D*$")  # the last one in a name
_FOLDERS = ("images", "JPEGImages", "frames", "image_02", "training/image_02")


class NumberedFrames(NamedTuple):
    """
    Attributes:
        folder: where they are; None where they were not found.
        names: of the files in it, in order, by number. If they were not found, made up ones of the visible frames.
        message: why they were not found.
    """

    folder: Path | None
    names: dict[int, str]
    message: str = ""


def find_numbered_frames(
    path: Path, frames_dir: str | Path | None, frames: range | None, visible: list[int]
) -> NumberedFrames:
    """
    The frames of a video, which are the images of one folder: in order if there are as many as the video has frames,
    otherwise by the last number in their names.

    Args:
        path: the file of the annotations.
        frames_dir: the folder, or one that holds it; around the file by default.
        frames: the numbers of all frames, if they are known. Images of others are left out.
        visible: the numbers of the frames that must be there.

    Raises:
        FileNotFoundError: when `frames_dir` does not exist.
    """
    places = list(_folders_of_frames(path, frames_dir))
    for folder in places:
        images = _by_number(images_of(folder), frames, visible)
        if images:
            return NumberedFrames(folder, {number: image.name for number, image in images.items()})
    wanted = f"images numbered as the frames with objects ({listed(visible)})"
    if frames is not None:
        wanted = f"{len(frames)} images, or {wanted}"
    message = (
        f"the frames of {path} were not found: no folder around it has {wanted}; looked in "
        f"{', '.join(map(str, places[:4])) or path.parent}. Export them with the annotations, extract those of a "
        "video as with `ffmpeg -i VIDEO -start_number 0 images/frame_%06d.png`, or pass frames_dir"
    )
    return NumberedFrames(None, {number: f"frame_{number:06d}.png" for number in visible}, message)


def _folders_of_frames(path: Path, frames_dir: str | Path | None) -> Iterator[Path]:
    """Folders of images where the frames of a file may be: those named so, and what is in them."""
    if frames_dir is not None:
        places = [existing_frames_dir(frames_dir)]
    else:
        parent = path.parent
        places = [*(parent / name for name in _FOLDERS), parent / path.stem, parent]
        places += [parent.parent / name for name in _FOLDERS]
    for place in dict.fromkeys(places):
        if not place.is_dir():
            continue
        below = [folder for folder in sorted(place.iterdir()) if folder.is_dir() and folder.name not in _FOLDERS]
        own = [folder for folder in below if folder.name in (path.stem, path.parent.name)]
        for folder in (place, *(own or below)):
            if images_of(folder):
                yield folder


def _by_number(images: list[Path], frames: range | None, visible: list[int]) -> dict[int, Path] | None:
    """The images by the number of the frame, in order, if they can be the frames."""
    if frames is not None and len(images) == len(frames):
        return dict(zip(frames, images, strict=True))
    numbers = [_NUMBER.search(image.stem) for image in images]
    if not images or None in numbers:
        return None
    found = {int(number[1][-18:]): image for number, image in zip(numbers, images, strict=True)}
    if len(found) < len(images) or not found.keys() >= set(visible):
        return None
    return {number: found[number] for number in sorted(found) if frames is None or number in frames}
