"""JSON written piece by piece, so that nothing large is held."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from .track_masks import Sighting

# The lists of a track with an entry for every frame: its value where the track is visible, and JSON where it is not.
Columns = Mapping[str, tuple[Callable[[Sighting], Any], str]]

RESULT: Columns = {"segmentations": (lambda seen: seen.mask, "null"), "boxes": (lambda seen: seen.box, "null")}
SCORED_RESULT: Columns = {**RESULT, "frame_scores": (lambda seen: seen.frame_score, "0.0")}
ANNOTATION: Columns = {
    "segmentations": (lambda seen: seen.mask, "null"),
    "bboxes": (lambda seen: seen.coco_box, "null"),
    "areas": (lambda seen: seen.area, "null"),
}


def to_json(value: Any) -> str:
    """One line; ValueError for numbers that JSON does not have."""
    return json.dumps(value, allow_nan=False)


def track_text(
    head: Mapping[str, Any], sightings: Callable[[], Iterable[Sighting]], num_frames: int, columns: Columns
) -> Iterator[str]:
    """
    An object with lists that have an entry for every frame of the video, of which only the visible ones are given.

    Args:
        head: its other keys.
        sightings: those of the track, frame by frame, as often as it is called.
        num_frames: of the video.
        columns: the lists.
    """
    yield to_json(head)[:-1]
    for name, (value, absent) in columns.items():
        yield f', "{name}": ['
        following = 0
        for seen in sightings():
            yield f"{absent}, " * (seen.frame - following)
            following = seen.frame + 1
            yield to_json(value(seen)) + (", " if following < num_frames else "")
        if following < num_frames:
            yield f"{absent}, " * (num_frames - following - 1) + absent
        yield "]"
    yield "}"


def write_list(write: Callable[[str], Any], entries: Iterable[Iterable[str]]) -> None:
    """A list, an entry a line, each given as pieces of JSON."""
    separator = "[\n"
    for pieces in entries:
        write(separator)
        for piece in pieces:
            write(piece)
        separator = ",\n"
    write("[]" if separator == "[\n" else "\n]")
