"""Reads videos from anything a user may have, one frame at a time, and writes them.

Frames are RGB, uint8 `(H, W, 3)`. `T` frames, `H`, `W` frame height and width in pixels.
"""

import contextlib
import glob
import io
import math
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from numbers import Real
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from transformers.utils import logging

from .download import download, is_url, name_of_url
from .images import IMAGE_SUFFIXES, ImageError, count_images, is_image, read_image, read_images
from .inputs import is_file_content

if TYPE_CHECKING:
    import torch

logger = logging.get_logger(__name__)


class VideoReader:
    """The frames of a video, decoded while they are iterated over; can be iterated over again and again.

    Args:
        source: one of
            - path of a video file that FFmpeg reads (mp4, webm, gif, ...), of an animation (WebP, APNG, AVIF) or of
              an image with pages (TIFF), or an http(s) URL of a video, which is downloaded first;
            - the bytes of such a file, or a file object opened for reading in binary mode, which is read to its end;
            - path of a folder of frames (jpg, jpeg, png, bmp, webp, tif, tiff, avif), in natural order (`2.jpg` before
              `10.jpg`), or a glob pattern of such files;
            - list of frames: paths, PIL images or arrays `(H, W, 3)` or `(3, H, W)`;
            - array or tensor `(T, H, W, 3)` or `(T, 3, H, W)`.
            Arrays hold RGB as integers in 0..255, or floats in 0..1 (if no value of the video is above 1) or 0..255.
        fps: frame rate. Replaces the one that a video file declares, and supplies it for the other sources, which
            have none. No frame is dropped or repeated for it.
        public_urls: refuse URLs that lead, also by a name or a redirect, to this machine or its private networks. For
            services that read what strangers name.

    Images are read by [`~transformers_msstsvis.video.images.read_image`]. Files that name other files (playlists) are
    refused, whatever their suffix.

    Attributes:
        fps: frames per second, or None if unknown.
        num_frames: how many frames the source announces, None where it doesn't say (webm, gif); after a full pass,
            how many there were.
        name: file or folder name without suffix, `"video"` for frames in memory.
        problems: what could not be read, in words; each is also logged once as a warning. A broken video gives every
            frame before the break. A frame that is unreadable, or has another size than the first, is left out.

    Raises:
        FileNotFoundError: if a path does not exist.
        TypeError: if the source is of another kind.
        OSError: if a URL can't be fetched, or not in time, or its file is too large.
        ValueError: if there is nothing to read: not a video, no video stream, an empty folder, no match of a pattern;
            or if an array's layout or values are not those above. While iterating: if not one frame can be read.
    """

    def __init__(
        self,
        source: "str | PathLike | list | tuple | np.ndarray | torch.Tensor",
        fps: float | None = None,
        public_urls: bool = False,
    ):
        if fps is not None and not (isinstance(fps, Real) and fps > 0):
            raise ValueError(f"fps is {fps!r}; expected a positive number of frames per second, or None")
        self.fps = fps
        self.public_urls = public_urls
        self.num_frames: int | None = None
        self.name = "video"
        self.problems: list[str] = []
        self._where = str(source) if isinstance(source, str | PathLike) else "video"
        self._read = self._open(source)

    def __iter__(self) -> Iterator[np.ndarray]:
        size, count = None, 0
        for index, frame in enumerate(self._read()):
            size = size or frame.shape[:2]
            if frame.shape[:2] != size:
                self._report(
                    f"frame {index} has size {frame.shape[:2]} instead of {size} (height, width) and is left out"
                )
                continue
            count += 1
            yield frame
        if count == 0:
            reasons = f" ({'; '.join(self.problems)})" if self.problems else ""
            raise ValueError(f"{self._where}: not one frame could be read{reasons}; check it with a video player")
        self.num_frames = count

    def _report(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)
            logger.warning(f"{self._where}: {problem}.")

    def _open(self, source: Any) -> Callable[[], Iterator[np.ndarray]]:
        """Choose how to read, check what can be checked without decoding, and return a function that gives frames."""
        if is_url(source):
            # Kept, because the file goes away with it.
            self._download = download(source, self._report, self.public_urls)
            self.name = name_of_url(source)
            return self._open_file(Path(self._download.name))
        if is_file_content(source):
            self._download = _temporary_file(source)
            self.name = Path(str(getattr(source, "name", ""))).stem or "video"
            return self._open_file(Path(self._download.name))
        if isinstance(source, str | PathLike):
            if not str(source):
                raise ValueError("the name of the video is empty; expected a file, a URL, a folder or a glob pattern")
            return self._open_path(Path(source).expanduser())
        if isinstance(source, list | tuple):
            return self._open_list(list(source))
        if hasattr(source, "ndim") and hasattr(source, "dtype"):
            return self._open_array(source)
        raise TypeError(
            f"source is of type {type(source).__name__}; expected a path, URL, file, list of frames or array: "
            + ("put a single image into a list" if _is_pil(source) else "turn another series of frames into a list")
        )

    # Files

    def _open_path(self, path: Path):
        self.name = path.stem if path.is_file() else path.name
        if path.is_dir():
            return self._open_list(self._folder_images(path))
        if path.is_file():
            return self._open_file(path)
        if glob.has_magic(str(path)):
            matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
            images = [match for match in matches if match.suffix.lower() in IMAGE_SUFFIXES]
            if not images:
                raise ValueError(
                    f"{path} matches no image ({len(matches)} other files): expected a pattern of frames, "
                    f"ending in {', '.join(IMAGE_SUFFIXES)}; read videos one at a time"
                )
            return self._open_list(sorted(images, key=natural_key))
        if path.exists():
            raise ValueError(
                f"{path} is a device or a pipe; expected a video file, a folder of frames or a glob pattern"
            )
        raise FileNotFoundError(f"{path} does not exist: expected a video file, a folder of frames or a glob pattern")

    def _folder_images(self, folder: Path) -> list[Path]:
        images = [
            path
            for path in folder.iterdir()
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
        ]
        if not images:
            raise ValueError(f"{folder} holds no image: expected frames ending in {', '.join(IMAGE_SUFFIXES)}")
        if len({path.stem for path in images}) < len(images):
            # The same frame in two formats: often photos with their label masks beside them.
            suffixes = Counter(path.suffix.lower() for path in images)
            # On a tie, photos before masks: IMAGE_SUFFIXES starts with jpg.
            chosen = max(suffixes, key=lambda suffix: (suffixes[suffix], -IMAGE_SUFFIXES.index(suffix)))
            self._report(f"holds the same frames in several formats; only {chosen} is read")
            images = [path for path in images if path.suffix.lower() == chosen]
        return sorted(images, key=natural_key)

    def _open_file(self, path: Path):
        if path.suffix.lower() in IMAGE_SUFFIXES or is_image(path):
            return self._open_image(path)
        return self._open_container(path)

    def _open_container(self, path: Path):
        with _open_av(path, self._where) as stream:
            rate = stream.average_rate or stream.guessed_rate
            self.fps = self.fps or (float(rate) if rate else None)
            self.num_frames = stream.frames or None

        return lambda: self._decode(path)

    def _decode(self, path: Path) -> Iterator[np.ndarray]:
        """Frames up to the first packet that is damaged or missing: what follows would be out of step."""
        av = load_av()
        packets, hidden, count, end = 0, 0, 0, 0.0
        last, stands_still = None, False
        with _open_av(path, self._where) as stream:
            container = stream.container
            announced = stream.frames
            # Sound may last longer than the picture, so only a file without it tells the picture's duration.
            duration = container.duration / av.time_base if container.duration and len(container.streams) == 1 else 0.0
            damaged = None
            try:
                for packet in container.demux(stream):
                    damaged = packet
                    if packet.is_corrupt:
                        raise av.InvalidDataError(0, "the file ends inside a frame")
                    for frame in packet.decode():
                        if frame.is_corrupt:
                            self._report(f"frame {count} is damaged and shown as the decoder repaired it")
                        yield self._picture(frame)
                        count += 1
                        end = frame.time or 0.0
                    if packet.size > 0:
                        packets += 1
                        hidden += packet.is_discard  # cut off by an edit list
                        stands_still |= packet.dts is not None and packet.dts == last
                        last = packet.dts
            except av.FFmpegError as error:
                for frame in _remaining_frames(stream, damaged):
                    yield self._picture(frame)
                    count += 1
                total = f" of {announced} announced" if announced else ""
                self._report(f"breaks off after {count}{total} frames ({error.strerror})")
                return
            rate = float(stream.average_rate or 0)
            is_gif = container.format.name == "gif"
        slack = max(2 / rate, min(0.5, 0.1 * duration)) if rate else math.inf
        if packets < announced:
            self._report(f"breaks off after {count} of {announced} announced frames: the file is incomplete")
        elif not announced and duration - end > slack:
            self._report(f"breaks off at {end:.1f} of {duration:.1f} announced seconds: the file is incomplete")
        elif count < announced and (stands_still or count < hidden or count < announced - hidden):
            self._report(
                f"gives {count} of {announced} announced frames: its time stamps hide the others; if they are wrong, "
                "re-encode it, for example with ffmpeg -r"
            )
        elif is_gif and _lacks_trailer(path):  # it announces neither frames nor seconds
            self._report(f"breaks off after {count} frames: the file is incomplete")

    def _picture(self, frame: Any) -> np.ndarray:
        """The frame as players show it: phones store videos lying on their side, or mirrored."""
        picture = frame.to_ndarray(format="rgb24")
        try:
            matrix = frame.side_data.get(load_av().sidedata.sidedata.Type.DISPLAYMATRIX)
        except ValueError:  # data of a kind that PyAV does not know; the angle alone it finds beside it
            matrix, picture = None, np.rot90(picture, round(frame.rotation / 90) % 4)
        if matrix is not None:
            upright = _displayed(picture, np.frombuffer(matrix, dtype=np.int32).reshape(3, 3))
            if upright is None:
                self._report(
                    "is to be shown turned by a part of a right angle; its frames are read as they are stored"
                )
            picture = picture if upright is None else upright
        return np.ascontiguousarray(picture)

    # Images

    def _open_image(self, path: Path):
        try:
            pages, duration = count_images(path)
        except ImageError:  # told when it is read, as that of any frame
            pages, duration = 1, None
        if pages == 1:
            return self._open_list([path])
        self.num_frames = pages
        self.fps = self.fps or (1000 / duration if duration else None)

        def read() -> Iterator[np.ndarray]:
            count = 0
            try:
                for frame in read_images(path):
                    if isinstance(frame, ImageError):
                        self._report(f"frame {count} could not be read and is left out ({frame})")
                    else:
                        yield frame
                    count += 1
            except ImageError as error:
                self._report(f"breaks off after {count} of {pages} frames ({error})")

        return read

    def _open_list(self, frames: list):
        if not frames:
            raise ValueError("source is an empty list; expected at least one frame")
        for index, frame in enumerate(frames):
            if isinstance(frame, str | PathLike) or _is_pil(frame):
                continue
            if not hasattr(frame, "ndim") or not hasattr(frame, "dtype"):
                raise TypeError(
                    f"frame {index} is of type {type(frame).__name__}; expected a path, a PIL image or an array"
                )
            if frame.ndim != 3:
                raise ValueError(
                    f"frame {index} has shape {tuple(frame.shape)}; expected (height, width, 3) or "
                    "(3, height, width): give a whole video as one array, not in a list"
                )
        arrays = {index: _numpy(frame) for index, frame in enumerate(frames) if hasattr(frame, "ndim")}
        scale = _value_scale(arrays.values())
        pictures = {index: _channels_last(array, f"frame {index}") for index, array in arrays.items()}
        self.num_frames = len(frames)

        def read() -> Iterator[np.ndarray]:
            for index, frame in enumerate(frames):
                if index in pictures:
                    yield _to_uint8(pictures[index], scale)
                    continue
                try:
                    yield read_image(frame)
                except (OSError, ImageError) as error:
                    image = "a PIL image" if _is_pil(frame) else frame
                    self._report(f"frame {index}, {image}, could not be read and is left out ({error})")

        return read

    # Arrays

    def _open_array(self, source: Any):
        if source.ndim != 4:
            way_out = {
                3: "add the frame dimension of a single image with [None]",
                5: "pass the videos of a batch one at a time",
            }.get(source.ndim, "one frame after the other")
            raise ValueError(
                f"array has shape {tuple(source.shape)}; expected (frames, height, width, 3) or "
                f"(frames, 3, height, width): {way_out}"
            )
        video = _channels_last(_numpy(source), "array")
        if len(video) == 0:
            raise ValueError(f"array has shape {tuple(source.shape)}; expected at least one frame")
        scale = _value_scale(video)
        self.num_frames = len(video)
        return lambda: (_to_uint8(frame, scale) for frame in video)


def _lacks_trailer(path: Path) -> bool:
    """Whether a GIF ends without its last byte, a semicolon; some writers pad it with zeros."""
    return not path.read_bytes().rstrip(b"\0").endswith(b";")


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Numbers inside a path by value: frame2 before frame10."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in parts]


def load_av() -> ModuleType:
    """Import PyAV when the first video file is read or written: frames and arrays do without."""
    try:
        import av
        import av.sidedata.sidedata
    except ImportError as error:
        raise ImportError("video files need PyAV: pip install av") from error

    return av


@contextlib.contextmanager
def _open_av(path: Path, name: str) -> Iterator[Any]:
    """The first stream of pictures of a video, which is not the cover of a piece of music."""
    av = load_av()
    with open(path, "rb") as file:
        start = file.read(512)
        if not start:
            raise ValueError(f"{name} is empty: was it copied or fetched completely?")
        if kind := _playlist(start):
            raise ValueError(f"{name} is {kind}, which only names other files; pass the video itself")
        file.seek(0)
        try:
            # An open file instead of a name, and no protocol: FFmpeg sees this file and nothing else.
            container = av.open(file, options={"protocol_whitelist": "none"})
        except (av.FFmpegError, ValueError) as error:
            raise ValueError(
                f"{name} could not be opened as a video ({getattr(error, 'strerror', None) or error}): it is "
                "incomplete or no video; re-encode it, or pass a folder of frames"
            ) from error
        with container:
            cover = av.stream.Disposition.attached_pic
            streams = [stream for stream in container.streams.video if not stream.disposition & cover]
            if not streams:
                raise ValueError(
                    f"{name} has no video stream, only sound, a cover picture or data: pass a file with pictures"
                )
            yield streams[0]


def _playlist(start: bytes) -> str | None:
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    kinds = {b"#extm3u": "a playlist (m3u8)", b"ffconcat": "a list of files (ffconcat)", b"[playlist]": "a playlist"}
    return next((kind for words, kind in kinds.items() if text.startswith(words)), None)


def _displayed(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray | None:
    """
    A frame `(H, W, 3)` turned and mirrored by a display matrix (ISO/IEC 14496-12, 6.2.2), whose upper left part
    `[[a, b], [c, d]]` takes the pixel x, y to a x + c y, b x + d y; None where the sides do not stay upright.
    """
    (a, b), (c, d) = matrix[:2, :2].astype(float) / 2**16
    near = 0.01 * max(abs(a), abs(b), abs(c), abs(d))
    if max(abs(b), abs(c)) <= near:
        x, y = a, d
    elif max(abs(a), abs(d)) <= near:
        picture, x, y = picture.swapaxes(0, 1), c, b
    else:
        return None
    return picture[:: -1 if y < 0 else 1, :: -1 if x < 0 else 1]


def _remaining_frames(stream: Any, damaged: Any | None) -> list[Any]:
    """Frames that the decoder still holds and that come before the damaged packet in display order."""
    if damaged is None or damaged.pts is None:
        return []
    try:
        return [frame for frame in stream.decode(None) if frame.pts is not None and frame.pts < damaged.pts]
    except load_av().FFmpegError:
        return []


def _temporary_file(source: Any) -> BinaryIO:
    """The content in a file of its own, which goes away when it is closed: decoders go back and forth."""
    file = tempfile.NamedTemporaryFile()
    try:
        shutil.copyfileobj(source if hasattr(source, "read") else io.BytesIO(source), file)
    except TypeError as error:
        file.close()
        raise TypeError("the file is opened as text; open it in binary mode, as open(path, 'rb')") from error
    file.flush()
    return file


def _is_pil(frame: Any) -> bool:
    from PIL import Image

    return isinstance(frame, Image.Image)


def _numpy(array: Any) -> np.ndarray:
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() else array
    return np.asarray(array)


def _channels_last(array: np.ndarray, name: str) -> np.ndarray:
    """`(..., H, W, 3)` of either layout; the channel axis is the one of length 3."""
    last, first = array.shape[-1] == 3, array.shape[-3] == 3
    if last == first:
        problem = "could have its channels first or last" if last else "has no axis of 3 channels where expected"
        raise ValueError(
            f"{name} has shape {array.shape} and {problem}; expected RGB as (..., height, width, 3) or "
            "(..., 3, height, width), frames first: transpose it, repeat a grey channel three times, drop an alpha "
            "channel"
        )
    return array if last else np.moveaxis(array, -3, -1)


def _value_scale(frames: Iterable[np.ndarray]) -> float:
    """The factor that brings the values of all frames to 0..255, decided for the whole video, not frame by frame."""
    lowest, highest, floating = 0.0, 0.0, True
    for frame in frames:
        if frame.dtype == np.uint8:
            floating = False
            continue
        if frame.dtype == bool or not np.issubdtype(frame.dtype, np.number) or np.iscomplexobj(frame):
            raise ValueError(f"frames are of type {frame.dtype}; expected integers in 0..255, or floats")
        floating &= np.issubdtype(frame.dtype, np.floating)
        if frame.size:
            # min and max pass NaN on.
            lowest, highest = np.minimum(lowest, frame.min()), np.maximum(highest, frame.max())
    if not (np.isfinite(lowest) and np.isfinite(highest) and lowest >= 0 and highest <= 255):
        raise ValueError(
            f"frames have values from {lowest:g} to {highest:g}; expected 0..1 or 0..255: undo a normalisation with "
            "mean and std, and replace NaN and infinity"
        )
    return 255.0 if floating and highest <= 1 else 1.0


def _to_uint8(frame: np.ndarray, scale: float) -> np.ndarray:
    if frame.dtype != np.uint8:
        frame = np.round(frame.astype(np.float32) * scale).astype(np.uint8)
    return np.ascontiguousarray(frame)
