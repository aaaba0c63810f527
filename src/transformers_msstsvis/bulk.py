"""Ten thousand videos on many machines: a step for datatrove, whose executors run it here, on SLURM or on Ray.

Needs the extra `bulk`: `pip install "transformers_msstsvis[bulk]"`.
"""

from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from typing import Any

from datatrove.pipeline.base import PipelineStep

from .predict import SAMPLE_MODEL, predict_videos
from .results.video_instances import VideoInstances


class SegmentVideos(PipelineStep):
    """
    Segments a share of the videos in every task; see [`predict_videos`], which skips those that are done.

    The statistics of the executor count videos, tracks, and those that were skipped or failed; `errors.jsonl` in the
    output folder says why. datatrove itself skips tasks that are done: give another `logging_dir` for other videos.

    Args:
        videos: as of [`predict_videos`].
        output: folder for the results.
        model: folder or Hub name of a checkpoint.
        threads: of a task on a CPU; 1 by default, as tasks run side by side.
        **options: of [`predict_videos`].

    Example:

    ```python
    >>> from datatrove.executor import LocalPipelineExecutor
    >>> step = SegmentVideos(["videos/"], output="results", model="path/to/checkpoint")
    >>> LocalPipelineExecutor([step], tasks=8, workers=2, logging_dir="logs").run()
    ```
    """

    type = "VIDEO"
    name = "Segment videos"

    def __init__(
        self,
        videos: Sequence[str | PathLike],
        output: str | PathLike,
        model: str | PathLike = SAMPLE_MODEL,
        threads: int = 1,
        **options: Any,
    ):
        super().__init__()
        self.videos, self.output, self.model = list(videos), output, model
        self.threads, self.options = threads, options

    def run(self, data: Iterable | None = None, rank: int = 0, world_size: int = 1) -> Iterator:
        import torch

        torch.set_num_threads(self.threads)
        share = f"{rank + 1}/{world_size}"
        results = predict_videos(self.videos, self.model, self.output, shard=share, **self.options)
        for _, result, _ in results:
            if result is None:
                self.stat_update("skipped")
            elif isinstance(result, VideoInstances):
                self.stat_update("videos")
                self.stat_update("tracks", value=len(result))
            else:
                self.stat_update("failed")
        yield from data or ()
