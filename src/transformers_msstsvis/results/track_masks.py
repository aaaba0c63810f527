"""One track in a video, of which only the stretch in which it lives is held."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from operator import index as whole
from typing import NamedTuple, overload

from pycocotools import mask as coco_mask

from .rle import RLE, excerpt


class Sighting(NamedTuple):
    """An instance in one frame in which it is visible; `box` x1 y1 x2 y2, `frame_score` None where it is unknown."""

    frame: int
    mask: RLE
    box: list[float]
    frame_score: float | None

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(coco_mask.area(self.mask))

    @property
    def coco_box(self) -> list[float]:
        """The box as x, y, width, height."""
        x1, y1, x2, y2 = self.box
        return [x1, y1, x2 - x1, y2 - y1]


class TrackMasks(Sequence):
    """
    `T` masks, RLE or None where the track is absent, as a list of them: indexed, iterated, cut and compared as one.

    It can't be changed. Frames before the first mask and behind the last one take no memory.

    Args:
        masks: of the frames from `start` on.
        start: frames before them, in which the track is absent.
        num_frames: `T`; up to the last of `masks` by default.

    Attributes:
        start, stop (`int`): the first frame with a mask, and the one behind the last; both 0 without any mask.

    Raises:
        ValueError: if there are more masks than frames from `start` on.
    """

    __slots__ = ("_masks", "_num_frames", "start")

    def __init__(self, masks: Iterable[RLE | None], start: int = 0, num_frames: int | None = None):
        masks, start = list(masks), whole(start)
        self._num_frames = start + len(masks) if num_frames is None else whole(num_frames)
        if not 0 <= start <= start + len(masks) <= self._num_frames:
            raise ValueError(
                f"{len(masks)} masks were given for the frames from {start} on of {self._num_frames}; expected no "
                "frame outside of these"
            )
        first = next((index for index, mask in enumerate(masks) if mask is not None), len(masks))
        behind = next((index for index in range(len(masks), first, -1) if masks[index - 1] is not None), first)
        self._masks = masks[first:behind]
        self.start = start + first if self._masks else 0

    @property
    def stop(self) -> int:
        return self.start + len(self._masks)

    def stretch(self) -> list[RLE | None]:
        """Those from `start` to `stop`."""
        return self._masks.copy()

    def visible(self) -> Iterator[tuple[int, RLE]]:
        """Frame and mask where there is one."""
        return ((frame, mask) for frame, mask in enumerate(self._masks, start=self.start) if mask is not None)

    def __len__(self) -> int:
        return self._num_frames

    def __iter__(self) -> Iterator[RLE | None]:
        return chain(repeat(None, self.start), self._masks, repeat(None, self._num_frames - self.stop))

    @overload
    def __getitem__(self, index: int) -> RLE | None: ...

    @overload
    def __getitem__(self, index: slice) -> "TrackMasks": ...

    def __getitem__(self, index):
        if not isinstance(index, slice):
            frame = range(self._num_frames)[index]
            return self._masks[frame - self.start] if self.start <= frame < self.stop else None
        start, stop, step = index.indices(self._num_frames)
        if step != 1:
            return TrackMasks([self[frame] for frame in range(start, stop, step)])
        first, last = max(start, self.start), min(stop, self.stop)
        if first >= last:
            return TrackMasks([], num_frames=max(stop - start, 0))
        return TrackMasks(self._masks[first - self.start : last - self.start], first - start, stop - start)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TrackMasks):
            return (len(self), self.start, self._masks) == (len(other), other.start, other._masks)
        if isinstance(other, list):
            return len(self) == len(other) and all(mask == theirs for mask, theirs in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None

    def __repr__(self) -> str:
        return f"TrackMasks({excerpt(self._masks)}, start={self.start}, num_frames={self._num_frames})"
