"""One process in which steps run in turn, and which is replaced when a step has spoilt it."""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from typing import Any

from ...commands.command_line import reason

SECONDS_TO_END = 10


class Absent(Exception):
    """A step needs what is not here; the message says what."""


class Worker:
    """
    Runs functions in a process of its own, so that whatever they do (an error that stays with the device, a crash, a
    wait without end) costs no others. The process is started when it is needed, and kept while it is sound.

    Args:
        threads: of PyTorch there; None for all cores.

    Attributes:
        environment: variables of the process from its next start on.
    """

    method = "spawn"  # a device can't be used in a fork of a process that has

    def __init__(self, threads: int | None = None):
        self.environment: dict[str, str] = {}
        self._threads = threads
        self._process = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error) -> None:
        if self._process is not None and kind is None:
            self._connection.send(None)  # it ends by itself, and leaves nothing behind
            self._process.join(SECONDS_TO_END)
        self.stop()

    def run(self, function: Callable[..., Any], arguments: tuple, limit: float) -> dict[str, Any]:
        """
        `function(*arguments)`, both of which can be pickled, in at most `limit` seconds.

        Returns:
            `status` "done" with `result`, or "absent" or "failed" with `message` (and `traceback`); `seconds`; and
            `spoilt`, whether the process could not be kept.
        """
        start = time.monotonic()
        if self._process is None:
            self._start()
        try:
            self._connection.send((function, arguments))
            if self._connection.poll(limit):
                outcome = self._connection.recv()
                if outcome["spoilt"]:
                    self.stop()
                return outcome
            message = f"stopped, as it was not done after {limit:.0f} seconds"
        except (EOFError, OSError):  # nobody is at the other end
            self._process.join()
            message = f"its process ended: {told_exit(self._process.exitcode)}"
        self.stop()
        return {"status": "failed", "message": message, "seconds": time.monotonic() - start, "spoilt": True}

    def stop(self) -> None:
        """End the process, with all that it has started."""
        if self._process is None:
            return
        if self._process.is_alive():
            _end_group(self._process.pid)
        self._process.kill()
        self._process.join()
        self._connection.close()
        self._process = None

    def _start(self) -> None:
        context = get_context(self.method)
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, self._threads, self.environment))
        self._process.start()
        other.close()


def told_exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _serve(connection: Connection, threads: int | None, environment: dict[str, str]) -> None:
    if hasattr(os, "setsid"):
        os.setsid()  # a group that can be ended as a whole, such as with compilers that run
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(environment)
    if threads:
        import torch

        torch.set_num_threads(threads)
    while (task := connection.recv()) is not None:
        connection.send({**outcome_of(*task), "spoilt": _device_is_spoilt()})


def _end_with_parent() -> None:
    """Nothing is left running, and holds the device, when the other process is killed."""
    parent_process().join()
    _end_group(os.getpid())
    os._exit(1)


def _end_group(leader: int) -> None:
    """End a process and all that it has started, as far as this system knows groups."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):  # it leads no group yet, or is gone
            os.killpg(leader, signal.SIGKILL)


def outcome_of(function: Callable[..., Any], arguments: tuple) -> dict[str, Any]:
    """`function(*arguments)` as [`Worker.run`] gives it."""
    start = time.monotonic()
    try:
        outcome = {"status": "done", "result": function(*arguments)}
    except Absent as error:
        outcome = {"status": "absent", "message": str(error)}
    except Exception as error:
        outcome = {"status": "failed", "message": reason(error), "traceback": traceback.format_exc()}
    return {**outcome, "seconds": time.monotonic() - start}


def _device_is_spoilt() -> bool:
    """Whether a kernel has failed in a way that every later call of the process will tell again."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except Exception:
        return True
    return False
