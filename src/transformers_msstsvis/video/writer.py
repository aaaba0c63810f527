"""Writes frames as a video.

Frames are RGB, uint8 `(H, W, 3)`.
"""

import contextlib
from collections.abc import Iterable
from fractions import Fraction
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from transformers.utils import logging

from ..files import move_into_place, naming, partial_path, written_aside
from .reader import load_av

if TYPE_CHECKING:
    from av import CodecContext, VideoFrame

logger = logging.get_logger(__name__)

MAX_FPS = 1000
# Suffix -> encoder and pixel format. GIF frames are reduced to 256 colours each before they are encoded.
VIDEO_ENCODERS = {".mp4": ("libx264", "yuv420p"), ".webm": ("libvpx-vp9", "yuv420p"), ".gif": ("gif", "pal8")}
ENCODER_OPTIONS = {
    ".mp4": {},
    # Constant quality, at a speed that does not hold up the model.
    ".webm": {"crf": "30", "b:v": "0", "deadline": "realtime", "cpu-used": "6", "lag-in-frames": "0"},
    ".gif": {},
}
# Written piece by piece, so that a process that is killed leaves what can be played.
CONTAINER_OPTIONS = {
    ".mp4": {"movflags": "frag_every_frame+empty_moov+default_base_moof", "flush_packets": "1"},
    ".webm": {"cluster_time_limit": "500", "flush_packets": "1"},
    ".gif": {},
}


class VideoWriter:
    """Writes frames one at a time; use it in a `with` block, which finishes the file.

    The file is written aside, as `clip.partial.mp4` or in `folder/partial`, and gets its name when it is finished. So
    whatever happens, an older file of this name stays as it was until there is a new one; where there is none, what
    was written until the `with` block was left by an error is finished and named, too. An mp4 of a process that was
    killed, or had no place left on the disk, can be played up to the frame before the last one of `flush`.

    Args:
        path: `.mp4` (H.264), `.webm` (VP9) or `.gif`; a path without suffix is a folder of `00000.png`, ... . Folders
            are made as needed, a file of this name is replaced.
        fps: frames per second. GIF counts in hundredths of a second, so its rate is rounded.
        size: `(H, W)` of the frames; taken from the first one by default. An odd side of an mp4 or webm is padded by
            one pixel, a copy of the edge.

    Attributes:
        written_to: after the `with` block the file or folder that holds what was written; None where there is none.

    Raises:
        ValueError: if the suffix is unknown, `fps` is out of range, a frame is not uint8 `(H, W, 3)`, or nothing was
            written by the end of the `with` block.
        OSError: if the file can't be written; the message names it.
    """

    def __init__(self, path: str | PathLike, fps: float = 25.0, size: tuple[int, int] | None = None):
        self.path = Path(path).expanduser()
        self.suffix = "" if self.path.is_dir() else self.path.suffix.lower()
        if self.suffix and self.suffix not in VIDEO_ENCODERS:
            raise ValueError(
                f"{self.path} ends in {self.suffix}; expected {', '.join(VIDEO_ENCODERS)}, or no suffix for a folder "
                "of PNG frames"
            )
        if not (isinstance(fps, Real) and 0 < fps <= MAX_FPS):
            raise ValueError(f"fps is {fps!r}; expected a positive number of frames per second, up to {MAX_FPS}")
        self.fps = fps
        self.size = size
        self.num_frames = 0
        self.written_to: Path | None = None
        self._partial: Path | None = None
        self._container = self._stream = self._encoder = None

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind, *_) -> None:
        self.close(finished=kind is None)
        if kind is None and self.num_frames == 0:
            raise ValueError(f"no frame was written to {self.path}: call write with at least one")

    def write(self, frame: np.ndarray) -> None:
        """Append one frame, uint8 `(H, W, 3)` RGB."""
        frame = np.asarray(frame)
        self.size = self.size or frame.shape[:2]
        if frame.dtype != np.uint8 or frame.shape != (*self.size, 3):
            raise ValueError(
                f"frame {self.num_frames} has shape {frame.shape} and type {frame.dtype}; expected uint8 "
                f"{(*self.size, 3)}: all frames of a video have one size"
            )
        if self.num_frames == 0:
            self._begin()
        with naming(self.path):
            if self.suffix:
                self._encode(frame)
            else:
                from PIL import Image

                with written_aside(self._partial / f"{self.num_frames:05d}.png") as unfinished:
                    Image.fromarray(frame).save(unfinished)
        self.num_frames += 1

    def flush(self) -> None:
        """Put what was written on the disk. Encoders of mp4 hold up to some fifty frames back to need less place."""
        if self.suffix == ".mp4":
            with naming(self.path):
                self._end_encoder()

    def close(self, finished: bool = True) -> None:
        """Finish the file: what was written so far can be played. Unless `finished`, no older file is replaced."""
        if self.written_to is not None:
            return
        if self.num_frames == 0:
            self._remove_partial()
            return
        try:
            self._finish_container()
            self.written_to = self._partial
            if finished or not (self.path.exists() if self.suffix else any(self.path.glob("*.png"))):
                with naming(self.path):
                    move_into_place(self._partial, self.path)
                self.written_to = self.path
        except OSError:
            if self.suffix == ".mp4":
                self.written_to = self._partial  # up to here it can be played
            elif self.suffix:
                self._remove_partial()
                self.written_to = None
            raise
        if not self.suffix:
            later = [path for path in self.path.glob("*.png") if path.stem > f"{self.num_frames - 1:05d}"]
            if later:
                logger.warning(f"{self.path} still holds {len(later)} frames from before, such as {later[0].name}.")

    def _finish_container(self) -> None:
        if self._container is None:
            return
        with naming(self.path):
            try:
                self._end_encoder()
            finally:
                container, self._container = self._container, None
                container.close()
            if self.suffix == ".mp4":
                _in_one_piece(self._partial)

    def _remove_partial(self) -> None:
        if self._container is not None:
            with contextlib.suppress(OSError):
                self._container.close()
            self._container = None
        if self._partial is not None and self.suffix:
            self._partial.unlink(missing_ok=True)
        elif self._partial is not None and self._partial.is_dir():
            self._partial.rmdir()

    def _begin(self) -> None:
        with naming(self.path):
            (self.path.parent if self.suffix else self.path).mkdir(parents=True, exist_ok=True)
            self._partial = partial_path(self.path)
            if not self.suffix:
                self._partial.mkdir()
                return
            encoder, pixel_format = VIDEO_ENCODERS[self.suffix]
            self._container = load_av().open(
                str(self._partial.absolute()), "w", format=self.suffix[1:], options=CONTAINER_OPTIONS[self.suffix]
            )
        rate = Fraction(self.fps).limit_denominator(1001)
        if self.suffix == ".gif":
            rate = Fraction(100, max(2, round(100 / self.fps)))
        odd = (0, 0) if self.suffix == ".gif" else (self.size[0] % 2, self.size[1] % 2)
        self._padding = ((0, odd[0]), (0, odd[1]), (0, 0))
        self._stream = self._container.add_stream(encoder, rate=rate, options=ENCODER_OPTIONS[self.suffix])
        self._stream.height, self._stream.width = self.size[0] + odd[0], self.size[1] + odd[1]
        self._stream.pix_fmt = pixel_format
        self._rate, self._encoder = rate, self._stream.codec_context

    def _encode(self, frame: np.ndarray) -> None:
        av = load_av()
        if self.suffix == ".gif":
            from PIL import Image

            image = Image.fromarray(frame).quantize(256)
            palette = np.full((256, 4), 255, dtype=np.uint8)
            colours = np.array(image.getpalette(), dtype=np.uint8).reshape(-1, 3)
            palette[: len(colours), 1:] = colours
            picture = av.VideoFrame.from_ndarray((np.asarray(image), palette), format="pal8")
        else:
            picture = av.VideoFrame.from_ndarray(np.pad(frame, self._padding, mode="edge"), format="rgb24")
        picture.pts, picture.time_base = self.num_frames, 1 / self._rate
        self._mux(self._encoder or self._next_encoder(), picture)

    def _next_encoder(self) -> "CodecContext":
        """One that goes on after the last, with the same settings: the header of the file is for both."""
        av, first = load_av(), self._stream.codec_context
        self._encoder = av.CodecContext.create(first.codec, "w")
        self._encoder.height, self._encoder.width, self._encoder.pix_fmt = first.height, first.width, first.pix_fmt
        self._encoder.framerate, self._encoder.time_base = self._rate, 1 / self._rate
        self._encoder.flags |= av.codec.context.Flags.global_header
        return self._encoder

    def _end_encoder(self) -> None:
        if self._encoder is not None:
            self._mux(self._encoder, None)
            self._encoder = None

    def _mux(self, encoder: "CodecContext", picture: "VideoFrame | None") -> None:
        for packet in encoder.encode(picture):
            packet.stream = self._stream
            self._container.mux(packet)


def _in_one_piece(path: Path) -> None:
    """Put the index of an mp4 of fragments in front, as players want it that jump or show the length."""
    av = load_av()
    with written_aside(path) as whole, av.open(str(path)) as fragments:
        with av.open(str(whole.absolute()), "w", format="mp4", options={"movflags": "faststart"}) as container:
            [source] = fragments.streams.video
            stream, late = container.add_stream_from_template(source), None
            for packet in fragments.demux(source):
                if packet.dts is not None:
                    # Fragments can't begin before zero, as frames do that are stored ahead of those shown first.
                    late = packet.pts if late is None else late
                    packet.pts, packet.dts, packet.stream = packet.pts - late, packet.dts - late, stream
                    container.mux(packet)


def write_video(path: str | PathLike, frames: Iterable[np.ndarray], fps: float = 25.0) -> None:
    """Write frames, uint8 `(H, W, 3)` RGB, to an mp4, webm or gif, or a folder of PNGs; see `VideoWriter`."""
    with VideoWriter(path, fps=fps) as writer:
        for frame in frames:
            writer.write(frame)
