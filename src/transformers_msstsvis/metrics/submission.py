"""Submissions to the YouTube-VIS and OVIS servers: a zip with `results.json` at its root, written and validated.

`results.json` is a list of `{"video_id", "category_id", "score", "segmentations"}`, with one compressed RLE or null
for every frame of the video. Nothing is ever unpacked to disk, and both directions go through the list one prediction
at a time, so that neither a large submission nor a malicious one needs more memory than its largest prediction.

Predictions of low score keep their masks. The released code of SeqFormer and MS-STS VIS writes null in all frames
below a score of 0.001; servers take both, and null can only turn a possible match into a false positive.
"""

import codecs
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from ..data.fields import listed, score_problem
from ..files import written_aside
from ..results.rle import count_pixels, counts_message, excerpt
from .reading import read_json

RESULTS_NAME = "results.json"
KEYS = ("video_id", "category_id", "score", "segmentations")
MAX_BYTES = 2**30  # of results.json, unpacked
MAX_PREDICTION_BYTES = 2**25  # of one entry of the list; 2000 frames of detailed masks take a tenth of it
MAX_PROBLEMS = 20
_CHUNK_BYTES = 2**16
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
_AFTER_ENTRY = tuple(" \t\r\n,]")


class SubmissionTarget(NamedTuple):
    """What a dataset asks of submissions: `(height, width, frames)` by video id, and the category ids."""

    videos: dict[Any, tuple[int, int, int]]
    category_ids: set

    @classmethod
    def of(cls, dataset: dict[str, Any] | str | PathLike) -> "SubmissionTarget":
        """
        Of a YouTube-VIS file, with or without annotations.

        Raises:
            ValueError: if it has no videos or categories.
        """
        content = read_json(dataset) if isinstance(dataset, (str, PathLike)) else dataset
        try:
            videos = {video["id"]: (video["height"], video["width"], video["length"]) for video in content["videos"]}
            return cls(videos, {category["id"] for category in content["categories"]})
        except (KeyError, TypeError) as error:
            raise ValueError(
                "the dataset has no videos with id, height, width and length, or no categories with id; expected a "
                "YouTube-VIS file"
            ) from error


def write_submission(
    path: str | PathLike,
    results: Iterable[dict[str, Any]],
    dataset: dict[str, Any] | str | PathLike | None = None,
    max_bytes: int = MAX_BYTES,
) -> Path:
    """
    Write results as a zip that servers accept; the same results give the same bytes.

    Args:
        path: of the zip; replaced if it exists, and only once the new one is complete.
        results: predictions in YouTube-VIS results format; other keys than the four of the format are left out.
        dataset: check ids, numbers of frames and mask sizes against it, too.
        max_bytes: largest size of `results.json`.

    Returns:
        The path.

    Raises:
        ValueError: for the first prediction that [`validate_submission`] would complain of; the path is as before.
    """
    path = Path(path)
    checker = _Checker(None if dataset is None else SubmissionTarget.of(dataset))
    path.parent.mkdir(parents=True, exist_ok=True)
    # A fixed date, as zips contain the date of their files.
    entry = zipfile.ZipInfo(RESULTS_NAME, date_time=(1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    with written_aside(path) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
        with archive.open(entry, "w", force_zip64=True) as file:
            size = 0
            for position, result in enumerate(results):
                problems = checker.problems(position, result)
                if problems:
                    raise ValueError(problems[0])
                text = json.dumps({key: result[key] for key in KEYS})
                size += file.write((("[" if position == 0 else ",\n") + text).encode())
                if size > max_bytes:
                    raise ValueError(f"{RESULTS_NAME} has more than {max_bytes} bytes: leave out the lowest scores")
            if not checker.count:
                raise ValueError(_EMPTY)
            file.write(b"]\n")
    return path


def validate_submission(
    path: str | PathLike,
    dataset: dict[str, Any] | str | PathLike | None = None,
    max_bytes: int = MAX_BYTES,
) -> list[str]:
    """
    Everything that a server would reject, or silently count as wrong.

    Args:
        path: of the zip. It may come from anywhere: nothing is unpacked to disk, and reading stops at `max_bytes`.
        dataset: check ids, numbers of frames and mask sizes against this YouTube-VIS file; it needs no annotations.
        max_bytes: largest size of `results.json`, both as the zip declares it and as it really is.

    Returns:
        The problems, each a sentence with its place and the way out; empty for a good submission. After 20, the rest
        is not looked at.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if `dataset` is not a YouTube-VIS file.
    """
    target = None if dataset is None else SubmissionTarget.of(dataset)
    if not Path(path).is_file():
        raise FileNotFoundError(f"no submission at {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            problems = _archive_problems(archive)
            if not problems:
                declared = archive.getinfo(RESULTS_NAME).file_size
                if declared > max_bytes:
                    return [
                        f"{RESULTS_NAME} has {declared} bytes unpacked; expected {max_bytes} at most: leave out the "
                        "lowest scores"
                    ]
                with archive.open(RESULTS_NAME) as file:
                    problems = _list_problems(file, _Checker(target), max_bytes)
    except zipfile.BadZipFile as error:
        return [f"{path} is not an intact zip file ({error}): zip {RESULTS_NAME}, or write it with write_submission"]
    except (NotImplementedError, RuntimeError, OSError, EOFError, zlib.error) as error:
        return [f"{RESULTS_NAME} cannot be unpacked: {error}; zip it again without a password, by deflate"]
    return problems


_EMPTY = f"{RESULTS_NAME} is an empty list, at which the official evaluator fails; expected at least one prediction"


def _archive_problems(archive: zipfile.ZipFile) -> list[str]:
    names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    if names == [RESULTS_NAME]:
        method = archive.getinfo(RESULTS_NAME).compress_type
        if method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            return []
        return [f"{RESULTS_NAME} is compressed by method {method}; expected deflate (8) or none (0): zip it again"]
    if names.count(RESULTS_NAME) > 1:
        return [f"the zip holds {RESULTS_NAME} {names.count(RESULTS_NAME)} times; expected it once"]
    nested = [name for name in names if name.replace("\\", "/").split("/")[-1] == RESULTS_NAME != name]
    if RESULTS_NAME in names:
        others = [name for name in names if name != RESULTS_NAME]
        return [f"the zip also holds {listed(others)}; expected {RESULTS_NAME} alone"]
    if nested:
        return [f"{nested[0]!r} is in a folder; expected {RESULTS_NAME} at the root: zip the file, not its folder"]
    return [f"the zip holds {listed(names) or 'nothing'}; expected {RESULTS_NAME}: rename the file and zip it again"]


def _list_problems(file: io.BufferedIOBase, checker: "_Checker", max_bytes: int) -> list[str]:
    problems: list[str] = []
    try:
        for position, prediction in enumerate(iterate_list(_chunks(file, max_bytes))):
            problems += checker.problems(position, prediction)
            if len(problems) > MAX_PROBLEMS:
                return [*problems[:MAX_PROBLEMS], "there may be more: what follows was not looked at"]
    except (ValueError, RecursionError) as error:
        return [*problems, f"{RESULTS_NAME}: {error}"]
    return problems if checker.count else [_EMPTY]


def _chunks(file: io.BufferedIOBase, max_bytes: int) -> Iterator[bytes]:
    size = 0
    while chunk := file.read(_CHUNK_BYTES):
        size += len(chunk)
        if size > max_bytes:
            raise ValueError(f"it has more than {max_bytes} bytes unpacked; leave out the lowest scores")
        yield chunk


def iterate_list(chunks: Iterable[bytes], max_entry: int = MAX_PREDICTION_BYTES) -> Iterator[Any]:
    """
    The entries of a JSON list that arrives in pieces, one at a time.

    Args:
        chunks: UTF-8 text in pieces of any size.
        max_entry: longest entry in characters.

    Raises:
        ValueError: if the text is not a JSON list, or an entry is longer than `max_entry`.
    """
    text = _Text(chunks)
    if text.next_character() != "[":
        raise ValueError(f"it starts with {text.excerpt()}; expected a list of predictions")
    text.position += 1
    separator = text.next_character()
    while separator != "]":
        yield text.read_entry(max_entry)
        separator = text.next_character()
        if separator not in (",", "]"):
            raise ValueError(f"after an entry comes {text.excerpt()}; expected , or ]")
        text.position += separator == ","
    text.position += 1
    if not text.is_over():
        raise ValueError("there is text after the end of the list")


class _Text:
    """JSON text that arrives in pieces; what was read is forgotten."""

    def __init__(self, chunks: Iterable[bytes]):
        self.pieces = codecs.iterdecode(chunks, "utf-8")
        self.text = ""
        self.position = 0

    def excerpt(self) -> str:
        return repr(self.text[self.position : self.position + 20])

    def is_over(self) -> bool:
        """Whether there is nothing left but white space."""
        while True:
            self.position = _SPACE.match(self.text, self.position).end()
            if self.position < len(self.text):
                return False
            if not self._read_more(1):
                return True

    def next_character(self) -> str:
        """The next one that is not white space; it is not taken."""
        if self.is_over():
            raise ValueError("the text ends before the list does: the file is cut off")
        return self.text[self.position]

    def read_entry(self, max_entry: int) -> Any:
        self.next_character()
        while True:
            problem = "an entry is cut off"
            try:
                entry, end = _DECODER.raw_decode(self.text, self.position)
            except json.JSONDecodeError as error:
                problem = str(error)
            else:
                # A number may go on, in the next piece or as in 1.5 after what could be an integer.
                if self.text[end : end + 1] in _AFTER_ENTRY:
                    self.position = end
                    return entry
            length = len(self.text) - self.position
            if length > max_entry:
                raise ValueError(f"a prediction has more than {max_entry} characters")
            # Twice as much each time, so that long entries are not read over and over.
            if not self._read_more(2 * length):
                raise ValueError(f"it is not JSON at {self.excerpt()}: {problem}")

    def _read_more(self, needed: int) -> bool:
        """Append pieces until there are `needed` characters; False if there is nothing to append."""
        parts = [self.text[self.position :]]
        length = before = len(parts[0])
        while length < needed and (piece := next(self.pieces, None)) is not None:
            parts.append(piece)
            length += len(piece)
        self.text, self.position = "".join(parts), 0
        return length > before


class _Checker:
    """Checks predictions one by one; remembers how many, and the size and length of the videos seen so far."""

    def __init__(self, target: SubmissionTarget | None):
        self.target = target
        self.count = 0
        self.videos: dict[Any, tuple[int, int, int]] = dict(target.videos) if target else {}

    def problems(self, position: int, prediction: Any) -> list[str]:
        self.count += 1
        name = f"prediction {position}"
        if not isinstance(prediction, dict):
            return [f"{name} is a {type(prediction).__name__}; expected an object with {', '.join(KEYS)}"]
        missing = [key for key in KEYS if key not in prediction]
        if missing:
            return [f"{name} has no {', '.join(missing)}; expected {', '.join(KEYS)}"]
        name = f"{name} (video {excerpt(prediction['video_id'])})"
        problems = self._id_problems(name, prediction)
        problem = score_problem(prediction["score"])
        if problem is not None:
            problems.append(f"{name}: {problem}")
        return problems or self._mask_problems(name, prediction)

    def _id_problems(self, name: str, prediction: dict[str, Any]) -> list[str]:
        problems = []
        for key in ("video_id", "category_id"):
            value = prediction[key]
            if isinstance(value, bool) or not isinstance(value, (int, str)):
                problems.append(f"{name}: {key} is {excerpt(value)}; expected an id of the dataset")
            elif self.target is not None:
                known = self.target.videos if key == "video_id" else self.target.category_ids
                if value not in known:
                    problems.append(
                        f"{name}: {key} {excerpt(value)} is not in the dataset; expected one of {listed(list(known))}"
                    )
        return problems

    def _mask_problems(self, name: str, prediction: dict[str, Any]) -> list[str]:
        segmentations = prediction["segmentations"]
        video_id = prediction["video_id"]
        if not isinstance(segmentations, list):
            return [f"{name}: segmentations is {excerpt(segmentations)}; expected a list of RLE and null"]
        known = self.videos.get(video_id)
        if known is not None and len(segmentations) != known[2]:
            return [
                f"{name}: segmentations has {len(segmentations)} entries; expected {known[2]}, one for every frame of "
                "the video, with null where the object is absent"
            ]
        shown = [(frame, mask) for frame, mask in enumerate(segmentations) if mask is not None and mask != []]
        size = known[:2] if known is not None else None
        for frame, mask in shown:
            problem = _mask_problem(mask, size)
            if problem:
                return [f"{name}, frame {frame}: {problem}"]
            size = size or tuple(mask["size"])
        if not shown:
            return []
        _, totals = count_pixels([mask["counts"] for _, mask in shown])
        for (frame, _), total in zip(shown, totals.tolist(), strict=True):
            if total != size[0] * size[1]:
                return [f"{name}, frame {frame}: {counts_message(total, *size)}"]
        self.videos.setdefault(video_id, (*size, len(segmentations)))
        return []


def _mask_problem(mask: Any, size: tuple[int, int] | None) -> str | None:
    way_out = "encode it with pycocotools.mask.encode and decode counts to str"
    if not isinstance(mask, dict) or "size" not in mask or "counts" not in mask:
        return f"the mask is {excerpt(mask)}; expected null or an RLE with size and counts: {way_out}"
    if isinstance(mask["counts"], list):
        return f"the counts of the mask are a list (uncompressed RLE); expected a compressed string: {way_out}"
    if not isinstance(mask["counts"], str) or not mask["counts"].isascii():
        return f"the counts of the mask are {excerpt(mask['counts'])}; expected a compressed string: {way_out}"
    given = mask["size"]
    valid = isinstance(given, list) and len(given) == 2 and all(type(side) is int and side > 0 for side in given)
    if not valid or (size is not None and tuple(given) != size):
        expected = "[height, width]" + ("" if size is None else f" = {list(size)} as in the rest of the video")
        return f"the mask has size {excerpt(given)}; expected {expected}: resize it before encoding"
    return None
