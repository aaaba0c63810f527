"""Compiles a C++ or CUDA source against the installed torch once, and keeps the library in the user's cache."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch
from filelock import FileLock
from filelock import Timeout as FileLockTimeout
from transformers.utils.logging import tqdm

COMPILE_SECONDS = 600

# -ffast-math is left out on purpose: linking with it flushes denormals in the whole process.
CPU_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
CUDA_FLAGS = ("-std=c++17", "-O3", "-Xcompiler=-fPIC", "-shared")
DEFINES = ("-DTORCH_EXTENSION_NAME=msstsvis",)  # the namespace of the operators
HEADERS = (".h", ".cuh")


class BuildError(RuntimeError):
    """The library could not be built; the message says why in one line."""


def cache_dir() -> Path:
    """Where the built libraries live: `$XDG_CACHE_HOME/transformers_msstsvis`, by default below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "transformers_msstsvis"


def build(source: Path, capabilities: Sequence[tuple[int, int]] = ()) -> Path:
    """Returns the shared library compiled from `source`, compiling it if the cache lacks it.

    Processes that ask at the same time build once: one compiles, the others wait for it. A library that is not as it
    was built, such as one cut short by a full disk, is built anew: loading it could end the process.

    Args:
        source: a `.cpp` file for this CPU, or a `.cu` file. Headers beside it and one folder up belong to it.
        capabilities: the compute capabilities to compile a `.cu` file for, such as `[(9, 0)]`.

    Raises:
        BuildError: there is no compiler, it fails, or the cache can't be written.
    """
    try:
        command = _cuda_command(capabilities) if source.suffix == ".cu" else _cpu_command()
        library = cache_dir() / f"{source.stem}-{_key(source, command)}.so"
        if _is_whole(library):
            return library
        library.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(library.with_suffix(".lock"), timeout=COMPILE_SECONDS):
            if not _is_whole(library):
                # Half a minute with nvcc: whoever waits for a first result sees what for.
                with tqdm(total=1, desc=f"Compiling {source.name} for this machine, once", leave=False) as progress:
                    _compile(source, command, library)
                    progress.update()
        return library
    except FileLockTimeout as error:
        raise BuildError(f"another process holds {error.lock_file}") from error
    except OSError as error:
        raise BuildError(str(error)) from error


def _checksum_file(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _checksum(library: Path) -> str:
    content = library.read_bytes()
    return f"{len(content)} {hashlib.sha256(content).hexdigest()}"


def _is_whole(library: Path) -> bool:
    """Whether the library is there and as it was built."""
    try:
        return _checksum_file(library).read_text() == _checksum(library)
    except (FileNotFoundError, ValueError):
        return False


def _cpu_command() -> list[str]:
    return [*_cpu_compiler(), *CPU_FLAGS, *DEFINES]


def _cuda_command(capabilities: Sequence[tuple[int, int]]) -> list[str]:
    host = os.environ.get("CXX")
    numbers = [f"{major}{minor}" for major, minor in sorted(set(capabilities))]
    targets = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
    return [_cuda_compiler(), *([f"-ccbin={host}"] if host else []), *CUDA_FLAGS, *targets, *DEFINES]


def _cpu_compiler() -> list[str]:
    chosen = shlex.split(os.environ.get("CXX", ""))
    for command in [chosen] if chosen else [["g++"], ["clang++"], ["c++"]]:
        if shutil.which(command[0]):
            return command
    raise BuildError(f"no C++ compiler found ({chosen[0] if chosen else 'g++, clang++ or c++'})")


def _cuda_compiler() -> str:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    for command in [f"{home}/bin/nvcc"] if home else ["nvcc", "/usr/local/cuda/bin/nvcc"]:
        if path := shutil.which(command):
            return path
    raise BuildError(f"no CUDA compiler found ({f'{home}/bin/nvcc' if home else 'nvcc'})")


def _key(source: Path, command: Sequence[str]) -> str:
    folders = (source.parent, source.parent.parent)
    headers = sorted(path for folder in folders for path in folder.iterdir() if path.suffix in HEADERS)
    code = [path.read_bytes() for path in (source, *headers)]
    if source.suffix == ".cu":
        version = subprocess.run([command[0], "--version"], capture_output=True, text=True, errors="replace").stdout
        machine = f"{torch.version.cuda}\n{version}"
    else:
        # -march=native ties a library to the instructions of this CPU, and machines may share a home directory.
        machine = _cpu_flags()
    digest = hashlib.sha256()
    for part in (*code, *command, torch.__version__, platform.system(), platform.machine(), machine):
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


def _compile(source: Path, command: Sequence[str], library: Path) -> None:
    root = Path(torch.__file__).parent
    unfinished = library.with_suffix(f".{os.getpid()}.tmp")
    checksum = library.with_suffix(f".sha256.{os.getpid()}.tmp")
    libraries = ["-ltorch_cpu", "-ltorch_cuda"] if source.suffix == ".cu" else ["-ltorch_cpu"]
    try:
        result = subprocess.run(
            [
                *command,
                f"-I{root / 'include'}",
                str(source),
                f"-L{root / 'lib'}",
                *libraries,
                "-o",
                str(unfinished),
            ],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMPILE_SECONDS,
        )
        if result.returncode != 0:
            output = (result.stderr or result.stdout).splitlines()
            errors = [line for line in output if "error" in line] or output
            raise BuildError(f"{command[0]} failed: {errors[0] if errors else f'exit code {result.returncode}'}")
        checksum.write_text(_checksum(unfinished))
        # Whoever sees one of the two in between takes the lock, and finds both.
        os.replace(unfinished, library)
        os.replace(checksum, _checksum_file(library))
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{command[0]} took more than {COMPILE_SECONDS} seconds") from error
    finally:
        # Of builds that were killed, too: only who holds the lock builds.
        for leftover in library.parent.glob(f"{library.stem}.*tmp"):
            leftover.unlink(missing_ok=True)
