"""What a training run draws: frames of a video, clips of several data sets, and all of it anew in every epoch.

Letters: T frames of a clip, L frames of a video.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from transformers import TrainerCallback
from transformers.utils import logging

logger = logging.get_logger(__name__)


def window_frames(length: int, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """
    Frames `(T,)`, ascending, drawn from a window of random length and place, so that a model sees near frames and far
    ones. Videos shorter than the clip repeat frames.
    """
    if length < num_frames:
        return np.sort(rng.choice(length, num_frames, replace=True))
    window = rng.integers(num_frames, length + 1)
    start = rng.integers(0, length - window + 1)
    return start + np.sort(rng.choice(window, num_frames, replace=False))


def published_frames(length: int, num_frames: int, key_frame: int, rng: np.random.Generator) -> np.ndarray:
    """
    Frames `(T,)`, ascending, around a key frame as in the training code of SeqFormer and MS-STS VIS: the key frame,
    one of the three frames before it and one of the three after it, then frames from outside of this neighbourhood.

    That code clamps the neighbours to the video and counts the last of them as outside, so that 12 % of its clips of a
    36-frame video show a frame twice; with one frame per clip it mostly leaves out the key frame; and it fails on a
    clip longer than 3 + 2 L. Here the frames are distinct where the video is long enough, every frame of a shorter
    video is shown, and the key frame is always among them.
    """
    neighbours = [
        rng.choice(side)
        for side in (np.arange(max(key_frame - 3, 0), key_frame), np.arange(key_frame + 1, min(key_frame + 4, length)))
        if len(side)
    ]
    rng.shuffle(neighbours)
    frames = np.array([key_frame, *neighbours])[:num_frames]
    every = np.arange(length)
    outside = every[(every < frames.min()) | (every > frames.max())]
    wanted = num_frames - len(frames)
    candidates = outside if len(outside) >= wanted else np.setdiff1d(every, frames)
    more = rng.choice(candidates, min(wanted, len(candidates)), replace=False)
    repeats = rng.choice(length, wanted - len(more), replace=wanted - len(more) > length)
    return np.sort(np.concatenate((frames, more, repeats)))


def strided_frames(length: int, num_frames: int, stride: int, rng: np.random.Generator) -> np.ndarray:
    """
    Frames `(T,)`, `stride` apart, from a random start. The stride shrinks to what the video has room for; videos
    shorter than the clip repeat frames.
    """
    if length < num_frames:
        return window_frames(length, num_frames, rng)
    stride = min(stride, (length - 1) // max(num_frames - 1, 1))
    start = rng.integers(0, length - stride * (num_frames - 1))
    return start + stride * np.arange(num_frames)


def consecutive_frames(length: int, num_frames: int, window: int) -> np.ndarray:
    """Frames of the `window`-th of the windows that cover a video, every frame once; the last may be shorter."""
    return np.arange(window * num_frames, min((window + 1) * num_frames, length))


def wrapped_frames(length: int, num_frames: int, last_frame: int) -> np.ndarray:
    """
    Frames `(T,)` up to a last one, as in the training code of VisTR: before the first frame of the video come those of
    its end, and videos shorter than the clip repeat.
    """
    return (last_frame + 1 - num_frames + np.arange(num_frames)) % length


def sliding_frames(length: int, num_frames: int, first_frame: int) -> np.ndarray:
    """
    Frames `(T,)` from a first one on, as in the training code of DeVIS: videos shorter than the clip run forward and
    backward in turns.
    """
    place = (first_frame + np.arange(num_frames)) % max(2 * length - 2, 1)
    return (
        np.minimum(place, max(2 * length - 2, 1) - place)
        if length < num_frames
        else first_frame + np.arange(num_frames)
    )


class Sampling(NamedTuple):
    """
    A way to draw the frames of clips.

    Attributes:
        indices: lengths `(V,)` of videos and T to the number of clips that each has in an epoch, `(V,)`.
        draw: length L, T, position of a clip among those of its video, stride, and random generator to frames `(T,)`.
    """

    indices: Callable[[np.ndarray, int], np.ndarray]
    draw: Callable[[int, int, int, int, np.random.Generator], np.ndarray]


def _one(lengths: np.ndarray, num_frames: int) -> np.ndarray:
    return np.minimum(lengths, 1)


def _one_per_frame(lengths: np.ndarray, num_frames: int) -> np.ndarray:
    return lengths


def _windows(lengths: np.ndarray, num_frames: int) -> np.ndarray:
    return -(-lengths // num_frames)


def _starts(lengths: np.ndarray, num_frames: int) -> np.ndarray:
    return np.minimum(np.maximum(lengths - num_frames + 1, 1), lengths)


SAMPLINGS = {
    "window": Sampling(_one, lambda L, T, position, stride, rng: window_frames(L, T, rng)),
    "published": Sampling(_one_per_frame, lambda L, T, position, stride, rng: published_frames(L, T, position, rng)),
    "strided": Sampling(_one, lambda L, T, position, stride, rng: strided_frames(L, T, stride, rng)),
    "sliding": Sampling(_starts, lambda L, T, position, stride, rng: sliding_frames(L, T, position)),
    "wrapped": Sampling(_one_per_frame, lambda L, T, position, stride, rng: wrapped_frames(L, T, position)),
    "consecutive": Sampling(_windows, lambda L, T, position, stride, rng: consecutive_frames(L, T, position)),
}


class Clips(torch.utils.data.Dataset):
    """
    A data set whose items are drawn anew in every epoch: `clip(index, epoch)` depends on nothing else, so neither the
    number of workers nor a restart changes it. The epoch lives in shared memory and reaches persistent workers.

    Attributes:
        id2label: class names by class label.
    """

    id2label: dict[int, str]

    def __init__(self):
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw other clips from now on, in all workers. See [`EpochCallback`] for a Trainer."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        raise NotImplementedError

    def clip(self, index: int, epoch: int) -> dict:
        """The clip at `index`, `0 <= index < len(self)`, in the given epoch."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index is {index}; expected less than {len(self)}, the number of clips")
        return self.clip(int(index) % len(self), self.epoch)


class JointClips(Clips):
    """
    Clips of several data sets, mixed evenly.

    One epoch holds as many clips as all data sets together. A data set is gone through in random order, from one epoch
    to the next without a break: one that is drawn less than once per epoch shows all its clips before it repeats any,
    and one that is drawn more often shows other frames each time. Without weights an epoch shows everything once, the
    published way of training on videos and pseudo clips together.

    Args:
        sources: the data sets, such as [`VideoClips`] and [`PseudoClips`].
        weights: share of each data set in an epoch, in any unit; as many clips as it has by default.
        renames: for each data set None or a dict from its class names to those of the first data set, or to None for a
            class to leave out, such as [`COCO_TO_YTVIS_2019`]. Names that are not listed stay; upper case, spaces,
            hyphens and underscores make no difference.
        unmatched: what to do with classes that the first data set does not have: `"raise"`, or `"drop"` their
            instances.
        seed: of the order.

    Raises:
        ValueError: for weights or renames that don't fit the data sets, or for classes without a counterpart.
    """

    def __init__(
        self,
        sources: Sequence[Clips],
        weights: Sequence[float] | None = None,
        renames: Sequence[dict[str, str | None] | None] | None = None,
        unmatched: str = "raise",
        seed: int = 0,
    ):
        super().__init__()
        self.sources, self.seed = list(sources), seed
        lengths = [len(source) for source in self.sources]
        weights = lengths if weights is None else list(weights)
        renames = [None] * len(lengths) if renames is None else list(renames)
        if not lengths or 0 in lengths:
            raise ValueError(f"the data sets have {lengths} clips; expected at least one data set and none empty")
        if len(weights) != len(lengths) or not all(0 < weight < np.inf for weight in weights):
            raise ValueError(
                f"weights is {weights}; expected one positive number for each of {len(lengths)} data sets"
            )
        if len(renames) != len(lengths):
            raise ValueError(f"renames has {len(renames)} entries; expected one, or None, for each of {len(lengths)}")
        if unmatched not in ("raise", "drop"):
            raise ValueError(f'unmatched is {unmatched!r}; expected "raise" or "drop"')
        self.id2label = self.sources[0].id2label
        self._label_maps = [
            _label_map(source.id2label, self.id2label, rename or {}, unmatched)
            for source, rename in zip(self.sources, renames, strict=True)
        ]
        ends = np.round(np.cumsum(weights) / np.sum(weights) * sum(lengths)).astype(np.int64)
        self._counts = np.diff(ends, prepend=0)
        if 0 in self._counts:
            raise ValueError(
                f"weights is {weights}, which leaves {self._counts.tolist()} clips per epoch; expected at least one "
                "of each data set: raise the smallest weight"
            )
        # Evenly spread places in the epoch decide whose turn it is.
        places = np.concatenate([(np.arange(count) + 0.5) / count for count in self._counts])
        turns = np.argsort(places, kind="stable")
        self._source = np.repeat(np.arange(len(lengths)), self._counts)[turns]
        self._rank = np.concatenate([np.arange(count) for count in self._counts])[turns]

    def __len__(self) -> int:
        return len(self._source)

    def clip(self, index: int, epoch: int) -> dict:
        number = int(self._source[index])
        source = self.sources[number]
        # How often the data set has been gone through is its own epoch.
        passes, position = divmod(epoch * int(self._counts[number]) + int(self._rank[index]), len(source))
        clip = source.clip(int(_order(self.seed, number, passes, len(source))[position]), passes)
        labels = clip["labels"]
        classes = self._label_maps[number][labels["class_labels"]]
        kept = classes >= 0
        labels = {name: value[kept] for name, value in labels.items()} | {"class_labels": classes[kept]}
        return {**clip, "labels": labels}


@lru_cache(maxsize=8)
def _order(seed: int, source: int, passes: int, length: int) -> np.ndarray:
    return np.random.default_rng((seed, source, passes)).permutation(length)


def _label_map(
    id2label: dict[int, str], target: dict[int, str], renames: dict[str, str | None], unmatched: str
) -> torch.Tensor:
    """Class labels of the target by class label, -1 for those to leave out."""

    def plain(name: str) -> str:
        return name.casefold().replace(" ", "_").replace("-", "_")

    labels = {plain(name): label for label, name in target.items()}
    renames = {plain(name): other for name, other in renames.items()}
    names = {name: renames.get(plain(name), name) for name in id2label.values()}
    missing = [name for name, other in names.items() if other is not None and plain(other) not in labels]
    if missing and unmatched == "raise":
        raise ValueError(
            f"the first data set has no classes for {missing}; expected some of {list(target.values())}: name their "
            'counterparts in renames, None to leave a class out, or pass unmatched="drop"'
        )
    if missing:
        logger.warning(f"Instances of {missing} are left out: the first data set has no such classes.")
    found = [labels.get(plain(names[id2label[label]] or ""), -1) for label in range(len(id2label))]
    return torch.tensor(found, dtype=torch.int64)


class EpochCallback(TrainerCallback):
    """
    Tells the training data and the sampler of a Trainer which epoch begins.

    [`~transformers.Trainer`] tells the data set itself only in a run by one process, and not in an epoch that is
    resumed in the middle, whose clips would then be those of epoch 0. Add it to every run on [`Clips`].
    """

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        epoch = int(state.epoch)
        if hasattr(train_dataloader.dataset, "set_epoch"):
            train_dataloader.dataset.set_epoch(epoch)
        sampler = train_dataloader.batch_sampler
        while hasattr(sampler, "batch_sampler"):  # one wrapper for several processes, one for skipped batches
            sampler = sampler.batch_sampler
        if hasattr(getattr(sampler, "sampler", None), "set_epoch"):
            sampler.sampler.set_epoch(epoch)
