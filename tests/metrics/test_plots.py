import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.metrics.test_ytvis_map import LEFT, guess, truth
from transformers_msstsvis.metrics.plots import plot_precision_recall
from transformers_msstsvis.metrics.ytvis_map import YtvisMeanAveragePrecision

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden" / "metric"


@pytest.mark.parametrize(("name", "ovis"), [("b_noisy", False), ("j_ovis_occlusion", True)])
def test_areas_under_the_curves_are_the_published_numbers(name, ovis, tmp_path):
    case = json.loads((GOLDEN / f"{name}.json").read_text())
    metric = YtvisMeanAveragePrecision(case["ground_truth"], ovis=ovis)
    metric.update(case["predictions"])
    result = metric.compute(return_arrays=True)
    figure = plot_precision_recall(result, tmp_path / "curve.png")
    lines = figure.axes[0].get_lines()
    assert [line.get_ydata().mean() for line in lines] == pytest.approx(
        [result[key] for key in ("AP50", "AP75", "AP")]
    )
    for line in lines:
        assert (np.diff(line.get_ydata()) <= 1e-12).all()
        np.testing.assert_array_equal(line.get_xdata(), np.linspace(0, 1, 101))
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels[0] == f"IoU 0.50: AP {100 * result['AP50']:.1f}"
    assert labels[2] == f"mean of IoU 0.50 to 0.95: AP {100 * result['AP']:.1f}"
    assert Image.open(tmp_path / "curve.png").size == (1200, 675)


def test_the_legend_is_beside_the_curves():
    metric = YtvisMeanAveragePrecision(truth([LEFT]))
    metric.update([guess(LEFT)])
    figure = plot_precision_recall(metric.compute(return_arrays=True))
    figure.draw_without_rendering()
    [axes] = figure.axes
    legend, curves = axes.get_legend().get_window_extent(), axes.get_window_extent()
    assert legend.x0 > curves.x1
    assert legend.x1 <= figure.bbox.x1
    assert curves.width > figure.bbox.width / 2


def test_own_thresholds():
    metric = YtvisMeanAveragePrecision(truth([LEFT]), iou_thresholds=[0.6])
    metric.update([guess(LEFT)])
    lines = plot_precision_recall(metric.compute(return_arrays=True)).axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["mean of IoU 0.60 to 0.60: AP 100.0"]


def test_nothing_to_plot():
    with pytest.raises(ValueError, match=r"has no 'precision'; expected that of compute\(return_arrays=True\)"):
        plot_precision_recall({"AP": 0.5})
    empty = YtvisMeanAveragePrecision({**truth([LEFT]), "annotations": []}).compute(return_arrays=True)
    with pytest.raises(ValueError, match="no category has ground truth; expected at least one annotation"):
        plot_precision_recall(empty)
