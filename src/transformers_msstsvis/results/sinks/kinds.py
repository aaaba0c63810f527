"""The sinks by name."""

from os import PathLike
from typing import Any

from .coco import CocoSink
from .cvat import CvatSink
from .frame_lines import JsonLinesSink
from .instance_masks import InstanceMasksSink
from .label_images import DavisSink, MotsSink, MotsTextSink
from .label_studio import LabelStudioSink
from .sink import Sink
from .tables import CsvSink
from .ytvis import YtvisAnnotationsSink, YtvisSink

SINKS: dict[str, type[Sink]] = {
    "jsonl": JsonLinesSink,
    "ytvis": YtvisSink,
    "ytvis_annotations": YtvisAnnotationsSink,
    "coco": CocoSink,
    "cvat": CvatSink,
    "davis": DavisSink,
    "mots": MotsSink,
    "mots_txt": MotsTextSink,
    "masks": InstanceMasksSink,
    "label_studio": LabelStudioSink,
    "csv": CsvSink,
}


def open_sink(kind: str, path: str | PathLike, **options: Any) -> Sink:
    """
    Open a file, or a folder of files, for the results of one video.

    Args:
        kind: one of `SINKS`. A file: `"jsonl"` (JSON Lines, a line per frame as it is found), `"ytvis"` (results
            list), `"ytvis_annotations"`, `"coco"` (COCO video), `"cvat"` (CVAT for video 1.1), `"mots_txt"`,
            `"label_studio"`, `"csv"` (boxes). A folder: `"davis"` (palette PNGs), `"mots"` (16-bit PNGs), `"masks"`
            (PNGs of each track).
        path: the file or folder.
        **options: `video_id`, `category_ids`, `file_names`, `num_frames`, as of [`Sink`].

    Raises:
        ValueError: if there is no such kind.
    """
    if kind not in SINKS:
        raise ValueError(f"there is no sink of kind {kind!r}; expected one of {', '.join(map(repr, SINKS))}")
    return SINKS[kind](path, **options)
