"""A dataset on disk as the records of YouTube-VIS: what all formats have in common."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .frames import below, last_parts
from .problems import Problem


class Record(NamedTuple):
    """One video.

    Attributes:
        video: `id`, `height`, `width`, `length`, `file_names`; None if `problems` leave nothing of it.
        annotations: position in the file and entry: `id`, `category_id`, `iscrowd`, `segmentations`, `bboxes`,
            `areas`, `occlusion`.
        problems: of the format itself; what they are about is not in `video` and `annotations`.
    """

    video: dict[str, Any] | None
    annotations: list[tuple[int, Any]]
    problems: list[Problem] = []


@dataclass
class Source:
    """A dataset on disk; subclasses are formats and define `__len__`, the number of videos, and `records`.

    Attributes:
        path: annotation file, or folder of masks.
        categories: entries as they are in the file.
        frames_dir: folder that file names are relative to; None when it was not found.
        split: `"train"`, `"validation"`, `"test"`, or None when nothing tells.
        labelled: whether there is a list of annotations.
        annotated: whether it has any.
        problems: those that are known before any record is read.
        unused: how many annotations `problems` are about.
        max_annotation_id: the largest id in use.
        dropped: as of [`~transformers_msstsvis.data.layouts.FoundFrames`].
        allow_outside: whether file names may lead out of `frames_dir`.
    """

    path: Path
    categories: list[Any] = field(default_factory=list)
    frames_dir: Path | None = None
    split: str | None = None
    labelled: bool = True
    annotated: bool = True
    problems: list[Problem] = field(default_factory=list)
    unused: int = 0
    max_annotation_id: int = 0
    dropped: int | None = None
    allow_outside: bool = False

    format = ""

    def frame_name(self, name: str) -> str:
        """
        The name of a frame relative to `frames_dir`.

        Raises:
            OutsideError: when it is not below it.
        """
        if self.frames_dir is None:
            return name
        return below(self.frames_dir, name if self.dropped is None else last_parts(name, self.dropped))

    def __len__(self) -> int:
        raise NotImplementedError

    def records(self) -> Iterator[Record]:
        raise NotImplementedError
