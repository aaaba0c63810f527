"""Checkpoints of a run: which can be resumed from, how they are saved, and who may write them."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from transformers import TrainerState
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ..checkpoint_files import check_weights, check_weights_file

logger = logging.get_logger(__name__)


def damage(checkpoint: Path) -> str | None:
    """What keeps a run from going on from a checkpoint, or None if it was saved to its end and is whole."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
    except (OSError, ValueError):  # it comes last
        return f"{TRAINER_STATE_NAME} is missing or incomplete, so it was not saved to its end"
    try:
        check_weights(checkpoint)
        for pattern in ("*.pt", "*.pth", "*.safetensors"):
            for path in checkpoint.glob(pattern):
                check_weights_file(path)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint was saved to its end, and its files are whole."""
    return damage(checkpoint) is None


def steps_of(checkpoint: str | Path) -> int | None:
    """The steps of training behind a checkpoint, by its name; None for what is none."""
    number = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", Path(checkpoint).name)
    return int(number[1]) if number else None


def damaged_checkpoints(folder: str | Path) -> list[tuple[Path, str]]:
    """The checkpoints in an output folder that no run can go on from, with the reasons."""
    paths = [path for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if steps_of(path) is not None]
    return [(path, what) for path in sorted(paths, key=steps_of) if (what := damage(path))]


def last_checkpoint(folder: str | Path) -> str | None:
    """The complete checkpoint of the most steps in an output folder, or None."""
    paths = Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    complete = [path for path in paths if steps_of(path) is not None and is_complete(path)]
    return str(max(complete, key=steps_of)) if complete else None


def checkpoint_to_resume(folder: str | Path) -> str:
    """
    The complete checkpoint of the most steps in an output folder; those of more steps are named in a warning.

    Raises:
        ValueError: when there is none.
    """
    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        raise ValueError(
            f"{folder} has no complete checkpoint to resume from; expected a folder {PREFIX_CHECKPOINT_DIR}-N: check "
            "output_dir, or train from the start"
        )
    for later, what in damaged_checkpoints(folder):
        if steps_of(later) > steps_of(checkpoint):
            logger.warning(f"{later} is passed over: {what}")
    return checkpoint


def check_undamaged(checkpoint: str | Path) -> None:
    """
    Refuse a checkpoint that is there and damaged.

    Raises:
        ValueError: which says how.
    """
    if Path(checkpoint).is_dir() and (what := damage(Path(checkpoint))):
        raise ValueError(f"{checkpoint} can't be resumed from: {what}")


def warn_of_missing_states(checkpoint: str | Path, rank: int | None = None) -> None:
    """
    Say what a checkpoint lacks to go on from it as if the run had not been stopped.

    Args:
        checkpoint: folder.
        rank: of this process, None if it is alone.
    """
    suffix = "" if rank is None else f"_{rank}"
    names = (OPTIMIZER_NAME, SCHEDULER_NAME, f"rng_state{suffix}.pth")
    missing = [name for name in names if not Path(checkpoint, name).is_file()]
    if Path(checkpoint).is_dir() and missing:
        logger.warning(
            f"{checkpoint} has no {', '.join(missing)}: what belongs there starts anew, so that the run will not end "
            "with the parameters of one that was never stopped"
        )


def state_of(checkpoint: str | Path) -> TrainerState:
    """The state of the Trainer that a checkpoint was saved with."""
    return TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME)))


@contextmanager
def saving(folder: Path, writes: bool) -> Iterator[None]:
    """
    Leave a complete checkpoint in a folder, or none.

    Args:
        folder: of the checkpoint.
        writes: whether this process does.

    Raises:
        OSError: when it can't be written.
    """
    if writes:  # the state of the Trainer is written last, so a folder that has it is complete
        (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
    try:
        yield
    except BaseException as error:
        if writes and not is_complete(folder):
            shutil.rmtree(folder, ignore_errors=True)
        # safetensors and PyTorch have errors of their own for a file that can't be written
        if isinstance(error, OSError | SafetensorError) or "inline_container" in str(error):
            told = " ".join(str(error).split())
            raise OSError(
                f"{folder} can't be saved ({told}); the checkpoints before it are kept: make room, and resume from "
                "the last one"
            ) from error
        raise


@contextmanager
def output_lock(folder: str | Path, needed: bool = True) -> Iterator[None]:
    """
    Keep other runs out of an output folder; the end of the process, whatever it is, lets them in again.

    Args:
        folder: of a run, which may enter again.
        needed: whether this process writes there.

    Raises:
        ValueError: when another run has it.
    """
    if not needed:
        yield
        return
    path = Path(folder, ".training.lock")
    lock = FileLock(path, timeout=0, is_singleton=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise ValueError(
            f"another run is writing into {folder}: choose another output_dir, or wait for its end"
        ) from error
    except OSError as error:  # not every file system has locks
        logger.warning(f"{folder} can't be locked ({error}): keep other runs out of it")
        yield
        return
    try:
        yield
    finally:
        if lock.lock_counter == 1:
            with suppress(OSError):  # some systems keep what is open
                path.unlink()
        lock.release()
