"""Clips of annotated videos in the contract of the models: reading and sampling.

Letters: T frames, n instances, H W pixels.
"""

import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from pycocotools import mask as rle_codec
from transformers.utils import logging

from ..results.rle import check_counts
from ..video.images import ImageError, read_image
from .augmentation import ClipAugmentation, resize_clip
from .frames import OutsideError, frame_path, turned_note
from .loading import load_vis_dataset
from .sampling import SAMPLINGS, Clips

logger = logging.get_logger(__name__)

COLUMNS = ("video_id", "height", "width", "length", "file_names", "frames_dir", "annotations")
# With so many unreadable clips in a row, something is wrong with the whole data set.
MAX_REPLACEMENTS = 20
_CHECKED_AT_ONCE = 64  # videos, until one has a mask


class ClipError(ValueError):
    """A frame or a mask that cannot be read."""


def masks_to_boxes(masks: torch.Tensor) -> torch.Tensor:
    """Tight boxes cx cy w h in `[0, 1]` of masks `(..., H, W)` bool: `(..., 4)`, zeros for empty masks."""
    H, W = masks.shape[-2:]
    pixels = masks.view(torch.uint8)  # whose maximum is several times faster than `any`

    def extent(hit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.arange(hit.shape[-1])
        first = torch.where(hit, index, hit.shape[-1]).amin(-1)
        return first, torch.where(hit, index + 1, 0).amax(-1)

    x0, x1 = extent(pixels.amax(-2).bool())
    y0, y1 = extent(pixels.amax(-1).bool())
    boxes = torch.stack(((x0 + x1) / (2 * W), (y0 + y1) / (2 * H), (x1 - x0) / W, (y1 - y0) / H), dim=-1)
    return boxes * (x1 > x0)[..., None]


def make_labels(class_labels: torch.Tensor, masks: torch.Tensor) -> dict[str, torch.Tensor]:
    """
    The labels of a clip from class labels `(n,)` and masks `(n, T, H, W)` bool: `class_labels (m,)`,
    `boxes (m, T, 4)`, `masks (m, T, H, W)` and `valid (m, T)` of the instances that at least one frame shows.
    """
    boxes = masks_to_boxes(masks)
    valid = boxes[..., 2] > 0
    shown = valid.any(1)
    labels = {"class_labels": class_labels, "boxes": boxes, "masks": masks, "valid": valid}
    return labels if shown.all() else {name: value[shown] for name, value in labels.items()}


class VideoClips(Clips):
    """
    Random clips of annotated videos.

    An item is `{"frames": (T, 3, H, W) uint8, "labels": {class_labels, boxes, masks, valid}, "video_id"}`; the same
    index gives the same clip in the same epoch, in any worker. Crowds are left out, and so are instances that no frame
    of the clip shows; a clip may have none.

    Args:
        videos: annotation file (whatever [`load_vis_dataset`] reads), or a data set as it returns.
        frames_dir: folder that `file_names` are relative to; the one that the loader finds by default.
        num_frames: frames T of a clip.
        flip: mirror half of the clips.
        shortest_edge: resize the frames so that their shorter side has this many pixels; as they are by default.
        seed: of the sampling, together with the epoch ([`~VideoClips.set_epoch`]) and the index.
        sampling: frames of a clip.
            `"window"`: an index is a video; frames of a window of random length and place.
            `"published"`: an index is a frame, so that an epoch is as long as in the published schedules; this key
            frame, near ones and others ([`published_frames`]).
            `"strided"`: an index is a video; frames at equal distance.
            `"wrapped"`: an index is a frame, at which the clip ends, as published for VisTR ([`wrapped_frames`]).
            `"sliding"`: an index is a frame at which a whole clip can begin, as published for DeVIS
            ([`sliding_frames`]).
            `"consecutive"`: for evaluation, with `flip=False`; an index is one of the windows of T frames that cover a
            video, every frame once. The last window of a video may be shorter.
        stride: frames from one frame of a `"strided"` clip to the next.
        augmentation: takes the place of `flip` and `shortest_edge`, such as [`ClipAugmentation`]; called with frames,
            masks `(n, T, H, W)` and a random generator.
        on_error: `"raise"`, or `"skip"` to put another clip in the place of one that cannot be read. Which one depends
            on seed, epoch and index only. Every unreadable file is logged once, see also [`~VideoClips.failures`].

    Attributes:
        dataset: the data set of the videos.
        lengths: frames of each video.

    Raises:
        FileNotFoundError: when the file or the folder is missing; by an item, when a frame is.
        ClipError: by an item, when a frame cannot be decoded, lies outside of its folder, is not of the declared size,
            or does not fit its masks.
        ValueError: for a file that is no annotation file, for annotations without any mask, and for arguments that
            don't go together.
    """

    def __init__(
        self,
        videos: str | Path | Dataset,
        frames_dir: str | Path | None = None,
        num_frames: int = 5,
        flip: bool = True,
        shortest_edge: int | None = None,
        seed: int = 0,
        *,
        sampling: str = "window",
        stride: int = 1,
        augmentation: ClipAugmentation | None = None,
        on_error: str = "raise",
    ):
        super().__init__()
        if sampling not in SAMPLINGS:
            raise ValueError(f"sampling is {sampling!r}; expected one of {', '.join(SAMPLINGS)}")
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error is {on_error!r}; expected "raise" or "skip"')
        if num_frames < 1 or stride < 1:
            raise ValueError(f"num_frames is {num_frames} and stride {stride}; expected at least 1")
        if shortest_edge is not None and shortest_edge < 1:
            raise ValueError(f"shortest_edge is {shortest_edge}; expected at least 1 pixel, or None for the own size")
        if augmentation is not None and shortest_edge is not None:
            raise ValueError(
                f"shortest_edge is {shortest_edge}, but the augmentation resizes the frames already: leave it out, or "
                "set short_sides or scale of the augmentation"
            )
        if not isinstance(videos, Dataset):
            videos, frames_dir = load_vis_dataset(videos, frames_dir, on_error=on_error), None
        missing = [name for name in COLUMNS if name not in videos.column_names]
        if missing:
            raise ValueError(f"the data set lacks the columns {missing}; expected those of load_vis_dataset")
        self.dataset = videos
        self.frames_dir = None if frames_dir is None else Path(frames_dir)
        self.num_frames, self.flip, self.shortest_edge, self.seed = num_frames, flip, shortest_edge, seed
        self.sampling, self.stride, self.augmentation, self.on_error = sampling, stride, augmentation, on_error
        self.id2label = dict(enumerate(videos.features["annotations"].feature["label"].names))
        # Rows are read from Arrow, so that only the masks and frames of the clip become Python objects.
        self._rows = videos.with_format("arrow")
        columns = self._rows.select_columns(["video_id", "height", "width", "length"])[:]
        self.video_ids, heights, widths, self.lengths = (column.to_numpy() for column in columns.columns)
        self._sizes = np.stack((heights, widths), axis=1)
        self._first_frame = np.concatenate(([0], np.cumsum(self.lengths)))
        self._index(SAMPLINGS[sampling].indices(self.lengths, num_frames))
        if not len(self):
            raise ValueError("the data set has no frames; expected at least one video with frames")
        self._check_masks()
        self._failures = torch.zeros(int(self._first_frame[-1]), dtype=torch.int32).share_memory_()

    def _check_masks(self) -> None:
        """Refuse boxes alone, from which nothing would be learned."""
        annotated = False
        for rows in self._rows.select_columns(["annotations"]).iter(_CHECKED_AT_ONCE):
            annotations = pa.compute.list_flatten(rows["annotations"])
            masks = pa.compute.list_flatten(pa.compute.struct_field(annotations, "segmentations"))
            if len(masks) > masks.null_count:
                return
            annotated |= len(annotations) > 0
        if annotated:
            raise ValueError(
                "no annotation of the data set has a mask (segmentations or segmentation is empty or null in all); "
                "expected masks to learn from: boxes alone are not enough"
            )

    def _index(self, counts: np.ndarray) -> None:
        """Give each video so many indices."""
        self._first_index = np.concatenate(([0], np.cumsum(counts)))

    def __len__(self) -> int:
        return int(self._first_index[-1])

    @property
    def failures(self) -> dict[str, int]:
        """How many clips each unreadable file has cost so far, in all workers."""
        failed = {}
        for position in self._failures.nonzero().flatten().tolist():
            row = int(np.searchsorted(self._first_frame, position, side="right")) - 1
            name = self.dataset[row]["file_names"][position - int(self._first_frame[row])]
            failed[name] = int(self._failures[position])
        return failed

    def clip(self, index: int, epoch: int) -> dict:
        """The clip at `index` in the given epoch."""
        try:
            return self._clip(index, epoch)
        except (ClipError, FileNotFoundError) as error:
            if self.on_error == "raise":
                raise
            last_error = error
        for attempt in range(MAX_REPLACEMENTS):
            other = np.random.default_rng((self.seed, epoch, index, attempt)).integers(len(self))
            try:
                return self._clip(int(other), epoch)
            except (ClipError, FileNotFoundError) as error:
                last_error = error
        raise ClipError(
            f"clip {index} cannot be read, and {MAX_REPLACEMENTS} others in its place neither; expected most of the "
            f"data set to be readable. The last error: {last_error}"
        ) from last_error

    def _clip(self, index: int, epoch: int) -> dict:
        rng = np.random.default_rng((self.seed, epoch, index))
        row = int(np.searchsorted(self._first_index, index, side="right")) - 1
        pixels, masks, classes = self._read(row, index - int(self._first_index[row]), rng)
        if self.augmentation is not None:
            pixels, masks = self.augmentation(pixels, masks, rng)
        else:
            if self.shortest_edge is not None:
                pixels, masks = resize_clip(pixels, masks, self.shortest_edge)
            if self.flip and rng.random() < 0.5:
                pixels, masks = pixels.flip(-1), masks.flip(-1)
        return {"frames": pixels, "labels": make_labels(classes, masks), "video_id": int(self.video_ids[row])}

    def _read(self, row: int, position: int, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
        """Frames, masks and class labels of the clip at the `position`-th index of a video."""
        draw = SAMPLINGS[self.sampling].draw
        return self.read(row, draw(int(self.lengths[row]), self.num_frames, position, self.stride, rng))

    def read(self, row: int, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Frames of a video as they are: pixels `(T, 3, H, W)` uint8, masks `(n, T, H, W)` bool and class labels `(n,)`
        of all its instances. Frames come in any order, and more than once.
        """
        video = self._rows[row]
        given, (frames, places) = frames, np.unique(frames, return_inverse=True)
        pixels = torch.stack([self._read_frame(video, row, int(frame)) for frame in frames])
        masks, classes = self._read_masks(video, row, frames)
        if not np.array_equal(given, frames):
            pixels, masks = pixels[places], masks[:, places]
        return pixels, masks, classes

    def _read_frame(self, video: pa.Table, row: int, frame: int) -> torch.Tensor:
        name = video["file_names"][0][frame].as_py()
        folder, content = self.frames_dir, None
        if "frames" in video.column_names:
            embedded = video["frames"][0][frame].as_py()
            content, name = embedded["bytes"], embedded["path"] or name
        if folder is None:
            folder = Path(video["frames_dir"][0].as_py() or "")
        place = f"frame {folder / name} of video {self.video_ids[row]}"
        try:
            source = frame_path(folder, name) if content is None else content
        except OutsideError as error:
            self._fail(row, frame, f"{place} is not below its folder")
            raise ClipError(f"frame {frame} of video {self.video_ids[row]}: {error}") from error
        if content is None and not os.path.isfile(source):
            self._fail(row, frame, f"{place} is missing")
            raise FileNotFoundError(f"{place} is missing: restore it, pass frames_dir, or skip it with on_error")
        try:
            pixels = read_image(source if content is None else io.BytesIO(content))
        except ImageError as error:
            self._fail(row, frame, f"{place} cannot be decoded")
            raise ClipError(
                f"{place} cannot be decoded ({error}); expected one complete picture, as JPEG, PNG, WebP or TIFF: "
                "replace the file, or skip it with on_error"
            ) from error
        if pixels.shape[:2] != tuple(self._sizes[row]):
            given, declared = pixels.shape[:2], self._sizes[row].tolist()
            self._fail(row, frame, f"{place} has another size than declared")
            raise ClipError(
                f"{place} has {given[0]}x{given[1]} pixels (height x width); the annotations declare "
                f"{declared[0]}x{declared[1]}: correct the annotations, or resize the frame together with its masks"
                f"{turned_note(source, given, declared)}"
            )
        return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))

    def _read_masks(self, video: pa.Table, row: int, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        H, W = (int(side) for side in self._sizes[row])
        place = f"video {self.video_ids[row]}"
        annotations = video["annotations"].chunk(0).flatten()
        counted = ~annotations.field("iscrowd").to_numpy(zero_copy_only=False).astype(bool)
        segmentations = annotations.field("segmentations")
        starts, ends = (segmentations.offsets.to_numpy()[at][counted] for at in (slice(None, -1), slice(1, None)))
        if (ends - starts != self.lengths[row]).any():
            raise ClipError(
                f"{place} has {self.lengths[row]} frames and an instance with another number of segmentations; "
                "expected one per frame, null where it is absent"
            )
        wanted = segmentations.values.take(pa.array((starts[:, None] + frames).ravel())).to_pylist()
        masks = np.zeros((len(wanted), H, W), dtype=bool)
        for mask, rle in zip(masks, wanted, strict=True):
            if rle is None:
                continue
            if rle["size"] != [H, W]:
                raise ClipError(
                    f"{place} has a segmentation of {'x'.join(map(str, rle['size']))} (height x width); the video is "
                    f"declared as {H}x{W}: correct whichever is wrong"
                )
            try:
                check_counts(rle["counts"], H, W)
                mask[:] = rle_codec.decode(rle)
            except ValueError as error:
                raise ClipError(f"{place} has a segmentation that is no RLE ({error}): encode it anew") from error
        classes = annotations.field("label").to_numpy().astype(np.int64)[counted]
        return torch.from_numpy(masks).view(len(classes), len(frames), H, W), torch.from_numpy(classes)

    def _fail(self, row: int, frame: int, problem: str) -> None:
        position = int(self._first_frame[row]) + frame
        if self.on_error == "skip" and not self._failures[position]:
            logger.warning(f"{problem}; other clips take the place of those with this frame.")
        self._failures[position] += 1

    def num_instances(self) -> np.ndarray:
        """How many instances each video has, crowds included."""
        column = self._rows.select_columns(["annotations"])[:]["annotations"]
        return np.concatenate([pa.compute.list_value_length(chunk).to_numpy() for chunk in column.chunks])
