"""Files of weights: what is no checkpoint is said in words, before or instead of the errors of those who read it."""

import json
import logging
import os
import pickle
import socket
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INDEX_SUFFIX = ".index.json"
# As transformers looks for them, the first that is there.
NAMES = tuple(
    f"{name}{suffix}" for name in ("model.safetensors", "pytorch_model.bin") for suffix in ("", INDEX_SUFFIX)
)
AGAIN = "fetch it again"
HUB_SECONDS = 3  # to reach the Hub
LOADING_LOG = "transformers.modeling_utils"  # the logger of the report about what was loaded


def check_weights_file(path: str | PathLike) -> None:
    """
    Check that a file may hold weights: its kind, and that it was fetched to its end. No tensor is read.

    Raises:
        ValueError: for an empty file, a web page, a Git LFS pointer, and a file that is cut short or of another kind;
            one line.
    """
    path = Path(path)
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(512)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not size:
        raise ValueError(f"{path} is empty, no checkpoint: {AGAIN}")
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{path} is the pointer of a file in Git LFS, no checkpoint: fetch the file itself, with git lfs pull"
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        raise ValueError(f"{path} is a web page, no checkpoint: {AGAIN}, from the address of the file itself")
    if path.suffix == ".safetensors":
        with told_in_words(path), safe_open(path, "pt"):
            pass
    elif start.startswith(b"PK"):
        if not zipfile.is_zipfile(path):
            raise ValueError(f"{path} ends too early ({size} bytes), an incomplete checkpoint: {AGAIN}")
    elif not start.startswith(b"\x80"):  # a pickle, as PyTorch wrote them before
        raise ValueError(f"{path} can't be read as plain weights, it is no checkpoint: {AGAIN}")


def check_weights(folder: str | PathLike) -> None:
    """
    [`check_weights_file`] for those files of a checkpoint's folder that transformers would read, if there are any.

    Raises:
        ValueError: as there, and for files that an index names and the folder lacks.
    """
    folder = Path(folder)
    name = next((name for name in NAMES if (folder / name).is_file()), None)
    if name is None:
        return
    path = folder / name
    if not name.endswith(INDEX_SUFFIX):
        return check_weights_file(path)
    try:
        parts = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no index of weights, an incomplete checkpoint: {AGAIN}") from error
    for part in parts:
        if not (folder / part).is_file():
            raise ValueError(f"{folder} lacks {part}, which {name} names, an incomplete checkpoint: {AGAIN}")
        check_weights_file(folder / part)


def check_loaded(model: "PreTrainedModel", info: dict[str, Any], source: str, fits: bool) -> None:
    """
    Check that the weights of a checkpoint are those of the model.

    Args:
        model: as it was loaded from `source`.
        info: the loading info of `from_pretrained`.
        source: what to call the checkpoint.
        fits: whether all shapes have to be those of the model.

    Raises:
        ValueError: none of the weights is, or a shape is not.
    """
    mismatched = sorted(info["mismatched_keys"])
    not_loaded = {*info["missing_keys"], *(name for name, *_ in mismatched)}
    if not_loaded.issuperset(name for name, _ in model.named_parameters()):
        raise ValueError(f"{source} holds no weight of {type(model).__name__}; expected a checkpoint of it")
    if fits and mismatched:
        name, given, expected = mismatched[0]
        raise ValueError(
            f"{source} does not fit its configuration: the shapes of {len(mismatched)} of its weights differ, e.g. "
            f"{name} is {tuple(given)} and should be {tuple(expected)}; take the config.json of these weights"
        )


@contextmanager
def held_back(logger_name: str) -> Iterator[None]:
    """Log what a logger gets inside only after the end of the block, and not at all after an error, which says it."""
    logger, records = logging.getLogger(logger_name), []
    logger.addFilter(records.append)  # returns None: not now
    try:
        yield
    finally:
        logger.removeFilter(records.append)
    for record in records:
        logger.handle(record)


@contextmanager
def told_in_words(source: str | PathLike) -> Iterator[None]:
    """
    Say what is wrong with weights where safetensors and PyTorch say it in words of their own, or advise to run code.

    Raises:
        ValueError: in their place; one line.
    """
    try:
        yield
    except SafetensorError as error:
        raise ValueError(
            f"{source} can't be read as plain weights, it is no checkpoint or an incomplete one "
            f"({str(error).splitlines()[0]}): {AGAIN}"
        ) from error
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{source} can't be read as plain weights; a file that holds more than tensors is not opened, because it "
            "could run code: save its state dict alone, where you trust it"
        ) from error
    except EOFError as error:
        raise ValueError(f"{source} ends too early, an incomplete checkpoint: {AGAIN}") from error


def check_checkpoint(model: str | PathLike) -> None:
    """
    Check the name of a checkpoint, before it is loaded: a folder with a configuration, or a name on the Hub. Where the
    Hub can't be reached it answers at once, instead of after all attempts to reach it.

    Raises:
        FileNotFoundError: there is no such folder, or no configuration in it; on the Hub neither, or no way to it.
        NotADirectoryError: it is a file.
        PermissionError: the Hub gives its files only to those who asked for them.
    """
    path = Path(model).expanduser()
    if path.is_file():
        raise NotADirectoryError(f"{path} is a file; expected the folder of a checkpoint, such as {path.parent}")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"{path} has no config.json; expected the folder of a checkpoint")
        return
    model = str(model)
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
    )

    missing = FileNotFoundError(f"there is no model folder {model}; expected a folder, or the name of one on the Hub")
    if model.startswith((".", "/", "~")) or model.count("/") > 1 or os.sep not in "/" + model:
        raise missing
    try:
        cached = isinstance(try_to_load_from_cache(model, "config.json"), str)
    except HFValidationError as error:
        raise missing from error
    if cached:
        return
    hub = urlsplit(constants.ENDPOINT)
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        if not urllib.request.getproxies():
            socket.create_connection((hub.hostname, hub.port or 443), timeout=HUB_SECONDS).close()
        hf_hub_download(model, "config.json")
    except GatedRepoError as error:
        raise PermissionError(
            f"the files of {model} are given on request: ask for them at {constants.ENDPOINT}/{model}, then log in "
            "with hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"there is no model folder {model} here, and on the Hub no such model that you may see: check the name, "
            "or log in with hf auth login if it is private"
        ) from error
    except RemoteEntryNotFoundError as error:
        raise FileNotFoundError(f"{model} on the Hub has no config.json; expected a checkpoint of a model") from error
    except OSError as error:
        raise FileNotFoundError(
            f"there is no model folder {model} here, and the Hub can't be reached ({error.strerror or error}): check "
            "the name and the connection"
        ) from error


def load_whole(kind: type["PreTrainedModel"], checkpoint: str) -> "PreTrainedModel":
    """
    A model of transformers from a checkpoint that has to have all of its weights.

    Raises:
        ValueError: for files that hold no weights, not all of them, or those of other shapes.
        OSError: when there is no such checkpoint.
    """
    if Path(checkpoint).is_dir():
        check_weights(checkpoint)
    with told_in_words(checkpoint), held_back(LOADING_LOG):
        model, info = kind.from_pretrained(checkpoint, output_loading_info=True)
        check_loaded(model, info, checkpoint, fits=True)
        missing = sorted(info["missing_keys"])
        if missing:
            raise ValueError(
                f"{checkpoint} lacks {len(missing)} of the weights of a {kind.__name__}, e.g. {missing[0]}, an "
                f"incomplete checkpoint: {AGAIN}"
            )
    return model
