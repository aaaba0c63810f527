"""What is written for a video while it runs: an annotated video, tracks, masks, and formats of others."""

import contextlib
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..files import check_distinct, check_writable, check_writable_folder, files_of
from ..results.drawing import draw_instances
from ..results.sinks import SINKS, FolderSink, Sink, open_sink
from ..results.video_instances import VideoInstances
from ..video.images import IMAGE_SUFFIXES
from ..video.writer import MAX_FPS, VideoWriter
from .videos import VIDEO_SUFFIXES, Video, video_files


class Outputs(NamedTuple):
    """
    What is written for a video; None is not written.

    Attributes:
        video: annotated video: `.mp4`, `.webm`, `.gif`, or a folder for PNG frames.
        json: tracks in YouTube-VIS results format, with `track_id`, `label` and `boxes` in addition; as JSON Lines,
            with a line for each frame, where it ends in `.jsonl`.
        masks: folder of palette PNGs whose values are the track ids, one for each frame.
        per_instance: `masks` gets a folder of black and white PNGs for each track instead.
        exports: further formats, by name as in `SINKS`, and their files or folders.
    """

    video: Path | None = None
    json: Path | None = None
    masks: Path | None = None
    per_instance: bool = False
    exports: tuple[tuple[str, Path], ...] = ()

    @classmethod
    def of(
        cls,
        *paths: str | PathLike | None,
        per_instance: bool = False,
        exports: Sequence[tuple[str, str | PathLike]] = (),
    ) -> "Outputs":
        """From the names of the three, checked not to be empty."""
        if any(path is not None and not str(path) for path in (*paths, *(path for _, path in exports))):
            raise ValueError("the name of an output is empty; expected a file or a folder")
        for kind, _ in exports:
            if kind not in SINKS:
                raise ValueError(f"there is no format {kind}; expected some of {', '.join(SINKS)}")
        named = [None if path is None else Path(path).expanduser() for path in paths]
        named += [None] * (3 - len(named))
        return cls(*named, per_instance, tuple((kind, Path(path).expanduser()) for kind, path in exports))

    @property
    def paths(self) -> list[Path]:
        """All files and folders that are written."""
        every = (self.video, self.json, self.masks, *(path for _, path in self.exports))
        return [path for path in every if path is not None]

    def check(self, video: Video, model: str | PathLike) -> None:
        """Find what can be wrong with the files before the model runs."""
        if self.json is not None and self.json.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
            raise ValueError(f"{self.json} has the name of a picture or a video; expected that of a JSON file")
        folder = self.video is not None and (not self.video.suffix or self.video.is_dir())
        folders = [path for kind, path in self.exports if issubclass(SINKS[kind], FolderSink)]
        check_writable(
            self.json, None if folder else self.video, *(path for _, path in self.exports if path not in folders)
        )
        check_distinct(self.paths, [*video_files(video), *files_of(model)])
        for path in (self.masks, self.video if folder else None, *folders):
            if path is not None:
                check_writable_folder(path)

    def sinks(self, video_id: Any) -> dict[Path, Sink]:
        """What writes them, by path."""
        kinds = [(kind, path) for kind, path in self.exports]
        if self.masks is not None:
            kinds.insert(0, ("masks" if self.per_instance else "davis", self.masks))
        if self.json is not None:
            kinds.insert(0, ("jsonl" if self.json.suffix.lower() == ".jsonl" else "ytvis", self.json))
        return {path: open_sink(kind, path, video_id=video_id) for kind, path in kinds}


class OutputFiles:
    """
    The outputs of one video, stretch by stretch. One that fails does not cost the others.

    Args:
        outputs: what to write.
        fps: frames per second of the video, if known.
        video_id: for the formats that have one.
    """

    def __init__(self, outputs: Outputs, fps: float | None, video_id: Any):
        self.num_frames = 0
        self._errors: list[Exception] = []
        self._video = None if outputs.video is None else VideoWriter(outputs.video, fps=min(fps or 25.0, MAX_FPS))
        self._sinks = outputs.sinks(video_id)
        self._held: VideoInstances | None = None

    def append(self, frames: Sequence[np.ndarray], tracks: VideoInstances) -> None:
        """
        Write the next stretch.

        Raises:
            OSError, ValueError: if nothing is left that could be written.
        """
        if self._video is not None:
            with self._kept_apart(self._video.path):
                for index, frame in enumerate(frames):
                    self._video.write(draw_instances(frame, tracks, index))
                self._video.flush()
        # One frame behind, as the video on the disk is: what they tell of is there.
        last = tracks.num_frames - 1
        held, self._held = self._held, None  # an interrupt in between may not write it twice
        self._append_to_sinks(held)
        self._append_to_sinks(tracks.frames(0, last))
        self._held = tracks.frames(last, last + 1)
        self.num_frames += tracks.num_frames
        if self._errors and self._video is None and not self._sinks:
            raise self._errors[0]

    def close(self, finished: bool = True) -> list[Path]:
        """
        End all files; unless `finished`, no older file is replaced.

        Returns:
            What was written.

        Raises:
            OSError, ValueError: when `finished`, the first one of those that happened; the other files are written.
        """
        held, self._held = self._held, None
        self._append_to_sinks(held)
        written = []
        for path, sink in list(self._sinks.items()):
            with self._kept_apart(path):
                written.append(sink.close(finished))
        if self._video is not None:
            with self._kept_apart(self._video.path):
                self._video.close(finished)
                written.append(self._video.written_to)
        if self._errors and finished:
            raise self._errors[0]
        return [path for path in written if path is not None]

    def _append_to_sinks(self, tracks: VideoInstances | None) -> None:
        for path, sink in list(self._sinks.items()) if tracks is not None and tracks.num_frames else ():
            with self._kept_apart(path):
                sink.append(tracks)

    @contextlib.contextmanager
    def _kept_apart(self, path: Path) -> Iterator[None]:
        """Where one output may fail."""
        try:
            yield
        except (OSError, ValueError) as error:  # a full disk, or tracks that do not fit into a format
            self._errors.append(error)
            failed = self._sinks.pop(path, None)
            if failed is None:
                failed, self._video = self._video, None
            if failed is not None:
                with contextlib.suppress(OSError, ValueError):
                    failed.close(finished=False)
