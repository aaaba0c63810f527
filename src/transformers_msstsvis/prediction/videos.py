"""The videos that are meant by names, folders and patterns."""

import glob
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from transformers.utils import logging

from ..files import files_of
from ..video.download import is_url, name_of_url
from ..video.images import IMAGE_SUFFIXES, ImageError, count_images
from ..video.reader import natural_key

logger = logging.get_logger(__name__)

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv"),
    *(".3gp", ".ogv", ".mxf", ".gif"),
)

# A file, URL, folder of frames or glob pattern, or the files of its frames.
Video = str | PathLike | list[str | PathLike]


def list_videos(sources: Sequence[str | PathLike]) -> list[Video]:
    """
    The videos that are meant: text files (`.txt`) name one in each line; folders that hold videos, and no frames,
    stand for these; so do patterns that match videos. Several images, which a shell makes of a pattern, are the frames
    of one video. Everything else stands for itself.

    Raises:
        ValueError: if there is none.
    """
    sources = [name for source in sources for name in _listed_in(source)]
    images = [source for source in sources if not is_url(source) and Path(source).suffix.lower() in IMAGE_SUFFIXES]
    if len(sources) > 1 and len(images) == len(sources) and not _are_animations(images):
        return [sorted(sources, key=natural_key)]
    videos: list[Video] = []
    for source in sources:
        path = Path(source).expanduser()
        found = []
        if not is_url(source) and path.is_dir():
            inside = [file for file in path.iterdir() if not file.name.startswith(".") and file.is_file()]
            images = [file for file in inside if file.suffix.lower() in IMAGE_SUFFIXES]
            found = [file for file in inside if file.suffix.lower() in VIDEO_SUFFIXES]
            if images and _are_animations(images):
                found += images
            elif images and found:
                logger.warning(
                    f"{path} is read as the frames of one video, its {len(images)} images; the {len(found)} videos in "
                    f"it are not: name them, such as '{path}/*{found[0].suffix}'"
                )
                found = []
        elif not is_url(source) and not path.exists() and glob.has_magic(str(path)):
            matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
            if not any(match.suffix.lower() in IMAGE_SUFFIXES for match in matches):
                found = [match for match in matches if match.is_file() and match.suffix.lower() in VIDEO_SUFFIXES]
        videos += sorted(found, key=natural_key) or [source]
    if not videos:
        raise ValueError("no video was given; expected at least one")
    return videos


def video_name(video: Video) -> str:
    """A name for the results of a video: that of its file or folder without suffix."""
    if isinstance(video, list):
        name = Path(video[0]).absolute().parent.name
    elif is_url(video):
        name = name_of_url(video)
    else:
        path = Path(video).expanduser()
        name = path.name if path.is_dir() else path.stem
    return "".join("_" if character in '/\\:*?"<>|\0' else character for character in name).strip(". ") or "video"


def _listed_in(source: str | PathLike) -> list[str | PathLike]:
    """The lines of a text file, but for empty ones and those that begin with #; anything else stands for itself."""
    path = Path(source).expanduser()
    if is_url(source) or path.suffix.lower() != ".txt" or not path.is_file():
        return [source]
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    names = [line for line in lines if line and not line.startswith("#")]
    # As a shell would find them, or else beside the list.
    return [name if is_url(name) or Path(name).exists() else _beside(path, name) for name in names]


def _beside(listing: Path, name: str) -> str:
    there = listing.parent / name
    return str(there) if there.exists() else name


def video_files(video: Video) -> list[Path]:
    """What is read for a video: of a folder its images."""
    files = files_of(video)
    folders = [path for path in files if path.is_dir()]
    return [path for path in files if not folders or path in folders or path.suffix.lower() in IMAGE_SUFFIXES]


def _are_animations(images: Sequence[str | PathLike]) -> bool:
    """Whether images are videos, and not the frames of one, by the first of them."""
    try:
        return count_images(images[0])[0] > 1
    except (OSError, ImageError):
        return False
