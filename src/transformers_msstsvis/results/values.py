"""Numbers, labels and videos as files hold them."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .video_instances import VideoInstances


def categories_of(
    instances: "VideoInstances", category_ids: Mapping[int, int] | None, labels: Iterable[int] | None = None
) -> list[dict[str, Any]]:
    """
    `id` in the data set, `label` and `name`, None where it is not known, of the labels there may be, and of `labels`,
    which are those of the instances by default.
    """
    found = instances.labels.tolist() if labels is None else labels
    possible = (instances.id2label or {}) if category_ids is None else category_ids
    return [
        {
            "id": category_id(instances, label, category_ids),
            "label": label,
            "name": (instances.id2label or {}).get(label),
        }
        for label in sorted({*possible, *found})
    ]


def named_categories(
    instances: "VideoInstances", category_ids: Mapping[int, int] | None, labels: Iterable[int] | None = None
) -> list[dict[str, Any]]:
    """`id` and `name`, as data sets have them, of `categories_of`."""
    return [
        {"id": category["id"], "name": str(instances.label_name(category["label"]))}
        for category in categories_of(instances, category_ids, labels)
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


def video_entry(instances: "VideoInstances", video_id: int | str) -> dict[str, Any]:
    height, width = instances.size
    return {
        "id": video_id,
        "height": height,
        "width": width,
        "fps": instances.fps,
        "first_frame": instances.first_frame,
    }


def labels_of(categories: list[dict[str, Any]]) -> tuple[dict[int, int], dict[int, str] | None]:
    """The label of each category id, and the names of labels, of `categories_of`."""
    names = {category["label"]: category["name"] for category in categories if category["name"] is not None}
    return {category["id"]: category["label"] for category in categories}, names or None
