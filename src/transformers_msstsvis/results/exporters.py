"""What was found in one video in the formats of others: YouTube-VIS, COCO video, MOTS and DAVIS, `supervision`.

The functions are methods of [`VideoInstances`].
"""

from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pycocotools import mask as mask_utils

from ..files import written_aside
from .palette import load_supervision, track_palette
from .rle import decode_mask

if TYPE_CHECKING:
    from .video_instances import VideoInstances


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
        file_names: one per frame; `00000.jpg`, `00001.jpg`, ... by default.
        first_image_id, first_annotation_id, first_instance_id: where to count on from, so that the documents of
            several videos can be joined; all three are unique over a dataset.

    Returns:
        `videos`, `images` (with `frame_id` from 0), `annotations` (with `image_id`, `frame_id`, `instance_id`,
        `track_id`, `score`, `bbox` x y w h, `area`, `segmentation`) and `categories`.

    Raises:
        ValueError: if the number of file names is not the number of frames, or a label is missing.
    """
    height, width = instances.size
    names = [f"{frame:05d}.jpg" for frame in range(instances.num_frames)] if file_names is None else list(file_names)
    if len(names) != instances.num_frames:
        raise ValueError(f"{len(names)} file names were given for {instances.num_frames} frames: give one for each")
    images = [
        {
            "id": first_image_id + frame,
            "video_id": video_id,
            "frame_id": frame,
            "file_name": name,
            "height": height,
            "width": width,
        }
        for frame, name in enumerate(names)
    ]
    annotations = []
    for frame in range(instances.num_frames):
        for index, box in zip(instances.present(frame), instances.boxes_at(frame), strict=True):
            rle = instances.masks[index][frame]
            x1, y1, x2, y2 = map(plain_number, box)
            annotations.append(
                {
                    "id": first_annotation_id + len(annotations),
                    "video_id": video_id,
                    "image_id": first_image_id + frame,
                    "frame_id": frame,
                    "category_id": category_id(instances, instances.labels[index], category_ids),
                    "instance_id": first_instance_id + int(index),
                    "track_id": int(instances.track_ids[index]),
                    "score": plain_number(instances.scores[index]),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": int(mask_utils.area(rle)),
                    "segmentation": rle,
                    "iscrowd": 0,
                }
            )
    categories = [
        {"id": category["id"], "name": str(instances.label_name(category["label"]))}
        for category in categories_of(instances, category_ids)
    ]
    video = {"id": video_id, "height": height, "width": width, "length": instances.num_frames}
    return {"videos": [video], "images": images, "annotations": annotations, "categories": categories}


def to_mots(instances: "VideoInstances", path: str | PathLike) -> dict[int, int]:
    """Write one palette PNG per frame (`00000.png`, ...), as in MOTS and DAVIS: 0 is background.

    Pixel values are the track ids where these fit into 1..255; otherwise the tracks are numbered 1, 2, ... by
    ascending id. Where masks overlap, the higher score is in front.

    Args:
        path: folder, made if needed; frames of the same name are overwritten.

    Returns:
        The track id of each pixel value.

    Raises:
        ValueError: if there are more than 255 tracks.
    """
    from PIL import Image

    tracks = np.unique(instances.track_ids).tolist()
    if len(tracks) > 255:
        raise ValueError(
            f"{len(tracks)} tracks do not fit into a palette PNG, which has 255 values: keep the best ones with "
            "filter(threshold), or use to_coco_video or save_json"
        )
    fits = all(1 <= track <= 255 for track in tracks)
    value_of = {track: track if fits else value for value, track in enumerate(tracks, start=1)}

    folder = Path(path).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    palette = track_palette().tobytes()
    for frame in range(instances.num_frames):
        values = np.zeros(instances.size, dtype=np.uint8)
        visible = instances.present(frame)
        for index in visible[np.argsort(instances.scores[visible], kind="stable")]:
            values[decode_mask(instances.masks[index][frame])] = value_of[int(instances.track_ids[index])]
        image = Image.fromarray(values)
        image.putpalette(palette)
        with written_aside(folder / f"{frame:05d}.png") as unfinished:
            image.save(unfinished)
    return {value: track for track, value in value_of.items()}


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


def categories_of(instances: "VideoInstances", category_ids: Mapping[int, int] | None) -> list[dict[str, Any]]:
    """`id` in the data set, `label` and `name`, None where it is not known, of the labels there may be."""
    labels = sorted({*(instances.id2label or {}), *instances.labels.tolist()})
    if category_ids is not None:
        labels = sorted({*category_ids, *instances.labels.tolist()})
    return [
        {
            "id": category_id(instances, label, category_ids),
            "label": label,
            "name": (instances.id2label or {}).get(label),
        }
        for label in labels
    ]


def category_id(instances: "VideoInstances", label: int, category_ids: Mapping[int, int] | None) -> int:
    """The data set's category of a label: label + 1, as in YouTube-VIS and OVIS, where it does not say."""
    if category_ids is None:
        return int(label) + 1
    if int(label) not in category_ids:
        raise ValueError(
            f"label {int(label)} has no entry in category_ids (labels {sorted(category_ids)}): "
            "give the dataset's category id of every label of the model"
        )
    return int(category_ids[int(label)])


def plain_number(value: np.float32) -> float:
    """A Python float with the shortest digits that give the same float32 back: 0.87, not 0.8700000047683716."""
    return float(str(np.float32(value)))
