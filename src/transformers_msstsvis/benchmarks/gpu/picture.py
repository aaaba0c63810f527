"""The report as a picture."""

from typing import Any

from ...files import written_aside
from ...metrics.plots import new_figure
from .operator_speed import KERNEL
from .tables import OTHERS, columns, device_name, operator_rows, system_rows, title


def plot(report: dict[str, Any], path: str) -> None:
    """
    How many times as long other ways take as the kernel, and frames per second of the models.

    Raises:
        ImportError: without matplotlib.
    """
    figure = new_figure()
    figure.set_size_inches(12, 13)
    operator, inference, training = figure.subplots(3, 1)
    _plot_operator(operator, report)
    _plot_systems(inference, report, "inference")
    _plot_systems(training, report, "training")
    figure.suptitle(f"{device_name(report)}, {report['date']}, {report['machine']}", fontsize=9)
    with written_aside(path) as unfinished:
        figure.savefig(unfinished, dpi=110)


def _plot_operator(axes: Any, report: dict[str, Any]) -> None:
    rows = operator_rows(report)
    labels = [f"{workload} {frames}\n{dtype}\n{passes}" for workload, frames, dtype, passes in rows]
    bars = {
        "roofline": [
            row["roofline_s"] / row["sides"][KERNEL]["seconds"]["median"]
            if "seconds" in row["sides"].get(KERNEL, {})
            else 0.0
            for row in rows.values()
        ]
    }
    for other in OTHERS:
        medians = [row["sides"].get(other, {}).get("ratio", {}).get("median", 0.0) for row in rows.values()]
        if any(medians):
            bars[other] = medians
    _draw_bars(axes, labels, bars if rows else {})
    axes.axhline(1.0, color="grey")
    axes.set(ylabel="times as long as the kernel", title="operator")
    if any(map(any, bars.values())):
        axes.set_yscale("log")


def _plot_systems(axes: Any, report: dict[str, Any], section: str) -> None:
    models = system_rows(report, section)
    bars = {}
    for column in columns(compiled=True):
        steps = [row.get(column, {}) for row in models.values()]
        speeds = [step.get("result", {}).get("frames_per_s", 0.0) for step in steps]
        if any(speeds):
            bars[title(*column)] = speeds
    _draw_bars(axes, list(models), bars)
    axes.set(ylabel="frames per second", title=section)


def _draw_bars(axes: Any, labels: list[str], bars: dict[str, list[float]]) -> None:
    width = 0.8 / max(1, len(bars))
    for index, (name, heights) in enumerate(bars.items()):
        places = [place + (index - (len(bars) - 1) / 2) * width for place in range(len(labels))]
        axes.bar(places, heights, width, label=name)
    axes.set_xticks(range(len(labels)), labels, fontsize=7)
    axes.grid(axis="y", alpha=0.3)
    if bars:
        axes.legend(fontsize=7)
