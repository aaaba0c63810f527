"""Results of a dataset in files that grow video by video, so that a run that was stopped goes on where it was.

Every process writes a file of its own beside the output, `results.json.part-0.jsonl` and so on: a first line with the
settings of the run, then a line per video. At the end one process puts them together in the order of the dataset.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

from transformers.utils import logging

from ..files import written_aside
from ..metrics.reading import read_json
from ..results.rle import excerpt

logger = logging.get_logger(__name__)


class ResultFiles:
    """
    What is known of the results of a dataset, in this process' file and those of all others.

    Args:
        output: the file that the results will be in; the parts are beside it.
        settings: everything that the results depend on, as JSON: two runs may share files only if it is equal.
        rank: of this process.

    Attributes:
        done (`set[int]`): positions in the dataset of the videos that have results.

    Raises:
        ValueError: when there are parts of a run with other settings, or another run is writing them.
        OSError: when files can't be written there.
    """

    def __init__(self, output: str | Path, settings: dict[str, Any], rank: int = 0):
        self.output = Path(output)
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self._settings = json.loads(json.dumps(settings))
        self._part = self.output.with_name(f"{self.output.name}.part-{rank}.jsonl")
        self._file = open(self._part, "ab")
        if not _lock(self._file):
            self._file.close()
            raise ValueError(f"another evaluation is writing {self.output}; wait for its end, or give another output")
        self.done = {entry["position"] for entry in self._entries() if entry["results"] is not None}
        end = self._part.read_bytes().rfind(b"\n") + 1
        self._file.truncate(end)  # a line that a stopped run has not finished
        if not end:
            self._write({"settings": self._settings})

    def add(self, position: int, results: list[dict[str, Any]] | None, skipped: str | None = None) -> None:
        """Keep the results of a video, or say why it has none; such a video is tried again in the next run."""
        self._write({"position": position, "results": results, "skipped": skipped})
        if results is not None:
            self.done.add(position)

    def collect(self, num_videos: int) -> tuple[list[dict[str, Any]], dict[int, str]]:
        """
        The results of all processes in the order of the dataset, and by position why videos have none.

        Raises:
            ValueError: when a video has neither results nor a reason.
        """
        results: dict[int, list[dict[str, Any]]] = {}
        skipped: dict[int, str] = {}
        for entry in self._entries():
            if entry["results"] is None:
                skipped[entry["position"]] = entry["skipped"]
            else:
                results[entry["position"]] = entry["results"]
        missing = [position for position in range(num_videos) if position not in results and position not in skipped]
        if missing:
            raise ValueError(
                f"{len(missing)} of {num_videos} videos have no result, e.g. that at position {missing[0]}; expected "
                f"all in {self.output.parent}: give an output in a folder that all processes share"
            )
        skipped = {position: skipped[position] for position in sorted(skipped.keys() - results.keys())}
        return [result for position in sorted(results) for result in results[position]], skipped

    def close(self, delete: bool = False) -> None:
        """Stop writing; with `delete`, remove the files of all processes."""
        self._file.close()
        if delete:
            for part in self._parts():
                part.unlink(missing_ok=True)

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _parts(self) -> list[Path]:
        start, end = f"{self.output.name}.part-", ".jsonl"
        names = (path.name for path in self.output.parent.iterdir())
        numbers = [name[len(start) : -len(end)] for name in names if name.startswith(start) and name.endswith(end)]
        return [
            self.output.with_name(f"{start}{number}{end}")
            for number in sorted(int(number) for number in numbers if number.isdecimal())
        ]

    def _entries(self) -> Iterator[dict[str, Any]]:
        for part in self._parts():
            with open(part, "rb") as lines:
                for number, line in enumerate(lines):
                    if not line.endswith(b"\n"):  # a run was stopped, or is just writing
                        continue
                    try:
                        entry = json.loads(line)
                    except (ValueError, RecursionError):
                        entry = None
                    try:
                        if number == 0:
                            self._check(part, entry["settings"])
                        elif _is_known(entry["position"], entry["results"], entry["skipped"]):
                            yield entry
                        else:
                            raise KeyError("results")
                    except (KeyError, TypeError) as error:
                        if number == 0:
                            raise ValueError(
                                f"{part} is not a file of unfinished results: delete it, or choose another output"
                            ) from error
                        logger.warning(f"{part} line {number + 1} is damaged and is left out")

    def _check(self, part: Path, settings: dict[str, Any]) -> None:
        if not isinstance(settings, dict):
            raise TypeError("settings")
        changed = [key for key in {**settings, **self._settings} if settings.get(key) != self._settings.get(key)]
        if changed:
            differences = ", ".join(
                f"{key} was {excerpt(settings.get(key))} and is {excerpt(self._settings.get(key))}" for key in changed
            )
            raise ValueError(
                f"{part} holds unfinished results of another run: {differences}; delete it to start anew, repeat the "
                "run as it was to go on, or choose another output"
            )


def _lock(file: BinaryIO) -> bool:
    """Whether an open file is ours alone; the system lets it go when it is closed, or the process ends somehow."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # not every file system has locks
        pass
    return True


def _is_known(position: Any, results: Any, skipped: Any) -> bool:
    return isinstance(position, int) and (isinstance(results, list) or (results is None and skipped is not None))


def run_settings(
    model: str | Path, dataset_path: str | Path, dataset: dict[str, Any], **arguments: Any
) -> dict[str, Any]:
    """What results depend on, for [`ResultFiles`]: the checkpoint's files, the dataset's videos, and `arguments`."""
    folder = Path(model)
    files = sorted(path for path in folder.glob("*") if path.suffix in (".json", ".safetensors"))
    states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    asked = json.dumps([dataset["videos"], dataset["categories"]]).encode()
    return {
        "model": str(folder.resolve()) if folder.exists() else str(model),
        "the checkpoint's state": hashlib.sha256(json.dumps(states).encode()).hexdigest()[:16],
        "dataset": str(Path(dataset_path).resolve()),
        "the dataset's videos": hashlib.sha256(asked).hexdigest()[:16],
        **arguments,
        "version": _version(),
    }


def _version() -> str:
    try:
        return version(__name__.partition(".")[0])
    except PackageNotFoundError:  # a folder on the path, not installed
        return "0"


def read_results(path: str | Path) -> list[Any]:
    """
    The list in a results file; what its entries hold is for the metric to check.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it is not JSON, or holds no list.
    """
    results = read_json(path)
    if not isinstance(results, list):
        raise ValueError(
            f"{path} holds a {type(results).__name__}; expected a list of predictions with video_id, category_id, "
            "score and segmentations"
        )
    return results


def write_results(path: str | Path, results: list[dict[str, Any]]) -> None:
    """Results as JSON, a line each; the file is complete or as before."""
    with written_aside(path) as unfinished:
        unfinished.write_text("[" + ",\n".join(json.dumps(result) for result in results) + "]\n")
