"""The frames that an annotation file names: found below their folder, and nowhere else."""

import io
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..video.images import read_orientation

_DRIVE = re.compile(r"[A-Za-z]:(?=[/\\])")


class OutsideError(ValueError):
    """A frame that is not below the folder of frames."""


def frame_path(frames_dir: str | Path, name: str) -> Path:
    """
    The file of a frame, whether it is there or not.

    Raises:
        OutsideError: when it is not below `frames_dir`, after all links are followed: whoever wrote an annotation file
            could name any file of the machine.
    """
    path, root = Path(frames_dir, name), os.path.realpath(frames_dir)
    try:
        real = os.path.realpath(path)
    except (OSError, ValueError) as error:
        raise OutsideError(f"{name[:60]!r} is no name of a file ({error}); expected one below {frames_dir}") from error
    if not real.startswith(os.path.join(root, "")):
        raise OutsideError(_message(name, frames_dir, real))
    return path


def _message(name: str, frames_dir: str | Path, target: str) -> str:
    return (
        f"{name!r} leads out of the frames folder {frames_dir}, to {target}; expected frames below it: pass as "
        "frames_dir a folder that holds them all, or use load_vis_dataset(..., allow_outside=True), --allow_outside, "
        "if you trust the annotations"
    )


def below(frames_dir: str | Path, name: str) -> str:
    """
    The name of a frame relative to `frames_dir`, with slashes.

    Raises:
        OutsideError: as [`frame_path`]; links are followed only for names that may lead out.
    """
    # Elsewhere than on Windows, a backslash may be part of a name.
    if "\\" in name and not os.path.isfile(os.path.join(frames_dir, name)):
        name = name.replace("\\", "/")
    if not (name.startswith("/") or _DRIVE.match(name) or ".." in name.split("/")):
        return name
    if _DRIVE.match(name) and not os.path.isabs(name):  # of Windows, and this is none
        raise OutsideError(_message(name, frames_dir, "another drive"))
    path = frame_path(frames_dir, name)
    return Path(os.path.realpath(path)).relative_to(os.path.realpath(frames_dir)).as_posix()


def last_parts(name: str, dropped: int) -> str:
    """A name, with slashes or backslashes and perhaps of another machine, without its first folders."""
    parts = parts_of(name)
    return "/".join(parts[min(dropped, len(parts) - 1) :])


def parts_of(name: str) -> list[str]:
    """The folders of a name and its last part, without a drive."""
    parts = [part for part in _DRIVE.sub("", name, count=1).replace("\\", "/").split("/") if part not in ("", ".")]
    return parts or [name]


def common_folder(frames_dir: str | Path, names: Sequence[str]) -> tuple[Path, list[str]]:
    """The deepest folder that holds all of these frames, wherever they are, and their names relative to it."""
    paths = [os.path.realpath(os.path.join(frames_dir, name)) for name in names]
    root = os.path.realpath(frames_dir)
    if all(path.startswith(os.path.join(root, "")) for path in paths):
        return Path(frames_dir), [Path(path).relative_to(root).as_posix() for path in paths]
    folder = Path(os.path.commonpath([os.path.dirname(path) for path in paths]))
    return folder, [Path(path).relative_to(folder).as_posix() for path in paths]


def turned_note(image: str | Path | bytes, size: Sequence[int], expected: Sequence[int]) -> str:
    """
    Why a frame of another size than expected is so, if its EXIF orientation is the reason; otherwise nothing.

    Args:
        image: the file, or its content.
        size, expected: height and width of the frame, and as the annotations say.
    """
    if list(size) == list(expected) or list(size)[::-1] != list(expected):
        return ""
    orientation = read_orientation(io.BytesIO(image) if isinstance(image, bytes) else image)
    if orientation < 5:  # not turned on its side
        return ""
    return (
        f" (it is stored with {expected[0]}x{expected[1]} pixels, and its EXIF orientation {orientation} turns it to "
        f"{size[0]}x{size[1]}, as every viewer does: annotate the turned frames, or remove the tag from the files, as "
        "with `exiftool -Orientation= FILES`)"
    )
