"""What can be asked of the segmentation of a video, checked in one place."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from ..results.candidates import BOXES, check_count
from .clips import ClipJoiner

OVERLAPS = ("any", "none")


def check_options(**given: Any) -> None:
    """
    Check options by their names, those that are given.

    Raises:
        ValueError: for one out of range.
    """
    meanings = {
        "threshold": "a score from 0 to 1",
        "mask_threshold": "a probability between 0 and 1",
        "duplicate_iou": "an IoU from 0 to 1",
    }
    for name, meaning in meanings.items():
        value = given.get(name, 0.5)
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not (number and 0 <= value <= 1) or (name == "mask_threshold" and value in (0, 1)):
            raise ValueError(f"{name} is {value!r}; expected {meaning}")
    for name in ("top_k", "max_frames"):
        check_count(name, given.get(name, 1))
    for name, choices in (("on_error", ("raise", "skip")), ("boxes", BOXES), ("overlap", OVERLAPS)):
        if given.get(name, choices[0]) not in choices:
            raise ValueError(f"{name} is {given[name]!r}; expected {' or '.join(map(repr, choices))}")


def labels_of(classes: str | int | Sequence[str | int] | None, id2label: Mapping[int, str]) -> set[int] | None:
    """
    Labels of classes that are given by name or label; None of all.

    Raises:
        ValueError: if there is no such class.
    """
    if classes is None:
        return None
    of_name = {name: label for label, name in id2label.items()}
    chosen = [classes] if isinstance(classes, str | int) else list(classes)
    labels = [of_name.get(name, name) for name in chosen]
    unknown = [str(name) for name, label in zip(chosen, labels, strict=True) if label not in id2label]
    if unknown:
        raise ValueError(
            f"the model has no class {', '.join(unknown)}; expected some of {', '.join(map(str, id2label.values()))}"
        )
    return set(labels)


def clips_of(
    processor: Any,
    config: Any,
    max_frames: int | None = None,
    tracker: str | None = None,
    tracker_options: dict[str, Any] | None = None,
) -> tuple[Any, ClipJoiner]:
    """
    How a video is cut for a model, a [`ClipPlan`], and what joins the results.

    Raises:
        ValueError: for options that the processor or the tracker refuses.
    """
    if tracker_options is None and tracker in (None, processor.tracker):
        tracker_options = processor.tracker_options
    if not isinstance(tracker_options, dict | None):
        raise ValueError(f"tracker_options is {tracker_options!r}; expected a dict of options of the tracker")
    tracker = tracker or processor.tracker
    if (tracker == "query") != (processor.tracker == "query") and tracker != "none":
        raise ValueError(
            f"tracker is {tracker!r}; expected {processor.tracker!r} of a {config.model_type}, or 'none': leave it out"
        )
    if tracker == "devis" and not getattr(processor, "predicts_boxes", True):
        raise ValueError(
            f"tracker is 'devis', which compares predicted boxes, and {config.model_type} has none; expected 'iou'"
        )
    plan = processor.clip_plan(config, max_frames)
    if tracker == "none" and not plan.full:
        plan = plan._replace(stride=plan.num_frames)  # nothing is to be compared
    return plan, ClipJoiner(tracker, *plan, **(tracker_options or {}))
