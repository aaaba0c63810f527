"""Pipeline of the task `"video-instance-segmentation"`."""

import inspect
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from types import GeneratorType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import ChunkPipeline
from transformers.pipelines.pt_utils import PipelineChunkIterator, PipelineIterator
from transformers.utils import logging

from .models.auto import AutoModelForVideoInstanceSegmentation
from .models.vis.video_processing_vis import ClipPlan, pad_videos
from .precision import warn_if_imitated
from .results.overlap import without_overlap
from .results.video_instances import VideoInstances
from .tracking.clip_model import ClipModel, carried_by
from .tracking.clips import CLIP_THRESHOLD, ClipJoiner, check_numbers, found_in_clips, split_clips
from .tracking.options import check_options, clips_of, labels_of
from .tracking.streaming import StreamingPredictor
from .video.frame_selection import check_selection
from .video.inputs import is_one_video

if TYPE_CHECKING:
    from .video.frame_selection import SelectedFrames
    from .video.reader import VideoReader

logger = logging.get_logger(__name__)

TASK = "video-instance-segmentation"
SELECTION = ("frames", "frame_stride", "fps", "max_side")
SAMPLE_MODEL = Path(__file__).parent / "checkpoints" / "msstsvis-tiny-synthetic"


class VideoInterrupted(KeyboardInterrupt):
    """
    Ctrl-C while a video was running.

    Attributes:
        instances (`VideoInstances`, *optional*): what the clips that were finished show, from the first frame on.
    """

    def __init__(self, instances: VideoInstances | None = None):
        super().__init__("interrupted")
        self.instances = instances


class VideoInstanceSegmentationPipeline(ChunkPipeline):
    """
    Finds every object of the model's classes in a video, with a mask in every frame and an identity over all frames.

    Args:
        model, video_processor, device, dtype, batch_size, ...: as in every pipeline. The default model is the small
            one that comes with the package. `batch_size` counts clips, which may come from several videos.
        threshold (`float`, defaults to 0.3): smallest score of a track, 0..1.
        top_k (`int`, defaults to 10): pairs of an instance and a class that are kept per clip.
        mask_threshold (`float`, defaults to 0.5): probability above which a pixel belongs to an instance.
        max_frames (`int`, *optional*):
            Longest clip that the model sees at once, 36 by default; a model that knows a single length has that. A
            longer video is cut into clips that overlap, by a sixth unless the processor says otherwise. They are read
            and run one after the other, and joined to tracks by what they show in the shared frames; the rest stays in
            memory as compressed masks only.
        tracker (`str`, *optional*):
            What joins the clips, by default what the processor says. `"iou"`: the masks in the shared frames; clips
            give everything that scores above 0.05, and `threshold` applies to the joined score: the mean over the
            clips, weighted by the frames of each. `"devis"`: masks, classes, scores and places in the shared frames,
            as published with DeVIS; clips give their `top_k` pairs, whatever they score, and `threshold` applies to
            the mean score of the frames. `"none"`: clips are not joined, every one has tracks of its own. A model that
            carries its queries from clip to clip, as VidEoMT, has nothing else to join by: a query is a track.
        tracker_options (`dict`, *optional*):
            Options of [`TrackStitcher`] or [`MultiCueStitcher`], by default those that the processor has for its
            tracker.
        classes (`str`, `int` or a list of them, *optional*):
            Only tracks of these classes, given by name or label, from the `top_k` pairs of all classes.
        duplicate_iou (`float`, defaults to 0.5):
            A track that covers a better one, of whatever class, with more than this mask IoU over the frames in which
            it is visible, is the same object once more and left out; 1 keeps all, as in the published results.
        boxes (`str`, defaults to `"mask"`): `"mask"`, around the masks, or `"model"`, as the model predicts them.
        overlap (`str`, defaults to `"any"`): `"none"` gives every pixel to one track, the one with the higher score.
        frames (`str`, `slice` or pair of `int`, *optional*): `"100:400"` for frames 100 to 399 of each video.
        frame_stride (`int`, *optional*): only every n-th frame.
        fps (`float`, *optional*): frames per second at most, by leaving out others.
        max_side (`int`, *optional*): longest side in pixels of frames and masks; larger frames are made smaller.
        public_urls (`bool`, defaults to `False`):
            Refuse URLs that lead to this machine or its private networks. For services that strangers use.
        on_error (`str`, *optional*):
            `"raise"`: a video that can't be read stops the call; the default for a single video. `"skip"`: its result
            is None, with a warning that says why; the default for lists, datasets and generators.
        return_instances (`bool`, defaults to `False`): give [`VideoInstances`] instead of lists of dicts.

    Example:

    ```python
    >>> from transformers import pipeline
    >>> import transformers_msstsvis

    >>> segmenter = pipeline("video-instance-segmentation", model="path/to/checkpoint")
    >>> tracks = segmenter("clip.mp4")
    >>> tracks[0]["label"], tracks[0]["track_id"]
    ('disk', 1)
    ```
    """

    _load_processor = False
    _load_image_processor = False
    _load_video_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, model: PreTrainedModel, *args, **kwargs):
        _check_class(model)
        if hasattr(model, "own_processor") and kwargs.get("video_processor") is not None:
            kwargs["video_processor"] = model.own_processor(kwargs["video_processor"])
        self._run_clips = ClipModel()
        super().__init__(model, *args, **kwargs)
        warn_if_imitated(self.model.dtype, self.device)

    def __call__(self, inputs: Any, stream: bool = False, latency: int | None = None, **kwargs) -> Any:
        """
        Segment one video or several.

        Args:
            inputs: one video: a path, URL, folder of frames, glob pattern or [`VideoReader`]; the bytes of a file, or
                a file object; an array or tensor `(T, H, W, 3)` or `(T, 3, H, W)`; a list of its frames (PIL images,
                arrays `(H, W, 3)`, image files). Or several: a list of such, an array of five dimensions, a dataset,
                or a generator.
            stream (`bool`, defaults to `False`):
                Give the tracks of every stretch of frames as soon as it is finished, as [`VideoInstances`] one after
                the other; memory does not grow with the video. Several videos give an iterator of such iterators.
                See [`StreamingPredictor`] for what differs.
            latency (`int`, *optional*): of [`StreamingPredictor`], with `stream`.
            **kwargs: the arguments of the class, for this call only; `batch_size`, `num_workers`.

        Returns:
            For one video a list of `{"score": float, "label": str, "track_id": int, "boxes": T of [x1, y1, x2, y2] in
            pixels or None, "masks": T of COCO RLE or None}`, best score first; None stands for a frame without the
            instance. JSON can hold it. A list gives a list, a dataset or generator an iterator, of such results.
            With `return_instances` each is a [`VideoInstances`]. A video with damage is used up to it, with a warning.

        Raises:
            ValueError: for arguments out of range, and with `on_error="raise"` for a video of a wrong shape or kind.
            FileNotFoundError: with `on_error="raise"`, for a path that does not exist.
        """
        if isinstance(inputs, list | tuple) and not inputs:
            raise ValueError("the list of videos is empty; expected at least one video, or the frames of one")
        listed = not isinstance(inputs, Dataset | GeneratorType)
        single = listed and is_one_video(inputs)
        if listed:
            # The base class takes a list for several inputs and everything else for one.
            inputs = tuple(inputs) if single and isinstance(inputs, list) else inputs if single else list(inputs)
        if kwargs.get("on_error") is None:
            kwargs["on_error"] = self._preprocess_params.get("on_error") or ("raise" if single else "skip")
        if stream:
            kwargs["latency"] = latency
            for name in ("batch_size", "num_workers"):  # clips of a stream run one by one
                kwargs.pop(name, None)
            on_error = kwargs.pop("on_error")
            self.predictor(**kwargs)  # what is wrong for all is told at once
            streams = (self._stream(one, on_error, **kwargs) for one in ([inputs] if single else inputs))
            return next(streams) if single else streams
        return super().__call__(inputs, **kwargs)

    def predictor(self, **options) -> StreamingPredictor:
        """
        What segments a video while it comes, with the arguments of the pipeline unless `options` have others.

        Args:
            **options: of [`StreamingPredictor`], and arguments of the pipeline that do not concern it.
        """
        known = {*inspect.signature(StreamingPredictor).parameters} - {"fps"}  # a choice of frames here
        self._sanitize_parameters(**{name: value for name, value in options.items() if name not in known})
        options = {**self._preprocess_params, **self._forward_params, **self._postprocess_params, **options}
        chosen = {name: value for name, value in options.items() if name in known and value is not None}
        return StreamingPredictor(self.model, self.video_processor, **chosen)

    def read(self, video: Any, **options) -> "VideoReader | SelectedFrames":
        """The frames of a video that the pipeline would read, with its arguments unless `options` have others."""
        options = {**self._preprocess_params, **options}
        return read_video(video, options.get("public_urls", False), *(options.get(name) for name in SELECTION))

    def _stream(self, video: Any, on_error: str, **options) -> Iterator[VideoInstances]:
        try:
            yield from self.predictor(**options).stream(self.read(video, **options))
        except Exception as error:
            if on_error == "raise":
                raise
            logger.warning(f"{_name_of(video)} ends here: {error}")

    def _sanitize_parameters(self, **parameters) -> tuple[dict, dict, dict]:
        steps = [_keywords(step) for step in (self.preprocess, self._forward, self.postprocess)]
        unknown = [name for name in parameters if not any(name in step for step in steps)]
        if unknown:
            known = sorted({name for step in steps for name in step})
            raise TypeError(f"there is no argument {', '.join(unknown)}; expected some of {', '.join(known)}")
        given = {name: value for name, value in parameters.items() if value is not None}
        self._check(**given)
        return tuple({name: value for name, value in given.items() if name in step} for step in steps)

    def _check(self, **given) -> None:
        check_options(**given)
        self._labels_of(given.get("classes"))
        self._clips_of(given.get("max_frames"), given.get("tracker"), given.get("tracker_options"))
        check_selection(*(given.get(name) for name in SELECTION))

    def _clips_of(
        self, max_frames: int | None = None, tracker: str | None = None, tracker_options: dict[str, Any] | None = None
    ) -> tuple[ClipPlan, ClipJoiner]:
        """How a video is cut, and what joins its clips."""
        return clips_of(self.video_processor, self.model.config, max_frames, tracker, tracker_options)

    def _labels_of(self, classes: str | int | Sequence[str | int] | None) -> set[int] | None:
        return labels_of(classes, self.model.config.id2label)

    def preprocess(
        self,
        video: Any,
        max_frames: int | None = None,
        on_error: str = "skip",
        public_urls: bool = False,
        tracker: str | None = None,
        tracker_options: dict[str, Any] | None = None,
        frames: str | slice | tuple[int, int] | None = None,
        frame_stride: int | None = None,
        fps: float | None = None,
        max_side: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Read a video clip by clip."""
        plan, joiner = self._clips_of(max_frames, tracker, tracker_options)
        try:
            for clip in self._clips(read_video(video, public_urls, frames, frame_stride, fps, max_side), plan):
                yield {**clip, "on_error": on_error, "joiner": joiner}
                joiner = None  # the first clip brings it
        except Exception as error:
            # Decoders raise of every kind, and no video may cost the results of the others.
            if on_error == "raise":
                raise
            logger.warning(f"{_name_of(video)} is skipped, its result is None: {error}")
            yield {"pixels": None, "is_last": True}

    def _clips(self, reader: "VideoReader | SelectedFrames", plan: ClipPlan) -> Iterator[dict[str, Any]]:
        for start, frames, is_last in split_clips(reader, *plan):
            pixels = self.video_processor(
                np.stack(frames), input_data_format="channels_last", do_pad=False, return_tensors="pt"
            )
            yield {
                "pixels": pixels["pixel_values_videos"][0],  # (T, 3, H, W)
                "start": start,
                "stop": start + len(frames),
                "is_last": is_last,
                "size": frames[0].shape[:2],
                "fps": reader.fps,
                "name": reader.name,
                "total": reader.num_frames,
            }

    def _collate(self, clips: list[dict[str, Any]]) -> dict[str, Any]:
        pixels = [clip.pop("pixels") for clip in clips]
        for clip, values in zip(clips, pixels, strict=True):
            clip["readable"] = values is not None
        batch = {"clips": clips}
        if any(clip["readable"] for clip in clips):
            batch["pixel_values_videos"], batch["pixel_mask"] = pad_videos(
                [values for values in pixels if values is not None],
                getattr(self.video_processor, "size_divisor", None),
            )
        return batch

    def get_iterator(
        self, inputs, num_workers: int, batch_size: int, preprocess_params, forward_params, postprocess_params
    ):
        if hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"):
            inputs = _ByIndex(inputs)
        clips = PipelineChunkIterator(inputs, self.preprocess, preprocess_params)
        if carried_by(self.model):
            batch_size = 1
        # One worker at most: each would read all videos.
        loader = DataLoader(clips, num_workers=min(num_workers, 1), batch_size=batch_size, collate_fn=self._collate)
        videos = self._videos(loader, forward_params, postprocess_params)
        return PipelineIterator(videos, self.postprocess, postprocess_params)

    def _videos(
        self, loader: Iterable, forward_params: dict[str, Any], postprocess_params: dict[str, Any]
    ) -> Iterator[list[dict[str, Any]]]:
        """Run the batches of clips and put the clips of a video together."""
        video, progress, complete = [], None, True
        try:
            for batch in loader:
                for clip in self.forward(batch, **forward_params)["clips"]:
                    if not video and not clip["is_last"]:
                        progress = logging.tqdm(total=clip["total"], desc=clip["name"], unit="frame")
                    if progress is not None and clip["readable"]:
                        progress.update(clip["stop"] - (video[-1]["stop"] if video else 0))
                    complete = complete and clip["readable"]
                    if complete:
                        joiner = video[0]["joiner"] if video else clip["joiner"]
                        joiner.add(clip.pop("found"), clip["start"])
                    video.append(clip)
                    if clip["is_last"]:
                        if progress is not None:
                            progress.close()
                        yield video
                        video, progress, complete = [], None, True
        except KeyboardInterrupt as stop:
            arguments = {**postprocess_params, "return_instances": True}
            raise VideoInterrupted(self.postprocess(video, **arguments) if video else None) from stop
        finally:
            if progress is not None:
                progress.close()

    def _forward(
        self,
        inputs: dict[str, Any],
        threshold: float = 0.3,
        top_k: int = 10,
        mask_threshold: float = 0.5,
        classes: str | int | Sequence[str | int] | None = None,
        boxes: str = "mask",
        tracker: str | None = None,
    ) -> dict[str, Any]:
        clips = inputs.pop("clips")
        readable = [clip for clip in clips if clip["readable"]]
        if readable:
            if not all(clip["is_last"] and clip["start"] == 0 for clip in readable):
                threshold = min(threshold, CLIP_THRESHOLD)
            # k pairs of a query and a class have k different queries at most.
            outputs = self._run_clips(self.model, readable[0]["start"] == 0, **inputs, mask_top_k=top_k)
            results = found_in_clips(
                outputs,
                [clip["size"] for clip in readable],
                self.video_processor,
                tracker or self.video_processor.tracker,
                threshold,
                top_k,
                mask_threshold,
                boxes,
                self._labels_of(classes),
            )
            for clip, found, logits in zip(readable, results, outputs.logits, strict=True):
                clip["readable"] = self._has_numbers(clip, logits)
                found.fps, found.id2label = clip["fps"], dict(self.model.config.id2label)
                clip["found"] = found
        return {"clips": clips}

    def _has_numbers(self, clip: dict[str, Any], logits: torch.Tensor) -> bool:
        try:
            check_numbers(logits, clip["name"], self.model.dtype)
            return True
        except ValueError as problem:
            if clip["on_error"] == "raise":
                raise
            logger.warning(f"{problem}. The video is skipped, its result is None.")
            return False

    def postprocess(
        self,
        clips: list[dict[str, Any]],
        threshold: float = 0.3,
        duplicate_iou: float = 0.5,
        classes: str | int | Sequence[str | int] | None = None,
        overlap: str = "any",
        return_instances: bool = False,
    ) -> VideoInstances | list[dict[str, Any]] | None:
        """Join the clips of one video."""
        if not all(clip["readable"] for clip in clips):
            return None
        instances = clips[0]["joiner"].finish(threshold, duplicate_iou, self._labels_of(classes))
        if overlap == "none":
            instances = without_overlap(instances)
            instances = instances[[masks.start < masks.stop for masks in instances.masks]]
        return instances if return_instances else instances.to_list()

    def save_pretrained(self, save_directory: str | PathLike, **kwargs) -> None:
        """
        Save the model and the video processor.

        The configuration gets no `custom_pipelines` entry, which would make `pipeline()` ask for code in the
        repository although the installed package registers the task.
        """
        if hasattr(self.model.config, "custom_pipelines"):
            del self.model.config.custom_pipelines
        self.model.save_pretrained(save_directory, **kwargs)
        self.video_processor.save_pretrained(save_directory, **kwargs)


def read_video(
    video: Any,
    public_urls: bool = False,
    frames: str | slice | tuple[int, int] | None = None,
    frame_stride: int | None = None,
    fps: float | None = None,
    max_side: int | None = None,
) -> "VideoReader | SelectedFrames":
    """The frames of a video, those that are wanted; all arguments are of the pipeline."""
    # Imported here: models do not depend on how data is read until there is some.
    from .video.frame_selection import SelectedFrames
    from .video.reader import VideoReader

    reader = video if isinstance(video, VideoReader | SelectedFrames) else VideoReader(video, public_urls=public_urls)
    chosen = (frames, frame_stride, fps, max_side)
    return reader if chosen == (None,) * 4 else SelectedFrames(reader, *chosen)


def _check_class(model: PreTrainedModel) -> None:
    """
    Raises:
        ValueError: for a model of another task, where there is one of this task with the same configuration. The
            pipeline of transformers takes the former where the latter can't be loaded.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    known = AutoModelForVideoInstanceSegmentation._model_mapping.get(type(model.config), None)
    if known is not None and not isinstance(model, known):
        raise ValueError(
            f"the model is a {type(model).__name__}; expected a {known.__name__}: "
            f"AutoModelForVideoInstanceSegmentation.from_pretrained({model.name_or_path!r}) gives it, or says what is "
            "wrong with the checkpoint"
        )


def _name_of(video: Any) -> str:
    return str(video) if isinstance(video, str | PathLike) else f"a video of type {type(video).__name__}"


class _ByIndex:
    """A data set by its indices: it need not raise the IndexError at its end that iterating over it waits for."""

    def __init__(self, dataset: Sequence):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator:
        return (self.dataset[index] for index in range(len(self.dataset)))


def _keywords(step: Any) -> set[str]:
    """The arguments of a step of the pipeline, but for what the step before hands over."""
    return set(list(inspect.signature(step).parameters)[1:])


def register_pipeline() -> None:
    """Make `transformers.pipeline` know the task."""
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=VideoInstanceSegmentationPipeline,
            pt_model=AutoModelForVideoInstanceSegmentation,
            default={"model": (str(SAMPLE_MODEL), None)},
            type="video",
        )


__all__ = ["VideoInstanceSegmentationPipeline"]
