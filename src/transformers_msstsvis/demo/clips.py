"""What the page computes: the objects of a clip are found once, and shown whenever the choice among them changes."""

import base64
import io
import shutil
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..pipelines import VideoInstanceSegmentationPipeline
from ..results.drawing import draw_instances
from ..results.track_masks import Sighting
from ..results.video_instances import VideoInstances
from ..tracking.clips import CLIP_THRESHOLD
from ..tracking.options import labels_of
from ..tracking.track_selection import suppress_duplicates
from ..video.frame_selection import SelectedFrames
from ..video.reader import VideoReader
from ..video.writer import VideoWriter

MAX_SECONDS = 30.0
MAX_FPS = 30.0
MAX_SIDE = 1280  # pixels
LOWEST_THRESHOLD = CLIP_THRESHOLD
DUPLICATE_IOU = 0.5  # as of the pipeline
THUMBNAIL = 96  # pixels
TRAIL_SECONDS = 1.0
COLUMNS = ("", "track", "label", "score", "frames", "seconds")

Progress = Callable[[int, int], object]  # frames that are done, and all of them


class Found(NamedTuple):
    """
    All that a model finds in a clip, however unsure it is.

    Attributes:
        video: the file.
        instances: its tracks from `LOWEST_THRESHOLD` on, objects that are found twice included.
        fps: frames per second of what was read.
        notes: what a user should know about the clip, in sentences.
    """

    video: str
    instances: VideoInstances
    fps: float
    notes: list[str]


class Shown(NamedTuple):
    """
    What is shown of it.

    Attributes:
        video: the annotated clip, H.264 in an mp4.
        rows: of the table of tracks, best first: see `COLUMNS`; the first is a picture in HTML.
        files: tracks in YouTube-VIS format, a table of their boxes, and their masks.
        text: a summary, in sentences.
    """

    video: Path
    rows: list[list]
    files: list[Path]
    text: str


def find_tracks(
    video: str | PathLike,
    segmenter: VideoInstanceSegmentationPipeline,
    tracker: str | None = None,
    max_seconds: float = MAX_SECONDS,
    progress: Progress = lambda done, total: None,
) -> Found:
    """
    Run the model over the beginning of a clip, frame by frame.

    Args:
        video: the file.
        segmenter: the pipeline of a checkpoint.
        tracker: what joins the parts of a long clip, by default what the checkpoint says.
        max_seconds: what follows is not looked at.
        progress: told of every frame that goes in.

    Raises:
        FileNotFoundError, ValueError: if there is no such video, or not one frame can be read.
    """
    clip = _frames_of(video)
    fps = clip.fps or 25.0
    limit = max(1, round(max_seconds * fps))
    total = min(limit, clip.num_frames or limit)
    frames = iter(clip)

    def counted() -> Iterator[np.ndarray]:
        for number, frame in enumerate(islice(frames, limit), start=1):
            progress(number, total)
            yield frame

    predictor = segmenter.predictor(threshold=LOWEST_THRESHOLD, duplicate_iou=1.0, tracker=tracker)
    predictor.fps = fps
    instances = VideoInstances.join(predictor.stream(counted()))
    notes = [f"The video {problem}." for problem in clip.problems]
    if next(frames, None) is not None:
        notes.append(
            f"Only the first {instances.num_frames / fps:.0f} seconds were segmented; for others trim the video (the "
            "scissors at its top)."
        )
    if clip.fps is not None and clip.step > 1:
        notes.append(f"Every second has {fps:.0f} frames, less than the video has.")
    if max(instances.size) == MAX_SIDE:
        notes.append(f"Frames are at most {MAX_SIDE} pixels long, results included.")
    return Found(str(video), instances, fps, notes)


def choose_tracks(instances: VideoInstances, threshold: float, classes: Collection[str] = ()) -> VideoInstances:
    """
    The tracks that are wanted, each object once, as the pipeline with the same arguments gives them.

    Args:
        instances: of [`Found`].
        threshold: smallest score, 0..1.
        classes: names of those that are wanted; all by default.

    Raises:
        ValueError: for a class that the model does not know.
    """
    chosen = instances.filter(threshold)
    labels = labels_of(list(classes) or None, instances.id2label or {})
    if labels is not None:
        chosen = chosen[np.isin(chosen.labels, list(labels))]
    return suppress_duplicates(chosen, DUPLICATE_IOU)


def show_tracks(
    found: Found,
    folder: str | PathLike,
    threshold: float = 0.3,
    classes: Collection[str] = (),
    parts: Collection[str] = ("masks", "boxes", "labels"),
    progress: Progress = lambda done, total: None,
) -> Shown:
    """
    Draw some of the tracks, and write their files. The model does not run again.

    Args:
        found: of [`find_tracks`].
        folder: for the files; an empty one.
        threshold, classes: as of [`choose_tracks`].
        parts: what to draw of each, some of `"masks"`, `"boxes"`, `"labels"`, `"trails"`.
        progress: told of every frame that is drawn.
    """
    folder, tracks = Path(folder), choose_tracks(found.instances, threshold, classes)
    best = [max(tracks.sightings(index), key=lambda sighting: sighting.area) for index in range(len(tracks))]
    pictures = [""] * len(tracks)
    drawn = {part: part in parts for part in ("masks", "boxes", "labels")}
    trails = round(TRAIL_SECONDS * found.fps) if "trails" in parts else 0
    video = folder / f"{Path(found.video).stem}-tracks.mp4"
    with VideoWriter(video, fps=found.fps) as writer:
        for place, frame in enumerate(islice(_frames_of(found.video), tracks.num_frames)):
            for index, sighting in enumerate(best):
                if sighting.frame == place:
                    pictures[index] = _thumbnail(draw_instances(frame, tracks[index], place, labels=False), sighting)
            writer.write(draw_instances(frame, tracks, place, trails=trails, **drawn))
            progress(place + 1, tracks.num_frames)
    rows = [[pictures[index], *_row(tracks, index, found.fps)] for index in range(len(tracks))]
    files = [tracks.export("ytvis", folder / "tracks.json"), tracks.export("csv", folder / "tracks.csv")]
    masks = tracks.export("davis", folder / "masks")
    files.append(Path(shutil.make_archive(str(masks), "zip", folder, masks.name)))
    return Shown(video, rows, files, " ".join([_summary(found, tracks, threshold, classes), *found.notes]))


def _frames_of(video: str | PathLike) -> SelectedFrames:
    reader = VideoReader(video)
    return SelectedFrames(reader, fps=MAX_FPS if reader.fps else None, max_side=MAX_SIDE)


def _row(tracks: VideoInstances, index: int, fps: float) -> tuple:
    masks = tracks.masks[index]
    return (
        int(tracks.track_ids[index]),
        str(tracks.label_name(tracks.labels[index])),
        round(float(tracks.scores[index]), 2),
        sum(1 for _ in masks.visible()),
        f"{masks.start / fps:.1f} - {masks.stop / fps:.1f}",
    )


def _thumbnail(frame: np.ndarray, sighting: Sighting) -> str:
    """The part of a frame around a box, as an element of HTML."""
    x1, y1, x2, y2 = sighting.box
    margin = 0.1 * max(x2 - x1, y2 - y1) + 2
    image = Image.fromarray(frame).crop(
        (
            max(0, round(x1 - margin)),
            max(0, round(y1 - margin)),
            min(frame.shape[1], round(x2 + margin)),
            min(frame.shape[0], round(y2 + margin)),
        )
    )
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    content = io.BytesIO()
    image.save(content, "JPEG")
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}">'


def _summary(found: Found, tracks: VideoInstances, threshold: float, classes: Collection[str]) -> str:
    length = f"{tracks.num_frames} frames ({tracks.num_frames / found.fps:.1f} seconds)"
    if len(tracks):
        return f"{len(tracks)} track{'s' if len(tracks) > 1 else ''} in {length}."
    of_classes = f" of {', '.join(classes)}" if classes else ""
    best = max(found.instances.scores.tolist(), default=0.0)
    if best < LOWEST_THRESHOLD:
        known = list((found.instances.id2label or {}).values())
        more = ", ..." if len(known) > 8 else ""
        return f"Nothing was found in {length}: the model knows {', '.join(known[:8])}{more}."
    return f"No track{of_classes} scores {threshold:g} or more in {length}; the best one has {best:.2f}."
