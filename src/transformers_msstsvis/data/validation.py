"""The checks of annotations, made by loading and by `python -m transformers_msstsvis.data.validate` alike."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pycocotools import mask as rle_codec

from ..results.rle import MAX_SIDE, count_pixels, counts_message, excerpt, read_mask, split_fragments
from ..video.images import ImageError, image_size, read_image, read_orientation
from .fields import area_problem, category_problem, is_number, is_text, iscrowd_problem, listed
from .frames import OutsideError, common_folder, frame_path, turned_note
from .problems import Problem, integer, name_of, place_of
from .source import Record, Source

_LEFT_OUT = "left out"
_LONGEST_NAME = 4096  # characters; no system has longer paths


def read_categories(source: Source) -> tuple[list[dict[str, Any]], list[Problem]]:
    """
    The categories of a source by ascending id, with `id`, `name` and, where the file has it, `supercategory`. Those
    without a usable id are left out, and a name that comes twice gets its id added.
    """
    categories: dict[int, dict[str, Any]] = {}
    names: set[str] = set()
    found = _Findings(source.path)
    for position, entry in enumerate(source.categories):
        where = f"category {name_of(entry, position)}"
        identifier = integer(entry.get("id")) if isinstance(entry, dict) else None
        name = entry.get("name") if isinstance(entry, dict) else None
        if identifier is None or not is_text(name) or not name:
            found.error(f"{where} is {excerpt(entry)}; expected an object with an integer id and a name")
            continue
        if identifier in categories:
            found.error(f"{where} is listed twice; expected unique ids")
            continue
        if name in names:
            unique = f"{name} ({identifier})"
            found.error(
                f"{where} has the name {excerpt(name)} of another one; expected unique names", f"named {unique!r}"
            )
            name = unique
        names.add(name)
        categories[identifier] = {"id": identifier, "name": name}
        if is_text(entry.get("supercategory")):
            categories[identifier]["supercategory"] = entry["supercategory"]
    ids = sorted(categories)
    if not ids and source.annotated:
        found.error("there are no categories; expected a list of objects with id and name", "not repaired")
    if ids != list(range(1, len(ids) + 1)):
        found.remark(f"category ids are {listed(ids)}, not 1 to {len(ids)}; they are kept, labels count from 0")
    return [categories[identifier] for identifier in ids], found.problems


def frame_problems(
    video: dict[str, Any], frames_dir: Path, file: Path, place: str, decode: bool = False
) -> dict[int, Problem]:
    """
    What is wrong with the frames of a video, by frame.

    Args:
        video: `height`, `width`, `file_names`.
        frames_dir: folder that the names are relative to.
        file, place: of the annotations, and of the video in them, for the messages.
        decode: read all pixels, which finds images that were cut off, rather than the header only.
    """
    size = [video["height"], video["width"]]
    messages = {
        frame: _frame_message(frames_dir, name, size, decode) for frame, name in enumerate(video["file_names"])
    }
    return {
        frame: Problem(message, file, place, frame=_frame_name(video, frame))
        for frame, message in messages.items()
        if message is not None
    }


def _frame_message(frames_dir: Path, name: str, size: list[int], decode: bool) -> str | None:
    try:
        path = frame_path(frames_dir, name)
    except OutsideError as error:
        return str(error)
    if not os.path.isfile(path):
        return f"the frame is missing; expected {path}"
    try:
        given = list(read_image(path).shape[:2]) if decode else list(image_size(path))
    except ImageError as error:
        return f"the frame cannot be read: {error}"
    if given != size:
        message = f"the frame has size {given}; expected [height, width] = {size} of the video"
        return message + turned_note(path, given, size)
    return None


class CheckedRows:
    """
    The rows of a source's dataset, and every problem with its place.

    A row has the columns of [`~transformers_msstsvis.data.loading.load_vis_dataset`], without `categories`. What has
    an error is left out; with `repair` only where it can't be put right: ids are numbered anew, lengths, boxes and
    areas computed, surplus nulls cut, and frames that can't be used are taken out of their video.

    Args:
        source: to read.
        check_frames: look at every frame of the videos.
        decode: read the pixels of the frames, too.
        repair: put right what can be.

    Attributes:
        categories: as of [`read_categories`].
        left_out: how many videos, annotations, frames and parts of masks were left out so far. Annotations of videos
            that were left out do not count.
    """

    def __init__(self, source: Source, *, check_frames: bool = False, decode: bool = False, repair: bool = False):
        self.source, self.check_frames, self.decode, self.repair = source, check_frames, decode, repair
        self.categories, problems = read_categories(source)
        self._category_problems = problems
        self._label = {category["id"]: label for label, category in enumerate(self.categories)}
        self._last_id = source.max_annotation_id
        self._video_ids: set[int] = set()
        self._annotation_ids: set[int] = set()
        self._crowds: list[int] = []
        self._only_boxes: list[int] = []
        self._turned: list[str] = []
        self._given_names: dict[str, str] = {}  # of frames, by those that are used
        self._masked = 0
        self.left_out: Counter[str] = Counter(annotations=source.unused)

    def __iter__(self) -> Iterator[tuple[dict[str, Any] | None, list[Problem]]]:
        """A row and its problems; None in place of a row that was left out, and for what concerns the whole set."""
        yield None, self._with_remedies(self._category_problems)
        for position, record in enumerate(self.source.records()):
            row, problems = self._row(record, position)
            if row is None:
                self.left_out["videos"] += 1
            yield row, self._with_remedies(problems)
        # Last, since it may come from an error in a video that an annotation finds none.
        yield None, self._with_remedies(self.source.problems)
        yield None, self._remarks()

    def _with_remedies(self, problems: list[Problem]) -> list[Problem]:
        if not self.repair:
            return [replace(problem, remedy=None) for problem in problems]
        return [
            replace(problem, remedy=_LEFT_OUT) if problem.is_error and problem.remedy is None else problem
            for problem in problems
        ]

    def _remarks(self) -> list[Problem]:
        found = _Findings(self.source.path)
        if not len(self.source):
            found.remark("there are no videos")
        if not self.source.labelled:
            found.remark("there are no labels (annotations missing or null); every video has zero annotations")
        elif not self._annotation_ids:
            found.remark("there are no annotations; every video has zero")
        if self._annotation_ids and not self._masked:
            found.remark("no annotation has a mask; training needs masks, and evaluation finds nothing")
        elif self._only_boxes:
            found.remark(f"boxes without a mask, which training leaves out: annotations {listed(self._only_boxes)}")
        if self._turned:
            found.remark(
                f"{len(self._turned)} videos (the first: {self._turned[0]}) have an EXIF orientation, by which their "
                "frames are turned or mirrored without another size; expected masks of the frames as viewers show them"
            )
        if self._crowds:
            found.remark(f"crowds (iscrowd), which are kept and marked: annotations {listed(self._crowds)}")
        if 0 in self._annotation_ids:
            found.remark("an annotation has id 0, which the official evaluation never matches; count from 1")
        return found.problems

    def _row(self, record: Record, position: int) -> tuple[dict[str, Any] | None, list[Problem]]:
        if record.video is None and record.problems:
            return None, record.problems
        found = _Findings(self.source.path, place_of(record.video, position), repair=self.repair)
        video = self._video(record.video, found)
        if video is None:
            return None, [*record.problems, *found.problems]
        bad_frames: dict[int, Problem] = {}
        if self.check_frames and video["frames_dir"] is not None:
            folder = Path(video["frames_dir"])
            bad_frames = frame_problems(video, folder, self.source.path, found.video, self.decode)
        some_left = self.repair and len(bad_frames) < video["length"]
        remedy = "frame taken out of the video" if some_left else None
        problems = [*record.problems, *found.problems, *(replace(bad, remedy=remedy) for bad in bad_frames.values())]

        # Annotations are checked in a video that is left out, too: one run shall tell everything.
        annotations = []
        lost = sum(problem.annotation is not None for problem in record.problems)
        for number, entry in record.annotations:
            found_here = _Findings(self.source.path, found.video, name_of(entry, number), repair=self.repair)
            annotation = self._annotation(entry, video, found_here)
            problems += found_here.problems
            lost += annotation is None
            parts = sum(problem.is_part for problem in found_here.problems)
            self.left_out["parts of masks"] += parts if annotation is not None else 0
            annotations += [] if annotation is None else [annotation]
        if found.fatal or (bad_frames and not some_left):
            return None, problems
        self.left_out["annotations"] += lost
        self.left_out["frames"] += len(bad_frames) + sum(problem.annotation is None for problem in record.problems)
        self._crowds += [annotation["id"] for annotation in annotations if annotation["iscrowd"]]
        row = {
            "video_id": video["id"],
            **{key: video[key] for key in ("height", "width", "length", "file_names", "frames_dir")},
            "annotations": annotations,
        }
        if self.check_frames and not bad_frames and row["frames_dir"] is not None:
            turned = read_orientation(Path(row["frames_dir"], row["file_names"][0]))
            if turned > 1 and (turned < 5 or row["height"] == row["width"]):
                self._turned.append(f"{found.video}, {turned}")
        if bad_frames:
            row = _without_frames(row, bad_frames)
            self.left_out["annotations"] += len(annotations) - len(row["annotations"])
        return row, problems

    def _video(self, entry: Any, found: "_Findings") -> dict[str, Any] | None:
        """The entry with what the annotations are checked against, or None if there is no telling."""
        if not isinstance(entry, dict):
            found.error(f"the video is {excerpt(entry)}; expected an object with id, height, width and file_names")
            return None
        identifier = integer(entry.get("id"))
        if identifier is None:
            found.error(f"the video has id {excerpt(entry.get('id'))}; expected an integer")
        elif identifier in self._video_ids:
            found.error("another video has this id; expected unique ids")
        self._video_ids.add(identifier)
        names = entry.get("file_names")
        if not isinstance(names, list) or not names or not all(map(_is_name, names)):
            found.error(f"file_names is {excerpt(names)}; expected a list with the name of each frame")
            return None
        length = entry.get("length", len(names))
        if length != len(names):
            found.error(
                f"length is {excerpt(length)}, but there are {len(names)} file_names", f"length is {len(names)}"
            )
        size = [integer(entry.get(key)) for key in ("height", "width")]
        if not all(side is not None and 0 < side <= MAX_SIDE for side in size):
            given = excerpt({key: entry.get(key) for key in ("height", "width")})
            found.error(f"the size is {given}; expected height and width in pixels, up to {MAX_SIDE}")
            return None
        try:
            folder, names = self._frames(names)
        except ValueError as error:
            found.error(f"in file_names, {error}")
            return None
        video = {"id": identifier, "height": size[0], "width": size[1], "length": len(names), "file_names": names}
        return {**video, "frames_dir": folder}

    def _frames(self, given: list[str]) -> tuple[str | None, list[str]]:
        """The folder of a video's frames, complete so that it holds from any working directory, and their names."""
        folder = self.source.frames_dir
        if folder is None:
            return None, given
        if self.source.allow_outside:
            folder, names = common_folder(folder, given)
            return str(folder.absolute()), names
        names = [self.source.frame_name(name) for name in given]
        if self.source.dropped is not None:
            for name, short in zip(given, names, strict=True):
                other = self._given_names.setdefault(short, name)
                if other != name:
                    raise ValueError(
                        f"{name!r} and {other!r} both would be {short!r} below {folder}; expected different frames: "
                        "pass frames_dir, the folder that they are relative to"
                    )
        return str(folder.absolute()), names

    def _annotation(self, entry: Any, video: dict[str, Any], found: "_Findings") -> dict[str, Any] | None:
        if not isinstance(entry, dict):
            found.error(f"the annotation is {excerpt(entry)}; expected an object")
            return None
        category_id = integer(entry.get("category_id"))
        if category_id not in self._label:
            found.error(category_problem(entry.get("category_id"), self._label))
        iscrowd = entry.get("iscrowd")
        if (problem := iscrowd_problem(iscrowd)) is not None:
            found.error(problem)
        masks = _read_segmentations(entry, video, found)
        identifier = self._identifier(entry, found)
        occlusion = _per_frame(entry, "occlusion", video, found, "removed")
        bboxes = _per_frame(entry, "bboxes", video, found, "computed from the masks")
        areas = _per_frame(entry, "areas", video, found, "computed from the masks")
        if masks is None or found.fatal:
            return None
        self._annotation_ids.add(identifier)
        if any(masks):
            self._masked += 1
        elif any(bboxes or ()):
            self._only_boxes.append(identifier)
        else:
            # Legal: the official evaluation counts it as an object that is missed.
            given = any(entry["segmentations"])
            found.remark(
                "its masks have no pixel in any frame"
                if given
                else "segmentations is null in every frame; expected a mask in one at least"
            )
        return {
            "id": identifier,
            "category_id": category_id,
            "label": self._label[category_id],
            "iscrowd": bool(iscrowd),
            "segmentations": masks,
            "bboxes": bboxes or [mask and rle_codec.toBbox(mask).tolist() for mask in masks],
            "areas": areas or [mask and float(rle_codec.area(mask)) for mask in masks],
            "occlusion": occlusion,
        }

    def _identifier(self, entry: dict[str, Any], found: "_Findings") -> int | None:
        identifier = integer(entry.get("id"))
        if identifier is not None and identifier not in self._annotation_ids:
            return identifier
        self._last_id += 1
        remedy = f"id is {self._last_id}"
        if identifier is None:
            found.error(f"id is {excerpt(entry.get('id'))}; expected an integer", remedy)
        else:
            found.error("another annotation has this id; expected unique ids", remedy)
        return self._last_id


class _Findings:
    """Problems of one entry of the file."""

    def __init__(self, file: Path, video: str | None = None, annotation: str | None = None, repair: bool = True):
        self.file, self.video, self.annotation, self.repair = file, video, annotation, repair
        self.problems: list[Problem] = []

    def error(self, message: str, remedy: str | None = None, frame: str | None = None, is_part: bool = False) -> None:
        place = (self.file, self.video, self.annotation, frame)
        self.problems.append(Problem(message, *place, remedy=remedy, is_part=is_part))

    def remark(self, message: str) -> None:
        self.problems.append(Problem(message, self.file, self.video, self.annotation, is_error=False))

    @property
    def fatal(self) -> bool:
        """Whether the entry has to be left out."""
        return any(
            problem.is_error and not problem.is_part and not (self.repair and problem.remedy)
            for problem in self.problems
        )


def _read_segmentations(entry: dict[str, Any], video: dict[str, Any], found: _Findings) -> list[dict | None] | None:
    """Compressed RLE of each frame, None without pixels; None instead of the list if there is no mask to use."""
    length, given = video["length"], entry.get("segmentations")
    if not isinstance(given, list):
        found.error(
            f"segmentations is {excerpt(given)}; expected a list of a mask or null for each of {length} frames"
        )
        return None
    if len(given) != length:
        usable = len(given) > length and not any(given[length:])
        message = f"segmentations has {len(given)} entries; expected {length}, one for each frame of the video"
        found.error(message, "the surplus nulls were cut" if usable else None)
    masks: list[dict | None] = []
    broken = False
    for frame, segmentation in enumerate(given[:length]):
        whole, fragments = split_fragments(segmentation)
        for fragment in fragments:
            message = f"the mask has a polygon of less than three corners, {excerpt(fragment)}; expected no such part"
            found.error(message, "this part was left out", _frame_name(video, frame), is_part=True)
        try:
            masks.append(_compressed(whole, video["height"], video["width"]))
        except (ValueError, TypeError, OverflowError, KeyError, AttributeError) as error:
            found.error(str(error), frame=_frame_name(video, frame))
            masks.append(None)
            broken = True
    shown = [frame for frame, mask in enumerate(masks) if mask is not None]
    if not shown:
        return None if broken else masks
    areas, totals = count_pixels([masks[frame]["counts"] for frame in shown])
    pixels = video["height"] * video["width"]
    for frame, area, total in zip(shown, areas.tolist(), totals.tolist(), strict=True):
        if total != pixels:
            message = counts_message(total, video["height"], video["width"])
            found.error(message, frame=_frame_name(video, frame))
            broken = True
        elif area == 0:
            masks[frame] = None
    return None if broken else masks


def _compressed(segmentation: Any, height: int, width: int) -> dict[str, Any] | None:
    rle = read_mask(segmentation, height, width)
    if rle is None:
        return None
    counts = rle["counts"]
    return {"size": [height, width], "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}


def _per_frame(entry: dict[str, Any], key: str, video: dict[str, Any], found: _Findings, remedy: str) -> list | None:
    """The list of a key with a value or null for each frame; None if there is none, or none to use."""
    values, length = entry.get(key), video["length"]
    if values is None:
        return None
    if not isinstance(values, list) or len(values) != length:
        given = f"has {len(values)} entries" if isinstance(values, list) else f"is {excerpt(values)}"
        found.error(f"{key} {given}; expected {length}, one for each frame of the video", remedy)
        return None
    values = [None if value == [] else value for value in values]
    for frame, value in enumerate(values):
        problem = None if value is None else _problem_of_frame(key, value, video)
        if problem is not None:
            found.error(problem, remedy, str(frame))
            return None
    if key == "areas":
        return [None if value is None else float(value) for value in values]
    if key == "bboxes":
        return [None if value is None else [float(number) for number in value] for value in values]
    return values


def _problem_of_frame(key: str, value: Any, video: dict[str, Any]) -> str | None:
    if key == "areas":
        return area_problem(value, video["height"], video["width"])
    if key == "bboxes" and not (isinstance(value, list) and len(value) == 4 and all(map(is_number, value))):
        return f"bboxes has {excerpt(value)}; expected x, y, width and height, or null"
    if key == "occlusion" and not is_text(value):
        return f"occlusion has {excerpt(value)}; expected a string, or null"
    return None


def _without_frames(row: dict[str, Any], frames: dict[int, Any]) -> dict[str, Any]:
    def kept(values: list | None) -> list | None:
        return values and [value for frame, value in enumerate(values) if frame not in frames]

    annotations = [
        {**annotation, **{key: kept(annotation[key]) for key in ("segmentations", "bboxes", "areas", "occlusion")}}
        for annotation in row["annotations"]
        # Objects that only these frames show go with them.
        if any(kept(annotation["segmentations"])) or not any(annotation["segmentations"])
    ]
    return {
        **row,
        "length": row["length"] - len(frames),
        "file_names": kept(row["file_names"]),
        "annotations": annotations,
    }


def _is_name(value: Any) -> bool:
    return is_text(value) and 0 < len(value) <= _LONGEST_NAME and "\0" not in value


def _frame_name(video: dict[str, Any], frame: int) -> str:
    return f"{frame} ({video['file_names'][frame]})"
