"""What turns the names of one system's published parameters into ours."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

Rule = tuple[str, str | tuple[str, ...]]


@dataclass
class ConversionReport:
    """
    What became of every key: `used` published keys, `dropped` keys with the reason, `missing` keys of ours; `classes`
    are the names of those whose weights were taken over from another set of classes; `shapes`, by name of ours, of
    weights that were left out because the shape of the source, the first, is not ours, the second.
    """

    used: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    classes: list[str] | None = None
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    def __str__(self) -> str:
        reasons: dict[str, int] = {}
        for reason in self.dropped.values():
            reasons[reason] = reasons.get(reason, 0) + 1
        lines = [f"{len(self.used)} keys used, {len(self.dropped)} dropped, {len(self.missing)} missing"]
        lines += [f"dropped {count}: {reason}" for reason, count in reasons.items()]
        lines += [f"missing: {key}" for key in self.missing]
        return "\n".join(lines)

    def summary(self) -> str:
        """One line: how many weights were used, which parts of the model lack some, and which shapes did not fit."""
        parts = dict.fromkeys(name.removeprefix("model.").partition(".")[0] for name in self.missing)
        text = f"{len(self.used)} weights used, {len(self.dropped)} left out; new in {', '.join(parts) or 'nothing'}"
        if self.shapes:
            name, (given, ours) = next(iter(self.shapes.items()))
            text += f"; {len(self.shapes)} of other shapes, such as {name}, which is {given} there and {ours} here"
        return text if self.classes is None else f"{text}; classes known by name: {', '.join(self.classes) or 'none'}"


@dataclass
class KeyMap:
    """
    How one system's checkpoint becomes ours.

    Args:
        build: state dict and hints to an untrained model of the architecture that the checkpoint describes.
        rules: model to list of (pattern, replacement); the first pattern that matches a whole key renames it, to
            several names if the replacement is a tuple.
        drop: list of (pattern, reason) of keys that have no counterpart.
        split: pattern of fused query-key-value tensors and the names of their three parts.
        optional: patterns of names of ours that a checkpoint may lack.
        values: (pattern of names of ours, what makes our values of the published ones).
    """

    build: Callable[..., PreTrainedModel]
    rules: Callable[[PreTrainedModel], list[Rule]]
    drop: list[tuple[str, str]]
    split: list[tuple[str, tuple[str, str, str]]] = field(default_factory=list)
    optional: tuple[str, ...] = ()
    values: list[tuple[str, Callable[[Tensor], Tensor]]] = field(default_factory=list)


def with_class_names(hints: dict, num_labels: int) -> dict:
    """Hints with names of classes by label and labels by name, made up if they have none."""
    names = hints.get("id2label") or {label: f"LABEL_{label}" for label in range(num_labels)}
    id2label = {int(label): name for label, name in names.items()}
    return {**hints, "id2label": id2label, "label2id": {name: label for label, name in id2label.items()}}


def rename(published: dict, key_map: KeyMap, model: PreTrainedModel, system: str) -> tuple[dict, ConversionReport]:
    """
    A published state dict under our names, and what became of every key.

    Raises:
        ValueError: for keys that the map does not know.
    """
    report, converted, unknown = ConversionReport(), {}, []
    rules = key_map.rules(model)
    drops = [(re.compile(pattern), reason) for pattern, reason in key_map.drop]
    splits = [(re.compile(pattern), parts) for pattern, parts in key_map.split]
    for key, value in published.items():
        reason = next((reason for pattern, reason in drops if pattern.fullmatch(key)), None)
        if reason is not None:
            report.dropped[key] = reason
            continue
        names = new_names(key, rules)
        if not names:
            unknown.append(key)
            continue
        report.used.append(key)
        for new in names:
            for pattern, change in key_map.values:
                if re.fullmatch(pattern, new):
                    value = change(value)
            fused = next(((pattern, parts) for pattern, parts in splits if pattern.fullmatch(new)), None)
            if fused is None:
                converted[new] = value
            else:
                pattern, parts = fused
                for part, chunk in zip(parts, value.chunk(3), strict=True):
                    converted[pattern.sub(part, new)] = chunk
    if unknown:
        raise ValueError(
            f"{len(unknown)} keys of the checkpoint are unknown to {system!r}, e.g. {unknown[:5]}; expected a "
            f"published {system} checkpoint"
        )
    return converted, report


def new_names(key: str, rules: list[Rule]) -> list[str]:
    """What the first rule that matches makes of a key; nothing where none does."""
    for pattern, replacement in rules:
        if match := re.fullmatch(pattern, key):
            return [match.expand(new) for new in ((replacement,) if isinstance(replacement, str) else replacement)]
    return []


def check_heads(model: PreTrainedModel, detector: PreTrainedModel) -> None:
    """
    Raises:
        ValueError: when attention of a model and a detector of equal width is split into different numbers of heads.
    """
    for part in ("encoder_attention_heads", "decoder_attention_heads"):
        ours, theirs = getattr(model.config, part), getattr(detector.config, part)
        if model.config.d_model == detector.config.d_model and ours != theirs:
            kind = {"detr": "DETR", "deformable_detr": "Deformable DETR"}[detector.config.model_type]
            raise ValueError(
                f"{part} is {ours} and that of the {kind} {theirs}; expected the same: set it in the config"
            )


def load_what_fits(model: PreTrainedModel, weights: dict, key_map: KeyMap, system: str) -> ConversionReport:
    """
    Load the weights of another architecture, module by module where all shapes agree; the rest stays as it is.

    Args:
        model: changed in place.
        weights: by the names of the other architecture.
        key_map: from these to ours.
        system: what they are from, for messages.

    Raises:
        ValueError: for keys that the map does not know, or when nothing fits.
    """
    renamed, report = rename(weights, key_map, model, system)
    expected = model.state_dict()
    module_of = {name: name.rpartition(".")[0] for name in renamed}
    rules = key_map.rules(model)
    report.shapes = {
        name: (tuple(value.shape), tuple(expected[name].shape))
        for name, value in renamed.items()
        if name in expected and expected[name].shape != value.shape
    }
    unfit = {module_of[name] for name in renamed if name not in expected or name in report.shapes}
    fitting = {name: value for name, value in renamed.items() if module_of[name] not in unfit}
    for published in list(report.used):
        if not any(name in fitting for name in new_names(published, rules)):
            report.used.remove(published)
            report.dropped[published] = "the model has no such module of this shape"
    report.missing = [name for name in expected if name not in fitting and not name.endswith("num_batches_tracked")]
    if not fitting:
        raise ValueError(
            f"nothing of the {system} fits the model: {report.summary()}; expected its backbone and widths"
        )
    model.load_state_dict(fitting, strict=False)
    return report


@torch.no_grad()
def copy_classes(
    heads: Iterable[tuple[nn.Linear, nn.Linear]], ours: PreTrainedConfig, theirs: PreTrainedConfig
) -> list[str]:
    """
    Copy the rows of class heads for the classes of the same name, so that what a detector knows of dogs is kept.

    Args:
        heads: pairs of a class head of the model and one of the detector, whose rows are classes.
        ours, theirs: configurations with the names.

    Returns:
        The names.
    """
    label_of = {name.lower(): label for label, name in theirs.id2label.items()}
    common = {label: label_of[name.lower()] for label, name in ours.id2label.items() if name.lower() in label_of}
    for head, other in heads:
        if common and head.weight.shape[1] == other.weight.shape[1]:
            rows, from_rows = list(common), list(common.values())
            head.weight[rows], head.bias[rows] = other.weight[from_rows], other.bias[from_rows]
    return [ours.id2label[label] for label in common]
