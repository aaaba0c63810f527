"""What was found in the clips of a video, kept in a file, so that a run that was stopped can go on where it was."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..results.json_files import document_of, from_document
from ..results.video_instances import VideoInstances

logger = logging.get_logger(__name__)


class ClipRecord:
    """
    A file with a line for each clip: what was found in it, whatever it scores, before anything is joined. Runs that
    find it there give the same tracks as one that was never stopped.

    Args:
        path: the file.
        settings: all that the results depend on; kept in its first line, what JSON does not know as text.
        resume: go on with what is there; otherwise the file begins anew.

    Attributes:
        path (`Path`): the file.
        is_kept (`bool`): False once it could not be written, as on a full disk; the results do not depend on it.

    Raises:
        ValueError: if what is there was recorded with other settings, or is no such file.
    """

    def __init__(self, path: str | PathLike, settings: Mapping[str, Any], resume: bool = False):
        self.path = Path(path).expanduser()
        self.is_kept = True
        settings = json.loads(json.dumps(settings, default=str))
        self._there: Iterator[VideoInstances] = iter(())
        if resume and self.path.is_file():
            lines, length = _whole_lines(self.path)
            _check_settings(self.path, next(lines, None), settings)
            self._there = (from_document(line, VideoInstances) for line in lines)
            self._file = open(self.path, "r+", encoding="utf-8")
            self._file.truncate(length)
            self._file.seek(0, 2)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "w", encoding="utf-8")
        self._write(settings)

    def next(self) -> VideoInstances | None:
        """What was found in the next clip, if it is there."""
        return next(self._there, None)

    def add(self, found: VideoInstances, start: int) -> None:
        """Keep what was found in the clip that begins at frame `start`, if there is place."""
        if not self.is_kept:
            return
        found = found[:]
        found.first_frame = start
        try:
            self._write(document_of(found))
        except OSError as error:
            logger.warning(f"{self.path} can't be written ({error.strerror}); if it is stopped, the run can't go on.")
            self._give_up()

    def close(self, finished: bool = False) -> None:
        """End writing; a record of a finished video is of no use and removed."""
        try:
            self._file.close()
        except OSError:
            self._give_up()
        if finished:
            self.path.unlink(missing_ok=True)

    def _give_up(self) -> None:
        """Leave the place to the results."""
        self.is_kept = False
        with contextlib.suppress(OSError):
            self._file.close()
        self.path.unlink(missing_ok=True)

    def _write(self, document: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(document, allow_nan=False) + "\n")
        self._file.flush()


def _whole_lines(path: Path) -> tuple[Iterator[dict[str, Any]], int]:
    """The content of the lines that were written to their end, as they are needed, and how many bytes they have."""
    length = 0
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            length += len(line)

    def read() -> Iterator[dict[str, Any]]:
        left = length
        with open(path, "rb") as file:
            for line in file:
                left -= len(line)
                if left < 0:
                    return
                yield json.loads(line)

    return read(), length


def _check_settings(path: Path, recorded: Any, settings: dict[str, Any]) -> None:
    if not isinstance(recorded, dict) or set(recorded) != set(settings):
        raise ValueError(f"{path} is no record of an unfinished run; remove it, or run without resume")
    differing = [name for name, value in settings.items() if recorded[name] != value]
    if differing:
        said = "; ".join(f"{name} was {recorded[name]!r} and is {settings[name]!r}" for name in differing)
        raise ValueError(
            f"the run that was stopped can't go on with other settings: {said}. Use the same, or run without resume"
        )
