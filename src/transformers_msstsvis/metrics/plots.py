"""Plots of the metric."""

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import written_aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_plot(path: str | PathLike) -> None:
    """
    Find out before the work whether [`plot_precision_recall`] will be able to write `path`.

    Raises:
        ImportError: without matplotlib.
        ValueError: for a file type that is none of an image.
    """
    kinds = new_figure().canvas.get_supported_filetypes()
    kind = Path(path).suffix.removeprefix(".").lower()
    if kind not in kinds:
        raise ValueError(f"{path} is of type {kind!r}; expected the name of an image, such as pr.png, .pdf or .svg")


def plot_precision_recall(result: dict[str, Any], path: str | PathLike | None = None) -> "Figure":
    """
    Precision over recall, as a mean over the categories that have ground truth: at IoU 0.50 and 0.75 where these are
    among the thresholds, and as a mean over all thresholds. The area under a curve is the AP in its label.

    Args:
        result: of [`YtvisMeanAveragePrecision.compute`] with `return_arrays=True`.
        path: where to save it, `.png`, `.pdf` or `.svg`.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        ImportError: without matplotlib.
        ValueError: if the result has no arrays or no category with ground truth.
    """
    if "precision" not in result:
        raise ValueError("the result has no 'precision'; expected that of compute(return_arrays=True)")
    figure = new_figure()
    # (T, R, K, A, M), or (T, R, K, A, O, M) for OVIS -> (T, R, K): all areas, all occlusions, most predictions
    precision = result["precision"][..., 0, -1]
    precision = precision[..., 0] if precision.ndim == 4 else precision
    with_truth = precision[0, 0] > -1
    if not with_truth.any():
        raise ValueError("no category has ground truth; expected at least one annotation to plot curves of")
    by_threshold = precision[..., with_truth].mean(axis=-1)  # (T, R)
    thresholds = result["iou_thresholds"]

    axes = figure.add_subplot()
    for threshold in (0.5, 0.75):
        for curve in by_threshold[np.isclose(thresholds, threshold)]:
            axes.plot(result["recall_thresholds"], curve, label=f"IoU {threshold:.2f}: AP {100 * curve.mean():.1f}")
    mean = by_threshold.mean(axis=0)
    label = f"mean of IoU {thresholds[0]:.2f} to {thresholds[-1]:.2f}: AP {100 * mean.mean():.1f}"
    axes.plot(result["recall_thresholds"], mean, color="black", label=label)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0)  # a good curve fills the axes
    axes.grid(alpha=0.3)
    if path is not None:
        with written_aside(path) as unfinished:
            figure.savefig(unfinished, dpi=150)
    return figure


def new_figure() -> "Figure":
    """
    Raises:
        ImportError: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install matplotlib") from error
    return Figure(figsize=(8, 4.5), layout="constrained")
