"""What all sinks have in common: files that are opened, appended to stretch by stretch, and closed."""

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ...files import check_writable, check_writable_folder, move_into_place, naming, partial_path
from ..values import category_id, named_categories
from .spool import Spool

if TYPE_CHECKING:
    from ..video_instances import VideoInstances


class Sink(ABC):
    """
    A file, or a folder of files, that takes the results of one video a stretch at a time; memory does not grow with
    the video.

    It is written aside, as `tracks.partial.json` or in `masks/partial`, and gets its name when it is closed, so that
    an older file survives a failure. A `with` block that an error leaves closes it, too, as not finished.

    Args:
        path: the file or folder.
        video_id: id of the video, for formats that have one.
        category_ids: the data set's category id of each label; label + 1 by default.
        file_names: of the frames, for formats that name them; from the name of the video's first frame to be written.
        num_frames: of the whole video, where not all of it is written.

    Attributes:
        num_frames: written so far.
        written_to: after closing, the file or folder with what was written; None where there is none.

    Raises:
        ValueError: for an empty name.
        OSError: when nothing can be written there.
    """

    def __init__(
        self,
        path: str | PathLike,
        *,
        video_id: int | str = 1,
        category_ids: Mapping[int, int] | None = None,
        file_names: Sequence[str] | None = None,
        num_frames: int | None = None,
    ):
        self._check(path)
        self.path = Path(path).expanduser()
        self.video_id = video_id
        self.category_ids = category_ids
        self.file_names = file_names
        self.num_frames = 0
        self.written_to: Path | None = None
        self._length = num_frames
        self._video: VideoInstances | None = None  # without instances: size, frame rate, class names, first frame
        self._partial: Path | None = None
        self._is_closed = False

    def __enter__(self) -> "Sink":
        return self

    def __exit__(self, kind, *_) -> None:
        self.close(finished=kind is None)

    def append(self, instances: "VideoInstances") -> None:
        """
        Write the next stretch of the video.

        Raises:
            ValueError: if it does not begin where the one before it ends, has frames of another size, or does not fit
                into the format; the sink stays as it was.
            OSError: if it can't be written; what was written before stays.
        """
        if self._is_closed:
            raise ValueError(f"{self.path} is closed; expected a sink that is open: open another one")
        first = instances.first_frame if self._video is None else self._video.first_frame
        instances.check_follows(instances.size if self._video is None else self._video.size, first + self.num_frames)
        behind = self.num_frames + instances.num_frames
        if self.file_names is not None and len(self.file_names) < behind:
            raise ValueError(
                f"{len(self.file_names)} file_names were given for {behind} frames; expected one for each frame"
            )
        with naming(self.path):
            if self._video is None:
                self._begin(instances)
                self._video = instances[:0].frames(0, 0)
            self._write(instances)
        self.num_frames = behind

    def close(self, finished: bool = True) -> Path | None:
        """
        Complete what was written, and give it its name. Unless `finished`, no older file is replaced: it stays aside.

        Returns:
            `written_to`.

        Raises:
            OSError: if it can't be completed.
        """
        if not self._is_closed:
            self._is_closed = True
            if self._partial is not None:
                with naming(self.path):
                    self._end(finished)
        return self.written_to

    def file_name(self, index: int) -> str:
        """The name of a frame, counted from the first that was written; `00012.jpg` of the video's frame 12."""
        return f"{self._video.first_frame + index:05d}.jpg" if self.file_names is None else self.file_names[index]

    @property
    def length(self) -> int:
        """Frames of the whole video, as far as that is known."""
        return max(self._video.first_frame + self.num_frames, self._length or 0)

    @property
    def numeric_id(self) -> int:
        """The id of the video, for formats in which it is a number; 1 instead of a text."""
        return self.video_id if isinstance(self.video_id, int) else 1

    def category_id(self, label: int) -> int:
        return category_id(self._video, label, self.category_ids)

    @staticmethod
    @abstractmethod
    def _check(path: str | PathLike) -> None:
        """Whether the output can be written."""

    @abstractmethod
    def _begin(self, instances: "VideoInstances") -> None:
        """Open the output, before the first stretch is written."""

    @abstractmethod
    def _write(self, instances: "VideoInstances") -> None:
        """Write a stretch; `num_frames` were written before it."""

    @abstractmethod
    def _end(self, finished: bool) -> None:
        """Complete the output, and set `written_to`."""


class FileSink(Sink):
    """One file. `_write` writes what can be written at once, `_finish` the rest."""

    _file: BinaryIO
    _check = staticmethod(check_writable)

    @property
    def _is_plain(self) -> bool:
        """Whether it is no device or pipe, and can be replaced."""
        return not self.path.exists() or self.path.is_file()

    def write(self, text: str) -> None:
        self._file.write(text.encode())

    def _begin(self, instances: "VideoInstances") -> None:
        partial = partial_path(self.path) if self._is_plain else self.path
        self._file = open(partial, "wb")
        self._partial = partial

    def _finish(self) -> None:
        pass

    def _end(self, finished: bool) -> None:
        try:
            with self._file:
                self._finish()
        except BaseException:
            if self._is_plain:
                self._partial.unlink(missing_ok=True)
            raise
        self._name(finished)

    def _name(self, finished: bool) -> None:
        self.written_to = self._partial
        if self._is_plain and (finished or not self.path.exists()):
            move_into_place(self._partial, self.path)
            self.written_to = self.path


class LinesSink(FileSink):
    """One file of lines, each of one frame. They are handed to the system with their stretch, so a kill loses none."""

    def _begin(self, instances: "VideoInstances") -> None:
        super()._begin(instances)
        self._whole = 0  # bytes
        self._add(self._header(instances))

    def _write(self, instances: "VideoInstances") -> None:
        self._add("".join(self._lines(instances)))

    def _add(self, lines: str) -> None:
        content = lines.encode()
        self._file.write(content)
        self._file.flush()
        self._whole += len(content)

    def _header(self, instances: "VideoInstances") -> str:
        return ""

    @abstractmethod
    def _lines(self, instances: "VideoInstances") -> Iterable[str]:
        """The lines of a stretch, with their ends."""

    def _end(self, finished: bool) -> None:
        with contextlib.suppress(OSError):  # told when the lines were written
            self._file.close()
        if self._is_plain:
            os.truncate(self._partial, self._whole)
        self._name(finished)


class SpooledSink(FileSink):
    """One file of whole tracks, which are known at the end: until then their stretches are in a file beside it."""

    def _begin(self, instances: "VideoInstances") -> None:
        # Not beside a device or a pipe.
        self._spool = Spool(self.path.parent if self._is_plain else None)
        super()._begin(instances)

    def _write(self, instances: "VideoInstances") -> None:
        self._spool.append(instances, self.num_frames)

    def _end(self, finished: bool) -> None:
        with contextlib.closing(self._spool):
            super()._end(finished)

    def categories(self) -> list[dict[str, Any]]:
        """`id` and `name` of the labels there may be."""
        return named_categories(self._video, self.category_ids, [track.label for track in self._spool.tracks()])


class FolderSink(Sink):
    """A folder of PNGs, which are written into `self._partial`."""

    _check = staticmethod(check_writable_folder)
    _digits = 5

    def _png_name(self, index: int) -> str:
        """That of a frame of the next stretch: as its frame is called, or by its number in the video."""
        if self.file_names is None:
            return f"{self._video.first_frame + self.num_frames + index:0{self._digits}d}.png"
        return f"{Path(self.file_names[self.num_frames + index]).stem}.png"

    def _begin(self, instances: "VideoInstances") -> None:
        self._partial = partial_path(self.path)
        self._partial.mkdir()

    def _end(self, finished: bool) -> None:
        self.written_to = self._partial
        if finished or not any(path != self._partial for path in self.path.iterdir()):
            move_into_place(self._partial, self.path)
            self.written_to = self.path
