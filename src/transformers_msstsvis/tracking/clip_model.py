"""A model on the clips of a video, one after the other."""

from typing import Any

import torch
from transformers.utils import ModelOutput


class ClipModel:
    """
    Runs a model on clips, and takes what it carries from a clip of a video to the next one. Most models carry nothing;
    one that does says in `carried` which of its outputs are which inputs of the next clip. These come in order, one at
    a time.
    """

    def __init__(self):
        self._state: dict[str, Any] = {}

    def __call__(self, model: Any, is_first: bool, **inputs) -> ModelOutput:
        """The outputs of the model for the inputs, `(B, T, ...)`, whose clip `is_first` of its video or not."""
        for value in inputs.values():
            if isinstance(value, torch.Tensor):  # what torch.compile makes is for any number of frames
                torch._dynamo.maybe_mark_dynamic(value, 1)
        carried = carried_by(model)
        if not carried:
            return model(**inputs)
        outputs = model(**inputs, **({} if is_first else self._state))
        self._state = {name: outputs[output] for name, output in carried.items()}
        return outputs


def carried_by(model: Any) -> dict[str, str]:
    """By input what a model takes of the outputs for the clip before."""
    return getattr(model, "carried", {})


def why_not_recorded(model: Any, tracker: str) -> tuple[str, str, str] | None:
    """
    Of what needs more of the clips than what was found in them: whether it is the model or the tracker, its name, and
    what it needs. None if there is no such.
    """
    if tracker == "devis":
        return "tracker", repr(tracker), "the soft masks of all clips, which are too large to keep"
    if carried_by(model):
        return "model", model.config.model_type, "the queries after every clip, which are not kept"
    return None
