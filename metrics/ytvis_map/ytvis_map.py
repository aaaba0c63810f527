"""The official YouTube-VIS and OVIS numbers as a module of the `evaluate` library."""

import json
from typing import Any

import datasets
import evaluate

from transformers_msstsvis.metrics.ytvis_map import YtvisMeanAveragePrecision

_DESCRIPTION = """
Mean average precision and recall of video instance segmentation, as on the YouTube-VIS and OVIS servers. A prediction
and an annotation are compared by the IoU of their masks, summed over all frames of the video.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: list of `{"video_id", "category_id", "score", "segmentations"}`, the latter with an RLE or None for
        every frame; or that as JSON; or the path of a results.json.
    references: `{"videos", "annotations", "categories"}` in YouTube-VIS format; or that as JSON; or the path of an
        annotation file.
        Both may also be lists, of such predictions and of such references: an entry for each group of videos.
    ovis: also the numbers by occlusion.

Returns:
    `AP`, `AP50`, `AP75`, `APs`, `APm`, `APl`, `AR1`, `AR10`, `AR100`, `ARs`, `ARm`, `ARl` in [0, 1], -1 where there is
    no such ground truth; with `ovis` also `AP_light`, `AP_medium`, `AP_heavy`, `AR_light`, `AR_medium`, `AR_heavy`;
    `per_category` by category id.

Examples:

    >>> metric = evaluate.load("metrics/ytvis_map")
    >>> metric.add(prediction="results.json", reference="instances.json")
    >>> metric.compute()["AP"]
    0.371
"""

_CITATION = """
@inproceedings{yang2019video,
  title={Video Instance Segmentation},
  author={Yang, Linjie and Fan, Yuchen and Xu, Ning},
  booktitle={ICCV},
  year={2019}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class YtvisMap(evaluate.Metric):
    """Thin: `transformers_msstsvis` has the metric."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            # Masks are polygons, run lengths or strings, absent in some frames: no table of fixed types holds that.
            features=datasets.Features(
                {"predictions": datasets.Value("large_string"), "references": datasets.Value("large_string")}
            ),
            reference_urls=["https://youtube-vos.org/dataset/vis", "https://songbai.site/ovis"],
        )

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add the predictions and references of a group of videos: one video, or a whole dataset."""
        super().add(prediction=_as_text(prediction), reference=_as_text(reference), **kwargs)

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add the predictions and references of several groups of videos, or of a single one."""
        if isinstance(references, (dict, str)):
            predictions, references = [predictions], [references]
        super().add_batch(
            predictions=[_as_text(prediction) for prediction in predictions],
            references=[_as_text(reference) for reference in references],
            **kwargs,
        )

    def _compute(self, predictions: list[str], references: list[str], ovis: bool = False) -> dict[str, Any]:
        metric = YtvisMeanAveragePrecision(ovis=ovis)
        for prediction, reference in zip(predictions, references, strict=True):
            metric.update(_content(prediction), _content(reference))
        return metric.compute()


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _content(text: str) -> Any:
    return json.loads(text) if text.lstrip()[:1] in ("[", "{") else text
