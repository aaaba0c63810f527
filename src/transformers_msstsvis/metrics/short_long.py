"""The numbers of YouTube-VIS 2022: the mean of an evaluation of the short videos and one of the long videos."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .reading import read_json
from .ytvis_map import YtvisMeanAveragePrecision


def compute_short_long(
    metric: YtvisMeanAveragePrecision, long_videos: Iterable[Any] | dict[str, Any] | str | Path
) -> dict[str, Any]:
    """
    Numbers as on the YouTube-VIS 2022 server, which evaluates short and long videos separately.

    Args:
        metric: with the results of all videos.
        long_videos: ids of the long videos; or a YouTube-VIS annotation file that lists just these; or the path of
            either as JSON.

    Returns:
        `AP_S` and `AP_L`, AP over the short and the long videos, in [0, 1]; `AP`, their mean; `short` and `long`, all
        numbers of each, see [`YtvisMeanAveragePrecision.compute`]. An AP is -1 where it has no ground truth.

    Raises:
        ValueError: if there are no ids, an id is not one of the metric's videos, or all or no videos are long.
    """
    content = read_json(long_videos) if isinstance(long_videos, (str, Path)) else long_videos
    try:
        if isinstance(content, dict):
            content = [video["id"] for video in content.get("videos") or []]
        long_ids = set(content)
    except (TypeError, KeyError) as error:
        name = long_videos if isinstance(long_videos, (str, Path)) else "long_videos"
        raise ValueError(
            f"{name} is neither a list of ids nor a dict with 'videos' that have ids ({error!r}); give "
            "the ids of the long videos"
        ) from error
    short_ids = set(metric.video_ids) - long_ids
    if not long_ids or not short_ids:
        raise ValueError(
            f"of {len(metric.video_ids)} videos, {len(long_ids)} are given as long; expected some long and some short "
            "videos: give the ids of the long ones"
        )
    short, long = metric.compute(video_ids=short_ids), metric.compute(video_ids=long_ids)
    both = [short["AP"], long["AP"]]
    mean = -1.0 if min(both) < 0 else sum(both) / 2
    return {"AP": mean, "AP_S": short["AP"], "AP_L": long["AP"], "short": short, "long": long}
