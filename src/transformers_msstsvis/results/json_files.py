"""`VideoInstances` in JSON: a file of its own, which holds everything, and the results list of YouTube-VIS.

The functions are methods of [`VideoInstances`].
"""

import json
import math
from collections.abc import Iterator, Mapping
from itertools import repeat
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import written_aside
from .json_text import RESULT, SCORED_RESULT, to_json, track_text, write_list
from .line_format import is_json_lines, read_stretches
from .rle import RLE
from .track_masks import TrackMasks
from .values import categories_of, category_id, labels_of, plain_number, video_entry

if TYPE_CHECKING:
    from .video_instances import VideoInstances


def save_json(
    instances: "VideoInstances",
    path: str | PathLike,
    video_id: int | str = 1,
    category_ids: Mapping[int, int] | None = None,
) -> None:
    """Write everything, so that `load_json` gives the same back.

    The file holds an object: `video` has the id, size, length, frame rate and first frame, `categories` the class
    names, and `tracks` an object for each instance: `first_frame`, the frame of the video in which it is first
    visible, and `masks`, `boxes` and, where they are known, `frame_scores` from there to the last such frame.
    For the results list of YouTube-VIS, use `save_ytvis_json`.
    """
    video = {**video_entry(instances, video_id), "length": instances.num_frames}
    head = {"video": video, "categories": categories_of(instances, category_ids)}
    with written_aside(path) as unfinished, open(unfinished, "w", encoding="utf-8") as file:
        file.write(f'{to_json(head)[:-1]}, "tracks": ')
        write_list(file.write, ([to_json(entry)] for entry in _track_entries(instances, category_ids)))
        file.write("}\n")


def document_of(instances: "VideoInstances") -> dict[str, Any]:
    """What `save_json` writes."""
    video = {**video_entry(instances, 1), "length": instances.num_frames}
    categories = categories_of(instances, None)
    return {"video": video, "categories": categories, "tracks": list(_track_entries(instances, None))}


def _track_entries(instances: "VideoInstances", category_ids: Mapping[int, int] | None) -> Iterator[dict[str, Any]]:
    for index, masks in enumerate(instances.masks):
        boxes: list[list[float] | None] = [None] * (masks.stop - masks.start)
        of_frames = [0.0] * len(boxes)
        for sighting in instances.sightings(index):
            boxes[sighting.frame - masks.start] = sighting.box
            of_frames[sighting.frame - masks.start] = sighting.frame_score
        yield {
            "track_id": int(instances.track_ids[index]),
            "label": instances.label_name(instances.labels[index]),
            "category_id": category_id(instances, instances.labels[index], category_ids),
            "score": plain_number(instances.scores[index]),
            "first_frame": instances.first_frame + masks.start,
            "masks": masks.stretch(),
            "boxes": boxes,
            **({"frame_scores": of_frames} if instances.scores_frames else {}),
        }


def save_ytvis_json(
    instances: "VideoInstances",
    path: str | PathLike,
    video_id: int | str = 1,
    category_ids: Mapping[int, int] | None = None,
) -> None:
    """Write `to_ytvis` as it is: a plain list, the YouTube-VIS results format, track by track."""

    def entry(index: int) -> Iterator[str]:
        head = {
            "video_id": video_id,
            "category_id": category_id(instances, instances.labels[index], category_ids),
            "score": plain_number(instances.scores[index]),
            "track_id": int(instances.track_ids[index]),
            "label": instances.label_name(instances.labels[index]),
        }
        columns = SCORED_RESULT if instances.scores_frames else RESULT
        return track_text(head, lambda: instances.sightings(index), instances.num_frames, columns)

    with written_aside(path) as unfinished, open(unfinished, "w", encoding="utf-8") as file:
        write_list(file.write, map(entry, range(len(instances))))
        file.write("\n")


def load_json(
    cls: type["VideoInstances"],
    path: str | PathLike,
    video_id: int | str | None = None,
    category_ids: Mapping[int, int] | None = None,
    id2label: Mapping[int, str] | None = None,
) -> "VideoInstances":
    """Read a file of `save_json`, JSON Lines, or one video of a plain YouTube-VIS results list.

    Args:
        path: the JSON file.
        video_id: which video of a plain list; may be left out if the list has only one.
        category_ids: for a plain list, the category id of each label; label + 1 by default.
        id2label: for a plain list, class names by label; by default the names in the list, if it has them.

    Raises:
        ValueError: if the file is in neither format, holds several videos and none was chosen, or a plain list
            shows no mask and so tells no frame size.
    """
    path = Path(path).expanduser()
    if is_json_lines(path):
        return cls.join(read_stretches(cls, path))
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file ({error}): was it written completely?") from None
    try:
        if isinstance(document, dict):
            return from_document(document, cls)
        return _from_ytvis(cls, document, video_id, category_ids, id2label)
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError, ValueError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise ValueError(
            f"{path} could not be read: {reason}; expected a file of save_json or a YouTube-VIS results list"
        ) from error


def from_document(document: dict[str, Any], cls: type["VideoInstances"]) -> "VideoInstances":
    """What `document_of` was of."""
    video, categories = document["video"], document["categories"]
    label_of, names = labels_of(categories)
    first_frame = video.get("first_frame", 0)
    older = "results" in document  # with an entry for every frame
    results = document["results" if older else "tracks"]
    return _from_results(
        cls,
        results,
        given=[result["segmentations" if older else "masks"] for result in results],
        starts=None if older else [result["first_frame"] - first_frame for result in results],
        labels=[label_of[result["category_id"]] for result in results],
        size=(video["height"], video["width"]),
        num_frames=video["length"],
        fps=video["fps"],
        id2label=names,
        first_frame=first_frame,
    )


def _from_ytvis(cls: type["VideoInstances"], results, video_id, category_ids, id2label) -> "VideoInstances":
    videos = list(dict.fromkeys(result["video_id"] for result in results))
    if video_id is None and len(videos) == 1:
        video_id = videos[0]
    if video_id not in videos:
        raise ValueError(f"video_id is {video_id!r}; the list has videos {videos[:10]}: choose one with video_id=")
    results = [result for result in results if result["video_id"] == video_id]
    sizes = [rle["size"] for result in results for rle in result["segmentations"] if rle]
    if not sizes:
        raise ValueError("no result shows a mask, so the frame size is unknown; save_json keeps it")
    label_of = {category: label for label, category in (category_ids or {}).items()}
    labels = [label_of[result["category_id"]] if category_ids else result["category_id"] - 1 for result in results]
    names = id2label or {
        label: result["label"]
        for label, result in zip(labels, results, strict=True)
        if isinstance(result.get("label"), str)
    }
    return _from_results(
        cls,
        results,
        given=[result["segmentations"] for result in results],
        starts=None,
        labels=labels,
        size=tuple(sizes[0]),
        num_frames=len(results[0]["segmentations"]),
        id2label=names or None,
    )


def _from_results(
    cls: type["VideoInstances"],
    results: list[dict[str, Any]],
    given: list[list[RLE | None]],
    starts: list[int] | None,
    num_frames: int,
    **values: Any,
) -> "VideoInstances":
    """Of results with masks `given` for all frames, or for some from the frame `start` of each on."""
    length = None if starts is None else num_frames
    starts = starts or [0] * len(results)
    tracks = [result.get("track_id", number) for number, result in enumerate(results, start=1)]
    if len(set(tracks)) < len(tracks):  # of a query that appears with several classes
        tracks = range(1, len(tracks) + 1)
    masks = [
        TrackMasks((rle or None for rle in of_track), start, length)
        for of_track, start in zip(given, starts, strict=True)
    ]

    def of_frames(key: str, result: dict[str, Any], number: int, kept: TrackMasks, start: int) -> list | None:
        of_track = result.get(key)
        if of_track is not None and len(of_track) != number:
            raise ValueError(f"{key} has {len(of_track)} entries; expected {number}, one for each mask")
        return of_track and of_track[kept.start - start : kept.stop - start]

    def of_all(key: str) -> list[list | None]:
        lengths = map(len, given)
        return [of_frames(key, *of_track) for of_track in zip(results, lengths, masks, starts, strict=True)]

    absent = [math.nan] * 4
    frame_scores = of_all("frame_scores")
    return cls(
        scores=[result["score"] for result in results],
        track_ids=tracks,
        masks=masks,
        boxes=[
            [absent if box is None else box for box in of_track or repeat(None, kept.stop - kept.start)]
            for of_track, kept in zip(of_all("boxes"), masks, strict=True)
        ],
        num_frames=num_frames,
        frame_scores=None if not results or None in frame_scores else frame_scores,
        **values,
    )
