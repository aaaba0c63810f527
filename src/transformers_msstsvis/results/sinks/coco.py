"""COCO video: every frame an image, every mask an annotation."""

from collections.abc import Iterable, Iterator
from typing import Any

from ..json_text import to_json, write_list
from ..track_masks import Sighting
from .sink import SpooledSink


class CocoSink(SpooledSink):
    """
    A COCO-video document, as of `VideoInstances.to_coco_video`: `videos`, `images` with `frame_id` from 0,
    `annotations` with `instance_id`, and `categories`. The instance ids are those of the tracks.

    Args:
        first_image_id, first_annotation_id: where to count on from, so that documents of several videos can be joined.
    """

    def __init__(self, *args: Any, first_image_id: int = 1, first_annotation_id: int = 1, **options: Any):
        super().__init__(*args, **options)
        self._first_image_id, self._first_annotation_id = first_image_id, first_annotation_id

    def _finish(self) -> None:
        height, width = self._video.size
        video = {"id": self.numeric_id, "height": height, "width": width, "length": self.num_frames}
        images = coco_images(video, (self.file_name(index) for index in range(self.num_frames)), self._first_image_id)
        found = (
            (track.track_id, track.track_id, self.category_id(track.label), track.score, seen)
            for track, seen in self._spool.in_order()
        )
        annotations = coco_annotations(found, video["id"], self._first_image_id, self._first_annotation_id)
        self.write(f'{{"videos": [{to_json(video)}], "categories": {to_json(self.categories())}, "images": ')
        write_list(self.write, ([to_json(image)] for image in images))
        self.write(', "annotations": ')
        write_list(self.write, ([to_json(annotation)] for annotation in annotations))
        self.write("}\n")


def coco_images(video: dict[str, Any], names: Iterable[str], first_id: int) -> Iterator[dict[str, Any]]:
    """The images of a video, whose ids count from `first_id`."""
    for frame, name in enumerate(names):
        yield {
            "id": first_id + frame,
            "video_id": video["id"],
            "frame_id": frame,
            "file_name": name,
            "height": video["height"],
            "width": video["width"],
        }


def coco_annotations(
    found: Iterable[tuple[int, int, int, float, Sighting]], video_id: int, first_image_id: int, first_id: int
) -> Iterator[dict[str, Any]]:
    """The annotations of instance id, track id, category id and score, and where they are seen."""
    for number, (instance_id, track_id, category_id, score, seen) in enumerate(found):
        yield {
            "id": first_id + number,
            "video_id": video_id,
            "image_id": first_image_id + seen.frame,
            "frame_id": seen.frame,
            "category_id": category_id,
            "instance_id": instance_id,
            "track_id": track_id,
            "score": score,
            "bbox": seen.coco_box,
            "area": seen.area,
            "segmentation": seen.mask,
            "iscrowd": 0,
        }
