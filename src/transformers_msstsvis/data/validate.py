"""Check an annotation file, and repair what can be: `python -m transformers_msstsvis.data.validate FILE`."""

import contextlib
import json
import sys
from pathlib import Path

from transformers.utils.logging import tqdm

from ..files import check_writable, written_aside
from ..video.images import IMAGE_SUFFIXES
from .formats import locate, open_source
from .loading import ytvis_entries
from .validation import CheckedRows


def validate(
    annotations: str | Path,
    frames_dir: str | Path | None = None,
    split: str | None = None,
    fix: str | Path | None = None,
    decode: bool = False,
    allow_outside: bool = False,
    tracks: bool | None = None,
) -> int:
    """
    Print every problem with its place, then a line with their number.

    Args:
        annotations, frames_dir, split, allow_outside, tracks: as of
            [`~transformers_msstsvis.data.loading.load_vis_dataset`].
        fix: file for a repaired copy, in YouTube-VIS format whatever the input. Keys that
            [`~transformers_msstsvis.data.loading.load_vis_dataset`] does not read are not copied.
        decode: read the frames completely, not only their headers.

    Returns:
        The number of errors; remarks do not count.

    Raises:
        FileNotFoundError, ValueError: when the annotations can't be read at all.
        ValueError: when `fix` is the annotation file itself, or has the name of an image.
        OSError: when `fix` can't be written; before anything is checked, where that can be known.
    """
    source = open_source(locate(annotations, frames_dir, split), allow_outside, tracks)
    if fix is not None:
        _check_output(Path(fix), source.path)
    checked = CheckedRows(source, check_frames=True, decode=decode, repair=fix is not None)
    with contextlib.nullcontext() if fix is None else written_aside(fix) as unfinished:
        copy = None if unfinished is None else _YtvisWriter(unfinished)
        try:
            errors = _report(checked, copy)
        finally:
            if copy is not None:
                copy.file.close()
    if fix is not None:
        left_out = ", ".join(f"{count} {kind}" for kind, count in sorted(checked.left_out.items()) if count)
        print(f"wrote {fix}; left out: {left_out or 'nothing'}; file names are relative to {source.frames_dir}")
    return errors


def _check_output(fix: Path, annotations: Path) -> None:
    if fix.resolve() == annotations.resolve() or (fix.exists() and fix.samefile(annotations)):
        raise ValueError(f"{fix} is the annotation file itself; give another name for the repaired copy")
    if fix.suffix.lower() in IMAGE_SUFFIXES:
        raise ValueError(f"{fix} has the name of an image; expected that of a JSON file for the repaired copy")
    check_writable(fix)


def _report(checked: CheckedRows, copy: "_YtvisWriter | None") -> int:
    """Print the problems, write what is good of the rows, and count the errors."""
    source, errors, videos, annotated = checked.source, 0, 0, 0
    for row, problems in tqdm(checked, total=len(source) + 3, desc="Checking", leave=False):
        for problem in problems:
            print(problem if problem.is_error else f"{problem} (a remark, no error)")
            errors += problem.is_error
        if row is not None:
            videos += 1
            annotated += len(row["annotations"])
            if copy is not None:
                copy.write(row)
    print(f"{source.path}: {source.format}, {videos} videos and {annotated} annotations are good, {errors} errors")
    if copy is not None:
        copy.close(checked.categories)
    return errors


class _YtvisWriter:
    """A YouTube-VIS file that grows by one video at a time, so that its size does not matter."""

    def __init__(self, path: Path):
        self.file = open(path, "w", encoding="utf-8")
        self.videos: list[dict] = []
        self.separator = '{"annotations": [\n'

    def write(self, row: dict) -> None:
        video, annotations = ytvis_entries(row)
        self.videos.append(video)
        for annotation in annotations:
            self.file.write(self.separator + json.dumps(annotation))
            self.separator = ",\n"

    def close(self, categories: list[dict]) -> None:
        if self.separator.startswith("{"):
            self.file.write(self.separator)
        self.file.write(f'],\n"videos": {json.dumps(self.videos)},\n"categories": {json.dumps(categories)}}}\n')


if __name__ == "__main__":
    from ..commands.validate import main_of_module

    sys.exit(main_of_module())
