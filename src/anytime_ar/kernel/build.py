"""Compile the kernel on this machine once, and store it in the user's cache folder.

The kernel is plain C++ without PyTorch's headers, and compiles in seconds.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import importlib.util
import logging
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from pathlib import Path

from anytime_ar.errors import InputError
from anytime_ar.kernel.instruction_sets import InstructionSet
from anytime_ar.runtime.files import cache_folder, user_temporary_folder, write_bytes
from anytime_ar.runtime.signals import cleanup_on_signal, delay_signals

_log = logging.getLogger(__name__)

FLAGS = (
    "-O3",
    "-std=c++17",
    # The compiler must not fuse multiplications with additions where the source does not. So the
    # results depend on the instruction set alone.
    "-ffp-contract=off",
    # These two change no result: no caller uses errno or floating-point traps.
    "-fno-math-errno",
    "-fno-trapping-math",
    "-pthread",
    "-fPIC",
)
"""Compiler options of every build of the kernel, beside those of its instruction set."""
_DISK_FULL = re.compile("No ?space ?left|Disk quota exceeded|Bus error", re.IGNORECASE)
"""Messages of compilers and linkers on a full disk."""
_NOEXEC = "failed to map segment"
"""Message of the dynamic loader on a file system mounted with noexec."""
_TEMPORARY_PREFIX = "compiling-"
"""Prefix of the folder of a compilation."""
_STALE_AFTER_S = 3600.0
"""Age, in seconds, from which on such a folder is left over from a killed compilation."""


class BuildError(Exception):
    """Error for a kernel that is not available on this machine; the message says why."""


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler.

    Attributes:
        command: command that calls it.
        version: name and version that it prints.
    """

    command: tuple[str, ...]
    version: str


def kernel_sources() -> dict[str, bytes]:
    """Return the content of the kernel's C++ files, by name."""
    folder = resources.files("anytime_ar.kernel")
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return {file.name: file.read_bytes() for file in files if file.name.endswith((".h", ".cpp"))}


def find_compiler() -> Compiler | None:
    """Return the first C++ compiler of this machine that runs; None if there is none.

    The order is $CXX, c++, g++, clang++, and the Python package `ziglang`.
    """
    for command in _commands():
        with suppress(BuildError):
            return _identify(command)
    return None


def _commands() -> Iterator[tuple[str, ...]]:
    """Yield the commands of compilers in the order to try them."""
    named = os.environ.get("CXX", "").strip()
    path = shutil.which(named) if named else None  # a path may contain spaces
    if named:
        yield (path,) if path else _split_command(named)
    for name in ("c++", "g++", "clang++"):
        found = shutil.which(name)
        if found and found != path:
            yield (found,)
    if importlib.util.find_spec("ziglang") is not None:
        yield (sys.executable, "-m", "ziglang", "c++")


def _split_command(command: str) -> tuple[str, ...]:
    """Split a command as a shell does: `ccache g++`, `g++ -m64`."""
    try:
        return tuple(shlex.split(command))
    except ValueError:  # a quote that is not closed
        return (command,)


@cache
def _identify(command: tuple[str, ...]) -> Compiler:
    """Ask a compiler for its version: the first line that it prints, or else its name.

    Raises:
        BuildError: the compiler does not run.
    """
    if command[1:] == ("-m", "ziglang", "c++"):
        return Compiler(command, f"zig c++ {metadata.version('ziglang')}")
    try:
        result = subprocess.run(
            [*command, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as error:  # missing, for another machine, or a script without a shell
        raise BuildError(f"{shlex.join(command)} cannot be run: {error.strerror}") from error
    return Compiler(command, (result.stdout.splitlines() or [Path(command[0]).name])[0])


_lock = threading.Lock()
_failures: dict[tuple[Compiler, InstructionSet, Path], str] = {}
"""Messages of compilations that failed in this process. They take long, and would fail again."""


def compile_kernel(isa: InstructionSet) -> tuple[ctypes.CDLL, Compiler | None]:
    """Compile and load the kernel for an instruction set, or load it from the cache folder.

    Without a compiler that works, a kernel in the cache folder serves, whichever compiler made it.
    Where the cache folder is not writable, or mounted with noexec, the file goes into the temporary
    folder of this user, where the next process finds it.

    Args:
        isa: the instruction set.

    Returns:
        The kernel, and the first compiler that works; None: made by an earlier compiler.

    Raises:
        BuildError: there is no C++ compiler, or none makes a kernel that can be loaded, and none
            was compiled before.
    """
    problems = []
    with _lock:
        for command in _commands():
            try:
                compiler = _identify(command)
                attempt = compiler, isa, cache_folder()
                if attempt in _failures:
                    raise BuildError(_failures[attempt])
                try:
                    library = _load_or_compile(compiler, isa)
                except BuildError as error:
                    _failures[attempt] = str(error)
                    raise
            except BuildError as error:
                problems.append(str(error))
            else:
                if problems:
                    _log.warning("%s; used %s", "; ".join(problems), compiler.version)
                return library, compiler
        earlier = _load_earlier(isa)
        if earlier is not None:
            if problems:
                _log.warning("%s; used a kernel that was compiled earlier", "; ".join(problems))
            return earlier, None
    raise BuildError(
        "; ".join(problems)
        or "no C++ compiler is there; install g++ or clang++, or name one in $CXX, or `pip install "
        "ziglang`"
    )


def _load_or_compile(compiler: Compiler, isa: InstructionSet) -> ctypes.CDLL:
    """Load the kernel from the cache folder, or else from the temporary folder of this user.

    A kernel that is missing or damaged is compiled.

    Raises:
        BuildError: compiling or loading fails.
    """
    sources = kernel_sources()
    name = f"{_key(isa, sources)}-{_compiler_key(compiler)}.so"
    content: bytes | None = None
    problem = ""
    for folder in (cache_folder, user_temporary_folder):
        try:
            path = folder() / "native" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            found = find_intact(path)
            cached = found is not None
            if found is None:
                content = content or _compile(compiler, isa, sources, path.parent)
                found = checksummed_path(path, content)
                write_bytes(found, content)
        except (OSError, InputError) as error:
            problem = f"cannot write the kernel: {error}"
            continue
        try:
            return ctypes.CDLL(str(found))
        except OSError as error:
            if _NOEXEC in str(error):  # as `docker run --tmpfs` mounts; another folder may work
                content = found.read_bytes()
                problem = (
                    f"cannot load {error}; is it mounted with noexec? name a folder of another "
                    "file system in $XDG_CACHE_HOME"
                )
            elif cached:  # compiled by a machine with other libraries that shares the folder
                problem = f"cannot load {error}; remove the file"
            else:
                raise BuildError(
                    f"cannot load what {shlex.join(compiler.command)} has made: {error}"
                ) from error
    raise BuildError(problem)


def _load_earlier(isa: InstructionSet) -> ctypes.CDLL | None:
    """Load a kernel of these sources that any compiler made earlier; None if there is none."""
    key = _key(isa, kernel_sources())
    for folder in (cache_folder, user_temporary_folder):
        with suppress(OSError):  # no folder, or a file of a machine with other libraries
            for path in sorted((folder() / "native").glob(f"{key}-*.so")):
                name = path.with_name(f"{path.stem.rpartition('-')[0]}.so")
                if find_intact(name) == path:
                    return ctypes.CDLL(str(path))
    return None


def _key(isa: InstructionSet, sources: dict[str, bytes]) -> str:
    """Return a digest of what every build depends on: sources, options and C library."""
    digest = hashlib.sha256(b"".join(sources.values()))
    parts = [*platform.libc_ver(), isa.architecture, *FLAGS, *isa.flags]
    digest.update(" ".join(parts).encode())
    return digest.hexdigest()[:24]


def _compiler_key(compiler: Compiler) -> str:
    """Return a digest of a compiler and its options."""
    text = " ".join([*compiler.command[1:], compiler.version])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _compile(
    compiler: Compiler, isa: InstructionSet, sources: dict[str, bytes], parent: Path
) -> bytes:
    """Compile the kernel in a temporary folder inside `parent`, and return the library's bytes.

    Raises:
        BuildError: the compiler fails.
        OSError: the disk is full.
    """
    for old in parent.glob(f"{_TEMPORARY_PREFIX}*"):
        with suppress(OSError):  # another process removes it too
            if time.time() - old.stat().st_mtime > _STALE_AFTER_S:
                shutil.rmtree(old)
    _log.warning(
        "compiling the native kernel with %s, which takes up to a minute", compiler.version
    )
    with tempfile.TemporaryDirectory(
        dir=parent, prefix=_TEMPORARY_PREFIX, ignore_cleanup_errors=True
    ) as folder:
        for name, source in sources.items():
            (Path(folder) / name).write_bytes(source)
        units = [name for name in sources if name.endswith(".cpp")]
        command = [*compiler.command, *FLAGS, *isa.flags, "-shared", "-o", "kernel.so", *units]
        status, output = _run(command, Path(folder))
        shown, library = shlex.join(compiler.command), Path(folder) / "kernel.so"
        if status != 0:
            if _DISK_FULL.search(output):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(parent))
            lines = [line.strip() for line in output.splitlines() if line.strip()]
            last = lines[-1] if lines else f"exit status {status}, without a message"
            problem = next((line for line in lines if "error" in line.lower()), last)
            raise BuildError(f"{shown} failed: {problem}")
        if not library.is_file() or not library.stat().st_size:
            raise BuildError(f"{shown} says that all is well, but has written no kernel")
        return library.read_bytes()


def _run(command: list[str], folder: Path) -> tuple[int, str]:
    """Run a compiler in a folder, and stop it when this process is interrupted.

    Returns:
        Its exit status and its output.
    """
    # Other folders may be read-only. The messages must be English, because we search them.
    folders = dict.fromkeys(("TMPDIR", "ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"), str(folder))
    process: subprocess.Popen[str] | None = None

    def end() -> None:
        """Stop the compiler and all processes that it has started."""
        if process is None:
            return
        if sys.platform == "win32":
            process.kill()
        else:
            with suppress(ProcessLookupError, PermissionError):  # it has ended
                os.killpg(process.pid, signal.SIGKILL)

    def clean() -> None:
        """Stop the compiler, and remove its folder."""
        end()
        shutil.rmtree(folder, ignore_errors=True)

    try:
        with cleanup_on_signal(clean):
            with delay_signals():  # a compiler without a `process` could not be stopped
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    encoding="utf-8",
                    errors="replace",
                    cwd=folder,
                    env={**os.environ, **folders, "LC_ALL": "C"},
                    start_new_session=True,  # Ctrl-C reaches this process only
                )
            output, _ = process.communicate()
    except BaseException:
        end()
        if process is not None:
            process.wait()
        raise
    return process.returncode, output


def checksummed_path(path: Path, content: bytes) -> Path:
    """Return `path` with a digest of the content before the suffix."""
    return path.with_name(f"{path.stem}-{hashlib.sha256(content).hexdigest()[:16]}{path.suffix}")


def find_intact(path: Path) -> Path | None:
    """Return the file named by `checksummed_path` whose content matches its digest, if any."""
    for found in sorted(path.parent.glob(f"{path.stem}-*{path.suffix}")):
        try:
            if found.is_file() and checksummed_path(path, found.read_bytes()) == found:
                return found
        except OSError:  # another user's, or on a failing disk: treat it as damaged
            continue
    return None
