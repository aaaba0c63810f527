"""What was found in one video in the formats of others, as Python objects and as files.

The functions are methods of [`VideoInstances`].
"""

from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .palette import load_supervision
from .sinks.coco import coco_annotations, coco_images
from .sinks.kinds import open_sink
from .sinks.label_images import MOST_IN_PALETTE, DavisSink
from .values import category_id, named_categories, plain_number

if TYPE_CHECKING:
    from .video_instances import VideoInstances


def export(instances: "VideoInstances", kind: str, path: str | PathLike, **options: Any) -> Path:
    """
    Write a file, or a folder of files, of a kind that `open_sink` knows.

    Args:
        kind: `"cvat"`, `"coco"`, `"jsonl"`, ...
        path: the file or folder.
        **options: of the sink, as `video_id`.

    Returns:
        The file or folder.
    """
    with open_sink(kind, path, **options) as sink:
        sink.append(instances)
    return sink.written_to


def to_ytvis(
    instances: "VideoInstances", video_id: int | str, category_ids: Mapping[int, int] | None = None
) -> list[dict[str, Any]]:
    """Predictions in YouTube-VIS results format.

    Args:
        video_id: id of the video in the dataset.
        category_ids: the dataset's category id of each label; label + 1 by default, as in YouTube-VIS and OVIS.

    Returns:
        One `{"video_id", "category_id", "score", "segmentations"}` per instance, `segmentations` with an RLE or
        None for every frame. The keys `track_id`, `label` and `boxes` (as in `to_list`) are added, and `frame_scores`
        where they are known; evaluators read past them.

    Raises:
        ValueError: if a label is missing from `category_ids`.
    """
    more = [{}] * len(instances)
    if instances.scores_frames:
        more = [{"frame_scores": [plain_number(score) for score in row]} for row in instances.frame_scores]
    return [
        {
            "video_id": video_id,
            "category_id": category_id(instances, label, category_ids),
            "score": instance["score"],
            "segmentations": instance["masks"],
            "track_id": instance["track_id"],
            "label": instance["label"],
            "boxes": instance["boxes"],
            **frame_scores,
        }
        for label, instance, frame_scores in zip(instances.labels, instances.to_list(), more, strict=True)
    ]


def to_coco_video(
    instances: "VideoInstances",
    video_id: int = 1,
    category_ids: Mapping[int, int] | None = None,
    file_names: Iterable[str] | None = None,
    first_image_id: int = 1,
    first_annotation_id: int = 1,
    first_instance_id: int = 1,
) -> dict[str, list[dict[str, Any]]]:
    """A COCO-video document of this video: every frame an image, every mask an annotation.

    Args:
        video_id: id of the video.
        category_ids: as in `to_ytvis`.
        file_names: one per frame; `00000.jpg`, `00001.jpg`, ... by default, from `first_frame` on.
        first_image_id, first_annotation_id, first_instance_id: where to count on from, so that the documents of
            several videos can be joined; all three are unique over a dataset.

    Returns:
        `videos`, `images` (with `frame_id` from 0), `annotations` (with `image_id`, `frame_id`, `instance_id`,
        `track_id`, `score`, `bbox` x y w h, `area`, `segmentation`) and `categories`.

    Raises:
        ValueError: if the number of file names is not the number of frames, or a label is missing.
    """
    height, width = instances.size
    first = instances.first_frame
    names = [f"{first + frame:05d}.jpg" for frame in range(instances.num_frames)]
    if file_names is not None:
        names = list(file_names)
    if len(names) != instances.num_frames:
        raise ValueError(f"{len(names)} file names were given for {instances.num_frames} frames: give one for each")
    video = {"id": video_id, "height": height, "width": width, "length": instances.num_frames}
    found = (
        (
            first_instance_id + index,
            int(instances.track_ids[index]),
            category_id(instances, instances.labels[index], category_ids),
            plain_number(instances.scores[index]),
            instances.sighting(index, frame),
        )
        for frame in range(instances.num_frames)
        for index in instances.present(frame).tolist()
    )
    return {
        "videos": [video],
        "images": list(coco_images(video, names, first_image_id)),
        "annotations": list(coco_annotations(found, video_id, first_image_id, first_annotation_id)),
        "categories": named_categories(instances, category_ids),
    }


def to_mots(instances: "VideoInstances", path: str | PathLike) -> dict[int, int]:
    """Write one palette PNG per frame (`00000.png`, ...), as in MOTS and DAVIS: 0 is background.

    Pixel values are the track ids where these fit into 1..254 (255 is void in DAVIS); otherwise the tracks are
    numbered 1, 2, ... by ascending id. Where masks overlap, the higher score is in front.

    Args:
        path: folder, made if needed; frames of the same name are overwritten.

    Returns:
        The track id of each pixel value.

    Raises:
        ValueError: if there are more than 254 tracks.
    """
    tracks = np.unique(instances.track_ids).tolist()
    if all(1 <= track <= MOST_IN_PALETTE for track in tracks):
        sink = DavisSink(path)
    else:
        sink = DavisSink(path, values={track: value for value, track in enumerate(tracks, start=1)})
    with sink:
        sink.append(instances)
    return sink.values


def to_supervision(instances: "VideoInstances", frame: int) -> "supervision.Detections":  # noqa: F821 (imported when called)
    """The instances visible in one frame as `supervision.Detections`, with masks, track ids and class names."""
    visible = instances[instances.present(frame)]
    return load_supervision().Detections(
        xyxy=instances.boxes_at(frame),
        mask=visible.decode(frame),
        confidence=visible.scores,
        class_id=visible.labels,
        tracker_id=visible.track_ids,
        data={"class_name": np.array([str(instances.label_name(label)) for label in visible.labels], dtype=str)},
    )
