"""Files that are written: checked before the work, written aside, and named when they are finished.

So no output takes the place of an input, and a full disk, a kill or a mistake costs neither the older file nor the
work.
"""

import contextlib
import glob
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path


def check_writable(*paths: str | PathLike | None) -> None:
    """
    Make the folders of files that are to be written, before the work and not after it.

    Raises:
        ValueError: for an empty name.
        OSError: when a file can't be written there; the message names the path.
    """
    for given in paths:
        if given is None:
            continue
        path = _named(given)
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder; expected the name of a file")
        if path.exists() and not path.is_file():
            continue  # a device or a pipe
        _make_folder(path.parent, path)
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise PermissionError(f"{path} can't be written; choose another place")


def check_writable_folder(folder: str | PathLike) -> None:
    """As [`check_writable`], for a folder of files."""
    path = _named(folder)
    _make_folder(path, path)
    if not os.access(path, os.W_OK):
        raise PermissionError(f"{path} can't be written; choose another place")


def check_distinct(outputs: Iterable[str | PathLike | None], inputs: Iterable[str | PathLike]) -> None:
    """
    Refuse outputs that would replace an input or each other, under whatever name: paths, links, hard links, folders.

    Args:
        outputs: files, or folders for files; None is passed over.
        inputs: existing files and folders. A folder as an output may not hold any of them directly.

    Raises:
        ValueError: when one does; the message names both.
    """
    seen: dict[Path | tuple[int, int], Path] = {}
    existing: dict[tuple[int, int], Path] = {}
    for output in (Path(path).expanduser() for path in outputs if path is not None):
        if output.exists() and not output.is_file() and not output.is_dir():
            continue  # a device or a pipe
        identity = _identity(output)
        for name in (output.resolve(), identity):
            if name in seen:
                raise ValueError(f"{output} would be written twice, also as {seen[name]}; choose different outputs")
            if name is not None:
                seen[name] = output
        if identity is not None:
            existing[identity] = output
    if not existing:  # what is not there yet replaces nothing
        return
    folders: dict[Path, tuple[int, int] | None] = {}
    for given in map(Path, inputs):
        output = existing.get(_identity(given))
        if output is not None:
            raise ValueError(f"{output} is the input itself; choose another output")
        folder = given.parent
        if folder not in folders:
            folders[folder] = _identity(folder)
        output = existing.get(folders[folder])
        if output is not None and given.is_file():
            raise ValueError(f"{output} is the folder of the input {given.name}; choose another output")


def files_of(source: str | PathLike | list[str | PathLike]) -> list[Path]:
    """The files and folders that are read for a video, a checkpoint or data, as far as they are on this machine."""
    if isinstance(source, list):
        return [Path(frame).expanduser() for frame in source]
    path = Path(source).expanduser()
    if not str(source):
        return []
    if path.is_dir():
        return [path, *(file for file in path.iterdir() if file.is_file())]
    return [path] if path.exists() else [Path(match) for match in glob.glob(str(path), recursive=True)]


def partial_path(path: str | PathLike) -> Path:
    """
    Where a file, or what belongs into a folder, is written until it is finished: `clip.partial.mp4` for `clip.mp4`,
    `frames/partial` for `frames`, with a number where there is such a file already.
    """
    path = _followed(path)
    names = (f"partial-{number}" if number > 1 else "partial" for number in itertools.count(1))
    if path.is_dir():
        return next(path / name for name in names if not (path / name).exists())
    asides = (path.with_name(f"{path.stem}.{name}{path.suffix}") for name in names)
    return next(aside for aside in asides if not aside.exists())


def remove_partial(path: str | PathLike) -> None:
    """Remove what a process that was killed left of a file or folder, under its first [`partial_path`]."""
    path = _followed(path)
    shutil.rmtree(path / "partial", ignore_errors=True)
    path.with_name(f"{path.stem}.partial{path.suffix}").unlink(missing_ok=True)


@contextlib.contextmanager
def written_aside(path: str | PathLike) -> Iterator[Path]:
    """
    A file to write, which takes the name `path` when the block ends well, and is removed when it does not.

    Raises:
        OSError: what the block raises, with the name of the file.
    """
    path = Path(path).expanduser()
    if path.exists() and not path.is_file():
        yield path  # a device or a pipe
        return
    partial = partial_path(path)
    try:
        with naming(path):
            yield partial
            move_into_place(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def folder_written_aside(path: str | PathLike) -> Iterator[Path]:
    """
    A folder to write files into, which go to the folder `path` when the block ends well, and are removed otherwise.

    Raises:
        OSError: what the block raises, with the name of the folder.
    """
    path = Path(path).expanduser()
    check_writable_folder(path)
    partial = partial_path(path)
    try:
        with naming(path):
            partial.mkdir()
            yield partial
            move_into_place(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def move_into_place(partial: Path, path: Path) -> None:
    """Give a finished file its name, or what is in a finished folder its places in the folder of that name."""
    if partial.is_dir():
        path.mkdir(exist_ok=True)
        for file in sorted(partial.iterdir()):
            move_into_place(file, path / file.name)
        partial.rmdir()
        return
    os.replace(partial, _followed(path))


@contextlib.contextmanager
def naming(path: str | PathLike) -> Iterator[None]:
    """Say the name of the file in errors of the system that lack it, such as those of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or not error.strerror or str(path) in str(error):
            raise
        raise type(error)(error.errno, f"{error.strerror}, so it could not be written", str(path)) from error


def _followed(path: str | PathLike) -> Path:
    """What a link leads to, which may be on another disk; other paths as they are."""
    path = Path(path)
    return path.resolve() if path.is_symlink() else path


def _named(path: str | PathLike) -> Path:
    if not str(path):
        raise ValueError("the name of an output is empty; expected a file or a folder")
    return Path(path).expanduser()


def _make_folder(folder: Path, path: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(
            f"{path} can't be written, {error.filename} is no folder; choose another place"
        ) from error
    except NotADirectoryError as error:
        raise NotADirectoryError(f"{path} can't be written below a file; choose another place") from error
    except OSError as error:
        raise type(error)(f"{path} can't be written ({error.strerror}); choose another place") from error


def _identity(path: Path) -> tuple[int, int] | None:
    """What all names of a file or folder share; None where there is none."""
    try:
        state = path.stat()
    except (OSError, ValueError):
        return None
    return state.st_dev, state.st_ino
