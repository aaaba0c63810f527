"""A PNG for each frame whose values are the tracks: DAVIS and MOTS; and the text files of MOTS."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...files import written_aside
from ..json_text import to_json
from ..overlap import without_overlap
from ..palette import track_palette
from ..rle import decode_mask
from ..values import named_categories
from .sink import FolderSink, LinesSink

if TYPE_CHECKING:
    from PIL import Image

    from ..video_instances import VideoInstances

MOST_IN_PALETTE = 254  # 255 is void in DAVIS
_MOTS_STEP = 1000  # values of a category begin at 1000 times its id
_MOTS_MOST = 2**16 - 1


class _Numbers:
    """
    A number from 1 to `most` for each track: its id if that is one of them and not taken, else the next free one.

    Args:
        most: the largest number.
        place: what they are in, for messages.
        given: numbers by track id.
    """

    def __init__(self, most: int, place: str, given: Mapping[int, int] | None = None):
        self.of: dict[int, int] = dict(given or {})
        self._most, self._place = most, place
        self._taken = set(self.of.values())
        self._next = 1
        if len(self.of) > most:
            raise self._too_many(len(self.of))

    def __getitem__(self, track_id: int) -> int:
        if track_id not in self.of:
            number = track_id
            if not 1 <= track_id <= self._most or track_id in self._taken:
                while self._next in self._taken:
                    self._next += 1
                number = self._next
            if number > self._most:
                raise self._too_many(len(self.of) + 1)
            self.of[track_id] = number
            self._taken.add(number)
        return self.of[track_id]

    def _too_many(self, count: int) -> ValueError:
        return ValueError(
            f"{count} tracks do not fit into {self._place}, which has {self._most} values for them: keep the best "
            "ones with filter(threshold), or use to_coco_video or save_json"
        )


class _MotsValues:
    """1000 times the category plus a number of the track, with the category as it was known first."""

    def __init__(self):
        self.of: dict[int, int] = {}
        self._numbers: dict[int, _Numbers] = {}

    def value(self, track_id: int, category: int) -> int:
        if track_id not in self.of:
            if not 1 <= category <= _MOTS_MOST // _MOTS_STEP - 1:
                raise ValueError(
                    f"the category id is {category}; expected 1 to {_MOTS_MOST // _MOTS_STEP - 1}, which MOTS has "
                    "values for: give others with category_ids"
                )
            numbers = self._numbers.setdefault(category, _Numbers(_MOTS_STEP - 1, f"MOTS category {category}"))
            self.of[track_id] = category * _MOTS_STEP + numbers[track_id]
        return self.of[track_id]


class _LabelImageSink(FolderSink):
    @property
    def values(self) -> dict[int, int]:
        """The track id of each pixel value so far."""
        return {value: track for track, value in self._value_of.of.items()}

    def _write(self, instances: "VideoInstances") -> None:
        instances = without_overlap(instances)
        for frame in range(instances.num_frames):
            values = np.zeros(instances.size, dtype=np.uint16)
            for index in instances.present(frame).tolist():
                values[decode_mask(instances.masks[index][frame])] = self._value(instances, index)
            with written_aside(self._partial / self._png_name(frame)) as unfinished:
                self._image(values).save(unfinished)

    @abstractmethod
    def _value(self, instances: "VideoInstances", index: int) -> int:
        """The value of an instance."""

    @abstractmethod
    def _image(self, values: np.ndarray) -> "Image.Image":
        """The image to be saved, of values `(H, W)`."""


class DavisSink(_LabelImageSink):
    """
    Palette PNGs `00000.png`, ..., as of DAVIS and YouTube-VOS, by the number of the frame: 0 is background, other
    values are track ids where these fit into 1 to 254, and free numbers otherwise; 255 would be void. Where masks
    overlap, the higher score is in front.

    Args:
        values: the value of each track id, if they are to be chosen.

    Attributes:
        values: the track id of each pixel value so far.
    """

    def __init__(self, *args: Any, values: Mapping[int, int] | None = None, **options: Any):
        super().__init__(*args, **options)
        self._value_of = _Numbers(MOST_IN_PALETTE, "a palette PNG", values)

    def _value(self, instances: "VideoInstances", index: int) -> int:
        return self._value_of[int(instances.track_ids[index])]

    def _image(self, values: np.ndarray) -> "Image.Image":
        from PIL import Image

        image = Image.fromarray(values.astype(np.uint8))
        image.putpalette(track_palette().tobytes())
        return image


class MotsSink(_LabelImageSink):
    """
    16-bit PNGs `000000.png`, ..., as of MOTS: 0 is background, other values are 1000 times the category plus the
    track id where that fits into 1 to 999, and a free number otherwise. A track keeps the category that was known
    first. Where masks overlap, the higher score is in front. A file `categories.json` lists the categories.

    Attributes:
        values: the track id of each pixel value so far.
    """

    _digits = 6

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._value_of = _MotsValues()
        self._labels: set[int] = set()

    def _end(self, finished: bool) -> None:
        categories = named_categories(self._video, self.category_ids, self._labels)
        (self._partial / "categories.json").write_text(to_json(categories), encoding="utf-8")
        super()._end(finished)

    def _value(self, instances: "VideoInstances", index: int) -> int:
        self._labels.add(int(instances.labels[index]))
        return self._value_of.value(int(instances.track_ids[index]), self.category_id(instances.labels[index]))

    def _image(self, values: np.ndarray) -> "Image.Image":
        from PIL import Image

        return Image.fromarray(values)


class MotsTextSink(LinesSink):
    """
    The text files of MOTS: a line `frame id category height width counts` for each mask, with the number of the frame
    in the video from 0, and the id as in `MotsSink`. Where masks overlap, the higher score is in front.
    """

    def _begin(self, instances: "VideoInstances") -> None:
        self._value_of = _MotsValues()
        super()._begin(instances)

    def _lines(self, instances: "VideoInstances") -> Iterable[str]:
        height, width = instances.size
        instances = without_overlap(instances)
        for frame in range(instances.num_frames):
            for index in instances.present(frame).tolist():
                category = self.category_id(instances.labels[index])
                value = self._value_of.value(int(instances.track_ids[index]), category)
                counts = instances.masks[index][frame]["counts"]
                yield (f"{instances.first_frame + frame} {value} {value // _MOTS_STEP} {height} {width} {counts}\n")
