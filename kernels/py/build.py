"""Compiles a C++ source against the installed torch once, and keeps the library in the user's cache."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path

import torch
from filelock import FileLock
from filelock import Timeout as FileLockTimeout

COMPILE_SECONDS = 600

# -ffast-math is left out on purpose: linking with it flushes denormals in the whole process.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
# The oldest torch whose stable interface has all that the sources use.
DEFINES = ("-DTORCH_TARGET_VERSION=0x020a000000000000",)


class BuildError(RuntimeError):
    """The library could not be built; the message says why in one line."""


def cache_dir() -> Path:
    """Where the built libraries live: `$XDG_CACHE_HOME/transformers_msstsvis`, by default below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "transformers_msstsvis"


def build(source: Path) -> Path:
    """Returns the shared library compiled from `source`, compiling it if the cache lacks it.

    Processes that ask at the same time build once: one compiles, the others wait for it.

    Raises:
        BuildError: there is no compiler, it fails, or the cache can't be written.
    """
    try:
        code = source.read_bytes()
        library = cache_dir() / f"{source.stem}-{_key(code)}.so"
        if library.is_file():
            return library
        library.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(library.with_suffix(".lock"), timeout=COMPILE_SECONDS):
            if not library.is_file():
                _compile(source, library)
        return library
    except FileLockTimeout as error:
        raise BuildError(f"another process holds {error.lock_file}") from error
    except OSError as error:
        raise BuildError(str(error)) from error


def _key(code: bytes) -> str:
    """-march=native ties a library to the instructions of this CPU, and a home directory may be shared by machines."""
    parts = [code, *FLAGS, *DEFINES, torch.__version__, platform.system(), platform.machine(), _cpu_flags()]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def _cpu_flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    # The model too: -march=native also chooses by it. x86 says "flags", Arm "Features".
    names = ("flags", "Features", "vendor_id", "cpu family", "model\t", "CPU implementer", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(names)}))


def _compiler() -> list[str]:
    chosen = shlex.split(os.environ.get("CXX", ""))
    for command in [chosen] if chosen else [["g++"], ["clang++"], ["c++"]]:
        if shutil.which(command[0]):
            return command
    raise BuildError(f"no C++ compiler found ({chosen[0] if chosen else 'g++, clang++ or c++'})")


def _compile(source: Path, library: Path) -> None:
    root = Path(torch.__file__).parent
    unfinished = library.with_suffix(f".{os.getpid()}.tmp")
    command = [
        *_compiler(),
        *FLAGS,
        *DEFINES,
        f"-I{root / 'include'}",
        str(source),
        f"-L{root / 'lib'}",
        "-ltorch_cpu",
    ]
    try:
        result = subprocess.run(
            [*command, "-o", str(unfinished)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMPILE_SECONDS,
        )
        if result.returncode != 0:
            errors = [line for line in result.stderr.splitlines() if "error" in line] or result.stderr.splitlines()
            raise BuildError(f"{command[0]} failed: {errors[0] if errors else f'exit code {result.returncode}'}")
        os.replace(unfinished, library)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{command[0]} took more than {COMPILE_SECONDS} seconds") from error
    finally:
        unfinished.unlink(missing_ok=True)
