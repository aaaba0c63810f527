"""Official numbers of models on annotated videos, offline, and the results that they are computed from."""

from .evaluate import check_submission, evaluate_model, measure
from .ground_truth import category_ids, find_frames, read_ground_truth
from .predictions import SkippedVideo, predict_dataset
from .result_files import read_results, write_results
from .samples import prediction_sheet
from .tables import format_table, rich_tables
from .tracking_numbers import tracking_numbers

__all__ = [
    "SkippedVideo",
    "category_ids",
    "check_submission",
    "evaluate_model",
    "find_frames",
    "format_table",
    "measure",
    "predict_dataset",
    "prediction_sheet",
    "read_ground_truth",
    "read_results",
    "rich_tables",
    "tracking_numbers",
    "write_results",
]
