"""CVAT: tracks of a video ("CVAT for video 1.1"), or single images ("CVAT for images 1.1")."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..results.rle import MAX_SIDE, excerpt, read_mask
from ..video.images import ImageError, image_size
from .cvat_xml import CvatContents, Owner, Shape, read_box, read_points, read_runs, whole_number
from .fields import listed
from .layouts import find_frames
from .numbered_frames import find_numbered_frames
from .problems import Problem
from .source import Record, Source

_MOST_FRAMES = 10**9


class CvatSource(Source):
    """
    CVAT: the tracks of a video, or single images, with polygons and masks.

    A track is visible in a frame that it has a polygon or a mask for, unless that is `outside`. The id of an
    annotation is that of its track where all are different and above 0; otherwise, and in images, annotations are
    numbered from 1. Categories are the labels of the task, from 1. Boxes are kept as boxes without masks.

    Frames of a video are the images of a folder: in order if there are as many as the task has frames, otherwise by
    the last number in their names. Single images become videos of one frame.
    """

    format = "CVAT"
    _suffix = ""  # of the names of images, which lack it

    @classmethod
    def open(
        cls, path: Path, frames_dir: str | Path | None = None, split: str | None = None, allow_outside: bool = False
    ) -> "CvatSource":
        """
        Raises:
            ValueError: when the file is no XML of CVAT, or of several tasks.
        """
        contents = CvatContents(path)
        if contents.tracks and contents.images:
            raise ValueError(
                f"{path} has tracks and images; expected one of them: export it as CVAT for video 1.1, or as CVAT for "
                "images 1.1"
            )
        found = [track.attributes.get("label") for track in contents.tracks]
        found += [shape.attributes.get("label") for image in contents.images for shape in image.shapes]
        names = dict.fromkeys(contents.labels or [name for name in found if name])
        source = cls(path, [{"id": number, "name": name} for number, name in enumerate(names, start=1)])
        source.split, source.allow_outside, source.contents = split, allow_outside, contents
        source.annotated = any(owner.shapes for owner in (*contents.tracks, *contents.images))
        source.max_annotation_id = max(source._numbers(), default=0)
        if contents.others:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(contents.others.items()))
            source._remark(f"shapes that are no polygons, masks or boxes are left out: {kinds}")
        try:
            if contents.tracks or not contents.images:
                source._find_frames(frames_dir)
            else:
                source._find_images(frames_dir)
        except FileNotFoundError as error:
            source.problems.append(Problem(str(error), path, remedy="not repaired"))
        return source

    def __len__(self) -> int:
        return len(self.contents.images) or 1

    def records(self) -> Iterator[Record]:
        yield from self._images() if self.contents.images else [self._video()]

    # A video

    def _task_frames(self) -> range | None:
        """The numbers of the frames of the task, as far as the file tells."""
        meta = self.contents.meta
        size, start = whole_number(meta.get("size")), whole_number(meta.get("start_frame")) or 0
        step = re.search(r"step=(\d{1,9})", meta.get("frame_filter", ""))
        step = max(int(step[1]), 1) if step else 1
        if size is None or not 0 <= size <= _MOST_FRAMES or start < 0:
            return None
        return range(start, start + size * step, step)

    def _find_frames(self, frames_dir: str | Path | None) -> None:
        """Set `frames_dir`, and the numbers and the names of the frames."""
        frames = self._task_frames()
        numbers = {
            whole_number(shape.attributes.get("frame"))
            for track in self.contents.tracks
            for shape in track.shapes
            if shape.attributes.get("outside") != "1"
        } - {None}
        visible = sorted(number for number in numbers if number >= 0 and (frames is None or number in frames))
        found = find_numbered_frames(self.path, frames_dir, frames, visible)
        self.frames_dir, self._frames = found.folder, found.names
        if self.frames_dir is None:
            raise FileNotFoundError(found.message)

    def _size(self) -> dict[str, int | None]:
        size = {key: whole_number(self.contents.meta.get(key)) for key in ("height", "width")}
        if None in size.values() and self.frames_dir is not None:
            try:
                size = dict(zip(size, image_size(self.frames_dir / next(iter(self._frames.values()))), strict=True))
            except ImageError:
                pass  # for the check of frames to tell
        return size

    def _video(self) -> Record:
        size = self._size()
        video = {"id": 1, **size, "length": len(self._frames), "file_names": list(self._frames.values())}
        if not self._frames or not _is_size(size):
            return Record(video, [])
        places = {number: place for place, number in enumerate(self._frames)}
        annotations, problems, gaps = [], [], []
        for position, (number, track) in enumerate(zip(self._numbers(), self.contents.tracks, strict=True)):
            name = track.attributes.get("id", f"at position {position}")
            try:
                category = self._category(track.attributes.get("label"), track.line)
                shapes, gap = self._shapes_of(track, places)
                entry = self._annotation(shapes, size, len(places))
            except _ShapeError as error:
                place = places.get(error.number)
                frame = None if place is None else f"{place} ({self._frames[error.number]})"
                problems.append(Problem(str(error), self.path, "1", name, frame))
                continue
            gaps += [(name, gap)] if gap else []
            annotations.append((position, {"id": number, "category_id": category, "iscrowd": 0, **entry}))
        if gaps:
            name, (first, last) = gaps[0]
            self._remark(
                f"{len(gaps)} tracks have no shape in frames before which none is outside, as track {name} in frames "
                f"{first} to {last}; they are read as absent there: CVAT exports every frame of a track"
            )
        return Record(video, annotations, problems)

    def _numbers(self) -> list[int]:
        """The ids of the tracks, if all are different and above 0; otherwise they are numbered from 1."""
        numbers = [whole_number(track.attributes.get("id")) for track in self.contents.tracks]
        if len(set(numbers)) == len(numbers) and all(number and number > 0 for number in numbers):
            return numbers
        return list(range(1, len(numbers) + 1))

    def _shapes_of(
        self, track: Owner, places: dict[int, int]
    ) -> tuple[dict[int, tuple[int, Shape]], tuple[int, int] | None]:
        """By place in the video, the number of the frame and the shape; and the first gap, if frames are missing."""
        shapes: dict[int, tuple[int, Shape]] = {}
        seen: set[int] = set()
        order: list[tuple[int, bool]] = []
        for shape in track.shapes:
            number, outside = whole_number(shape.attributes.get("frame")), shape.attributes.get("outside", "0")
            if number is None or outside not in ("0", "1"):
                given = {key: shape.attributes.get(key) for key in ("frame", "outside")}
                raise _ShapeError(f"{given}; expected a whole number, and 0 or 1", shape)
            if number in seen:
                raise _ShapeError("another shape of the track is in this frame; expected one", shape, number)
            seen.add(number)
            order.append((number, outside == "1"))
            if outside == "1":
                continue
            if number not in places:
                raise _ShapeError(
                    f"frame is {number}; expected one of the {len(places)} frames of the video, {min(places)} to "
                    f"{max(places)}",
                    shape,
                )
            shapes[places[number]] = number, shape
        return shapes, _first_gap(sorted(order), places)

    # Images

    def _find_images(self, frames_dir: str | Path | None) -> None:
        names = [name for image in self.contents.images[:20] if (name := image.attributes.get("name"))]
        try:
            self.frames_dir, self.dropped = find_frames(self.path, names, frames_dir, self.split, self.allow_outside)
        except FileNotFoundError:
            # Frames of videos have names without a suffix, and are exported with this one.
            self._suffix = ".PNG"
            names = [name + self._suffix for name in names]
            self.frames_dir, self.dropped = find_frames(self.path, names, frames_dir, self.split, self.allow_outside)

    def _images(self) -> Iterator[Record]:
        number = 0
        for position, image in enumerate(self.contents.images, start=1):
            size = {key: whole_number(image.attributes.get(key)) for key in ("height", "width")}
            name = image.attributes.get("name")
            video = {"id": position, **size, "length": 1, "file_names": [name and name + self._suffix]}
            annotations, problems = [], []
            for shape in image.shapes:
                number += 1
                try:
                    category = self._category(shape.attributes.get("label"), shape.line)
                    entry = self._annotation({0: (0, shape)}, size, 1) if _is_size(size) else {}
                except _ShapeError as error:
                    problems.append(Problem(str(error), self.path, f"{position} ({name})", str(number)))
                    continue
                annotations.append((number, {"id": number, "category_id": category, "iscrowd": 0, **entry}))
            yield Record(video, annotations, problems)

    # Both

    def _remark(self, message: str) -> None:
        self.problems.append(Problem(message, self.path, is_error=False))

    def _category(self, label: str | None, line: int) -> int:
        for category in self.categories:
            if category["name"] == label:
                return category["id"]
        names = listed([category["name"] for category in self.categories])
        raise _ShapeError(f"label is {excerpt(label)}; expected one of the labels of the task ({names})", line=line)

    def _annotation(
        self, shapes: dict[int, tuple[int, Shape]], size: dict[str, int], length: int
    ) -> dict[str, list[Any]]:
        """Masks, or boxes if there are no others, in `length` frames, of the frame's number and the shape by place."""
        height, width = size["height"], size["width"]
        kinds = {shape.kind for _, shape in shapes.values()}
        masks: list[Any] = [None] * length
        boxes: list[Any] = [None] * length
        for place, (number, shape) in shapes.items():
            try:
                if shape.kind == "polygon":
                    masks[place] = read_mask([read_points(shape)], height, width)
                elif shape.kind == "mask":
                    masks[place] = read_runs(shape, height, width)
                elif shape.kind == "box" and kinds == {"box"}:
                    boxes[place] = read_box(shape)
                else:
                    raise ValueError("the track has boxes and masks; expected one of them")
            except (ValueError, KeyError, OverflowError) as error:
                reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
                raise _ShapeError(reason, shape, number) from error
        return {"segmentations": masks, **({"bboxes": boxes} if kinds == {"box"} else {})}


class _ShapeError(ValueError):
    """What is wrong with a shape, and where: its line, and the number of its frame where that is right."""

    def __init__(self, message: str, shape: Shape | None = None, number: int | None = None, line: int | None = None):
        what = "" if shape is None else f", {shape.kind}"
        super().__init__(f"line {shape.line if shape else line}{what}: {message}")
        self.number = number


def _first_gap(order: list[tuple[int, bool]], places: dict[int, int]) -> tuple[int, int] | None:
    """The first and the last of frames of which nothing says that the track is outside; of shapes by frame."""
    for (number, is_outside), (following, _) in pairwise(order):
        if not is_outside and number in places and following in places and places[following] > places[number] + 1:
            return number + 1, following - 1
    return None


def _is_size(size: dict[str, int | None]) -> bool:
    return all(side is not None and 0 < side <= MAX_SIDE for side in size.values())
