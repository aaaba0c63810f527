"""What was found in a video as JSON Lines, which grow while the video is read: a first line, then a line per frame.

The first line is `{"video": {"id", "height", "width", "fps", "first_frame"}, "categories": [...]}`, of categories
`id`, `label` and `name`. That of a frame is `{"frame": 17, "instances": [...]}`, with the number of the frame in the
video, of instances `track_id`, `label` (class name, or the label), `category_id`, `score`, `box` (x1 y1 x2 y2 in
pixels), `mask` (RLE) and, where it is known, `frame_score`. Scores and labels are those known when the line was
written: the last ones of a track hold.
"""

import json
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from .values import categories_of, category_id, labels_of, plain_number, video_entry

if TYPE_CHECKING:
    from .video_instances import VideoInstances

logger = logging.get_logger(__name__)

_LONGEST_HEADER = 1 << 20  # bytes
_ERRORS = (KeyError, TypeError, AttributeError, IndexError, OverflowError, ValueError, RecursionError)


def header_line(
    instances: "VideoInstances", video_id: int | str = 1, category_ids: Mapping[int, int] | None = None
) -> str:
    """The first line, for a file whose first stretch is this."""
    header = {"video": video_entry(instances, video_id), "categories": categories_of(instances, category_ids)}
    return json.dumps(header, allow_nan=False) + "\n"


def frame_lines(instances: "VideoInstances", category_ids: Mapping[int, int] | None = None) -> Iterator[str]:
    """The lines of the frames of a stretch of a video."""
    for frame in range(instances.num_frames):
        entries = []
        for index in instances.present(frame).tolist():
            label = instances.labels[index]
            sighting = instances.sighting(index, frame)
            entry = {
                "track_id": int(instances.track_ids[index]),
                "label": instances.label_name(label),
                "category_id": category_id(instances, label, category_ids),
                "score": plain_number(instances.scores[index]),
                "box": sighting.box,
                "mask": sighting.mask,
            }
            if sighting.frame_score is not None:
                entry["frame_score"] = sighting.frame_score
            entries.append(entry)
        yield json.dumps({"frame": instances.first_frame + frame, "instances": entries}, allow_nan=False) + "\n"


def is_json_lines(path: Path) -> bool:
    """Whether a file begins with the first line of JSON Lines."""
    with open(path, "rb") as file:
        try:
            header = json.loads(file.readline(_LONGEST_HEADER))
        except (ValueError, RecursionError):
            return False
    return isinstance(header, dict) and set(header) == {"video", "categories"}


def read_stretches(
    cls: type["VideoInstances"], path: str | PathLike, num_frames: int = 64
) -> Iterator["VideoInstances"]:
    """
    Read JSON Lines back, a stretch of the video at a time; `VideoInstances.join` makes one result of them.

    A last line that was cut, because the process that wrote it was killed, is left out.

    Args:
        path: the file.
        num_frames: of a stretch; the last one may be shorter. A file without frames gives one stretch without any.

    Raises:
        ValueError: if the file is no JSON Lines of this kind, or frames are missing.
    """
    path = Path(path).expanduser()
    number = 1
    try:
        entries = _entries(path)
        header = next(entries)[1]
        video, (label_of, names) = header["video"], labels_of(header["categories"])
        size, fps, first_frame = (video["height"], video["width"]), video["fps"], video["first_frame"]
        frames = [cls([], [], [], [], None, size, 0, fps, names, first_frame=first_frame)]
        is_first = True
        for number, entry in entries:  # noqa: B007 (for the message)
            frames.append(_frame_of(cls, entry, size, fps, names, label_of))
            frames[-1].check_follows(size, frames[-2].first_frame + frames[-2].num_frames)
            if len(frames) > num_frames:
                yield cls.join(frames)
                frames, is_first = [frames[-1].frames(1, 1)], False
        if is_first or len(frames) > 1:
            yield cls.join(frames)
    except _ERRORS as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise ValueError(
            f"{path} could not be read, line {number}: {reason}; expected JSON Lines of tracks, a first line on the "
            "video and a line for each frame"
        ) from error


def _entries(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number and content of each line, without a last one that was cut."""
    broken: ValueError | None = None
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if broken is not None:
                raise broken
            try:
                yield number, json.loads(line)
            except ValueError as error:  # the line that was being written, unless another follows
                broken = ValueError(f"line {number} is no JSON ({error})")
                if number == 1:
                    raise broken from error
    if broken is not None:
        logger.warning(f"{path} ends in the middle of a line, which is left out: its writing was stopped.")


def _frame_of(
    cls: type["VideoInstances"],
    entry: dict[str, Any],
    size: tuple[int, int],
    fps: float | None,
    names: dict[int, str] | None,
    label_of: dict[int, int],
) -> "VideoInstances":
    found = entry["instances"]
    scored = bool(found) and all("frame_score" in instance for instance in found)
    categories = [instance["category_id"] for instance in found]
    return cls(
        scores=[instance["score"] for instance in found],
        labels=[label_of.get(category, category - 1) for category in categories],
        track_ids=[instance["track_id"] for instance in found],
        masks=[[instance["mask"]] for instance in found],
        boxes=[[instance["box"]] for instance in found],
        size=size,
        num_frames=1,
        fps=fps,
        id2label=names,
        frame_scores=[[instance["frame_score"]] for instance in found] if scored else None,
        first_frame=entry["frame"],
    )
