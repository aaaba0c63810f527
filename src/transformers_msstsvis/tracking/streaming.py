"""Tracks that come out while the video goes in."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature
from transformers.utils import ModelOutput

from ..results.candidates import check_count
from ..results.overlap import without_overlap
from ..results.video_instances import VideoInstances
from .clip_model import ClipModel, why_not_recorded
from .clip_record import ClipRecord
from .clip_tracks import ClipTracks
from .clips import CLIP_THRESHOLD, Clip, ClipWindow, check_numbers, found_in_clips
from .options import check_options, clips_of, labels_of
from .query_tracks import QueryClip
from .track_selection import TrackSelection


class StreamingPredictor:
    """
    Segments a video while it comes, and hands out every stretch of frames as soon as no later clip can change it.

    The model sees the video in clips that overlap, as the processor plans them for it; what joins their results to
    tracks holds only the frames that clips share. So memory does not grow with the video, but for the ids of its
    tracks and, with the tracker `"devis"`, one number for each frame of those that are there.

    Scores and labels are those known so far: they join all clips up to the one that finished the stretch. A track is
    handed out from the stretch on in which its score reaches `threshold`; a track that shows the object of a better
    one once more is left out from the stretch on in which it is known to.

    Args:
        model: a model of the family, in eval mode.
        processor: its video processor.
        latency (`int`, *optional*):
            Frames that may go in after a frame before it comes out; `L - 1` by default, with clips of `L` frames. A
            smaller one makes clips shorter. A model that knows clips of `L` frames only needs more, for its last clip
            may begin anywhere: up to one stride.
        fps (`float`, *optional*): frames per second, for the results; taken from the source where it has one.
        record ([`ClipRecord`], *optional*):
            Where to keep what is found in the clips, and to find it: these are not run again. Not with the tracker
            `"devis"`, nor of a model that carries its queries on, which need more of a clip than is kept.
        threshold, top_k, mask_threshold, max_frames, tracker, tracker_options, classes, duplicate_iou, boxes, overlap:
            As of [`VideoInstanceSegmentationPipeline`].

    Attributes:
        latency: largest number of frames that go in after a frame before it comes out.

    Raises:
        ValueError: for options out of range, or a `latency` that the model can't keep.

    Example:

    ```python
    >>> predictor = StreamingPredictor(model, processor, latency=9)
    >>> for tracks in predictor.stream(camera):
    ...     print(tracks.first_frame, tracks.num_frames, tracks.track_ids)
    ```
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        threshold: float = 0.3,
        top_k: int = 10,
        mask_threshold: float = 0.5,
        max_frames: int | None = None,
        latency: int | None = None,
        tracker: str | None = None,
        tracker_options: dict[str, Any] | None = None,
        classes: str | int | Sequence[str | int] | None = None,
        duplicate_iou: float = 0.5,
        boxes: str = "mask",
        overlap: str = "any",
        fps: float | None = None,
        record: ClipRecord | None = None,
    ):
        check_options(
            threshold=threshold,
            top_k=top_k,
            mask_threshold=mask_threshold,
            duplicate_iou=duplicate_iou,
            boxes=boxes,
            overlap=overlap,
            **({} if max_frames is None else {"max_frames": max_frames}),
        )
        self.model, self.processor, self.fps, self.overlap = model, processor, fps, overlap
        self.record, self._has_fps = record, fps is not None
        self._plan = {"max_frames": max_frames, "tracker": tracker, "tracker_options": tracker_options}
        if latency is not None:
            check_count("latency", latency, least=0)
            plan = processor.clip_plan(model.config, max_frames)
            if not plan.full:
                self._plan["max_frames"] = min(plan.num_frames, latency + 1)
        labels = labels_of(classes, model.config.id2label)
        self._selected = {"threshold": threshold, "duplicate_iou": duplicate_iou, "labels": labels}
        self._found = {
            "tracker": tracker or processor.tracker,
            "threshold": min(threshold, CLIP_THRESHOLD),
            "top_k": top_k,
            "mask_threshold": mask_threshold,
            "boxes": boxes,
            "labels": labels,
        }
        if record is not None and (reason := why_not_recorded(model, self._found["tracker"])):
            kind, name, _ = reason
            raise ValueError(f"{kind} is {name}, which needs more of a clip than a record keeps; use another one")
        self._begin()
        if latency is not None and self.latency > latency:
            raise ValueError(
                f"latency is {latency}; expected at least {self.latency} with the clips of "
                f"{self._window.num_frames} frames that {model.config.model_type} knows"
            )

    def _begin(self) -> None:
        plan, self._joiner = clips_of(self.processor, self.model.config, **self._plan)
        self._window = ClipWindow(*plan)
        self._run_clip = ClipModel()
        self._selection = TrackSelection(**self._selected)
        self._size: tuple[int, int] | None = None

    @property
    def latency(self) -> int:
        return self._window.latency

    def push(self, frame: Any) -> VideoInstances | None:
        """
        Take the next frame of the video.

        Args:
            frame: RGB, uint8 `(H, W, 3)` or a PIL image.

        Returns:
            The stretch of frames that is finished with it, or None. Its `first_frame` says where in the video it is.

        Raises:
            ValueError: for a frame of another kind, or of another size than the first.
        """
        clip = self._window.push(self._checked(frame))
        return None if clip is None else self._release(clip)

    def flush(self) -> VideoInstances | None:
        """The frames that are left at the end of the video, or None; what is pushed then is another video."""
        clip, size = self._window.flush(), self._size
        rest = None if size is None else self._release(clip, finished=True)
        self._begin()
        return rest if rest is not None and rest.num_frames else None

    def stream(self, frames: Iterable[Any]) -> Iterator[VideoInstances]:
        """
        Segment a video.

        Args:
            frames: as of [`~StreamingPredictor.push`], such as a [`VideoReader`], or whatever gives them one by one.

        Yields:
            Every stretch of frames as soon as it is finished; they follow each other.

        Raises:
            ValueError: as [`~StreamingPredictor.push`].
        """
        self._begin()
        if not self._has_fps and (fps := getattr(frames, "fps", None)) is not None:
            self.fps = fps
        for frame in frames:
            if (tracks := self.push(frame)) is not None:
                yield tracks
        if (tracks := self.flush()) is not None:
            yield tracks

    def _checked(self, frame: Any) -> np.ndarray:
        if hasattr(frame, "convert"):
            frame = frame.convert("RGB")
        frame = np.array(frame)  # a copy: cameras write the next one into the same memory
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise ValueError(
                f"the frame has shape {frame.shape} and type {frame.dtype}; expected RGB, uint8 (height, width, 3)"
            )
        self._size = self._size or frame.shape[:2]
        if frame.shape[:2] != self._size:
            raise ValueError(
                f"the frame has size {frame.shape[:2]}; expected {self._size} (height, width), that of the first: "
                "resize it, or flush and begin another video"
            )
        return frame

    def _release(self, clip: Clip | None, finished: bool = False) -> VideoInstances:
        if clip is not None:
            self._joiner.add(self._found_or_recorded(clip), clip.start)
        tracks = self._joiner.release(self._selection, finished)
        return tracks if self.overlap == "any" else without_overlap(tracks)

    def _found_or_recorded(self, clip: Clip) -> VideoInstances | ClipTracks | QueryClip:
        if self.record is None:
            return self.found_in(clip)
        found = self.record.next()
        if found is None:
            found = self.found_in(clip)
            self.record.add(found, clip.start)
        elif (found.first_frame, found.num_frames, found.size) != (clip.start, len(clip.frames), self._size):
            raise ValueError(f"{self.record.path} is the record of another video; run without it")
        return found

    @torch.inference_mode()
    def found_in(self, clip: Clip) -> VideoInstances | ClipTracks | QueryClip:
        """
        What the model finds in one clip.

        Raises:
            ValueError: if its scores are no numbers.
        """
        return self._post_process(self._run_model(self._preprocess(clip), clip.start == 0))

    def _preprocess(self, clip: Clip) -> BatchFeature:
        frames = np.stack(clip.frames)
        inputs = self.processor(frames, input_data_format="channels_last", return_tensors="pt")
        return inputs.to(self.model.device)

    def _run_model(self, inputs: BatchFeature, is_first: bool) -> ModelOutput:
        outputs = self._run_clip(self.model, is_first, **inputs, mask_top_k=self._found["top_k"])
        check_numbers(outputs.logits[0], "the video", self.model.dtype)
        return outputs

    def _post_process(self, outputs: ModelOutput) -> VideoInstances | ClipTracks | QueryClip:
        [found] = found_in_clips(outputs, [self._size], self.processor, **self._found)
        found.fps, found.id2label = self.fps, dict(self.model.config.id2label)
        return found
