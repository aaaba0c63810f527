"""Many videos, shared among processes, and a file that tells which of them could not be segmented."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Shard(NamedTuple):
    """The `index`-th of `count` equal shares, from 1 on."""

    index: int = 1
    count: int = 1

    @classmethod
    def of(cls, text: str | None, environment: Mapping[str, str] = os.environ) -> "Shard":
        """
        From `"2/8"`; by default what this process is of a SLURM array (`SLURM_ARRAY_TASK_ID`, `_COUNT` and `_MIN`), or
        of those that `torchrun` and `accelerate launch` start (`RANK`, `WORLD_SIZE`).

        Raises:
            ValueError: if it is no share.
        """
        if text is None:
            for name, count, first in (
                ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
                ("RANK", "WORLD_SIZE", None),
            ):
                if name in environment and count in environment:
                    index = int(environment[name]) - int(environment.get(first, 0) if first else 0)
                    text = f"{index + 1}/{environment[count]}"
                    break
            else:
                return cls()
        numbers = re.fullmatch(r"(\d+)/(\d+)", text)
        shard = cls(*map(int, numbers.groups())) if numbers else cls(0, 0)
        if not 1 <= shard.index <= shard.count:
            raise ValueError(f"shard is {text!r}; expected the number of a share and how many there are, 1/8 to 8/8")
        return shard

    def take(self, items: list) -> list:
        """Its share."""
        return items[self.index - 1 :: self.count]


class ErrorFile:
    """
    A line of JSON, `{"video", "error"}`, for each video that failed; the file is made with the first. Processes may
    share it.

    Args:
        path: the file.
        anew: remove one of an earlier run.
    """

    def __init__(self, path: Path, anew: bool):
        self.path = path
        if anew:
            path.unlink(missing_ok=True)

    def add(self, video: str, error: Exception) -> None:
        line = json.dumps({"video": video, "error": f"{type(error).__name__}: {error}"}) + "\n"
        # One write at the end of the file, which no other can part.
        place = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(place, line.encode())
        finally:
            os.close(place)
