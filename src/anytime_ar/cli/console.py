"""The console of a command: safe standard streams, exit codes and error messages.

Standard streams may be closed, full, or limited to a few characters, and the system may report
errors. None of these ends work that can continue, and none prints a traceback.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

from anytime_ar.errors import (
    EXTRAS,
    AnytimeError,
    InputError,
    NoRoomError,
    missing_extra_error,
)

_PACKAGE = Path(__file__).parent.parent
SUCCESS, FAILED, BAD_INPUT, OUTPUT_FAILED, INTERNAL_ERROR, INTERRUPTED, BROKEN_PIPE = (
    0,
    1,
    2,
    3,
    70,
    130,
    141,
)
EXIT_CODES = {
    SUCCESS: "done",
    FAILED: "the work failed: no room on a disk or in memory, or no finite loss",
    BAD_INPUT: "an argument, a setting or a file cannot be used",
    OUTPUT_FAILED: "done and written to files, but standard output could not be written",
    INTERNAL_ERROR: "an internal error of anytime-ar; ANYTIME_TRACEBACK=1 shows where",
    INTERRUPTED: "Ctrl-C; SIGTERM: 143",
    BROKEN_PIPE: "the reader of standard output closed it",
}
"""Exit codes of all commands and their meanings."""

_RESOURCE_ERRORS = {
    "memory": (
        "allocate memory",
        "out of memory",
        "failed to map segment",
        "bad_alloc",
    ),
    "threads or processes": ("can't start new thread", "Resource temporarily unavailable"),
    "open files": ("Too many open files",),
}
"""Error texts of libraries at a limit of the process or machine. Most have no error type for it."""
_RESOURCE_HINTS = {
    "memory": "ask for less at a time, or see `ulimit -v` and the limits of the container",
    "threads or processes": "see `ulimit -u` and the limits of the container",
    "open files": "see `ulimit -n`",
}
"""What the user can do about each kind of resource limit."""


def is_rank_zero_process() -> bool:
    """Return whether this process has rank zero among those of a launcher."""
    return all(
        os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
    )


class SafeStream:
    """A text stream that never fails: it drops what cannot be written and stores the error.

    Characters that its encoding lacks become backslash escapes.

    Args:
        stream: the stream to write to.
    """

    def __init__(self, stream: TextIO) -> None:
        """Wrap a text stream that has not failed yet."""
        self._stream = stream
        self.error: OSError | None = None
        """The first error of the stream; None: no error yet."""

    def write(self, text: str) -> int:
        """Write a text if possible, and return its number of characters."""
        encoding = getattr(self._stream, "encoding", None)
        if encoding is not None:
            text = text.encode(encoding, "backslashreplace").decode(encoding)
        if self.error is None:
            try:
                self._stream.write(text)
            except OSError as error:
                self._discard_rest(error)
        return len(text)

    def flush(self) -> None:
        """Flush the stream if possible."""
        if self.error is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._discard_rest(error)

    def _discard_rest(self, error: OSError) -> None:
        """Redirect further and buffered output to the null device.

        Python would otherwise try to write it again at exit.
        """
        self.error = error
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the wrapped stream."""
        return getattr(self._stream, name)


@contextmanager
def safe_standard_streams() -> Iterator[SafeStream]:
    """Replace the standard streams by safe ones in the block, and yield standard output."""
    with ExitStack() as stack:
        before = sys.stdout, sys.stderr
        streams = []
        for stream in before:
            # None: pythonw, services without a console, `>&-`.
            if stream is None or stream.closed:
                stream = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123
            streams.append(SafeStream(stream))
        sys.stdout, sys.stderr = cast(list[TextIO], streams)
        try:
            yield streams[0]
        finally:
            for output in streams:
                output.flush()
            sys.stdout, sys.stderr = before


def install_message_format() -> None:
    """Print warnings and logs of anytime-ar in the format of all other messages on standard error.

    Messages of other packages stay as they are.
    """
    show = warnings.showwarning

    def ours(message: Warning | str, *place: Any, **more: Any) -> None:
        """Print one warning; see `warnings.showwarning`."""
        if Path(place[1]).is_relative_to(_PACKAGE):
            print(f"anytime: {' '.join(str(message).split())}", file=sys.stderr)
        else:
            show(message, *place, **more)

    warnings.showwarning = ours
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("anytime: %(message)s"))
    logging.getLogger("anytime_ar").addHandler(handler)


def reserve_standard_descriptors() -> None:
    """Open the null device for each closed standard descriptor.

    Otherwise the next file would get that number, and libraries would print into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def describe_error(error: Exception) -> tuple[str, int]:
    """Return the message and the exit code for an error that ends a command."""
    if isinstance(error, InputError) and not isinstance(error, NoRoomError):
        return str(error), BAD_INPUT
    if isinstance(error, AnytimeError):
        return str(error), FAILED
    text = str(error).strip()
    if isinstance(error, MemoryError):
        text = text or "a MemoryError"
        return f"not enough memory ({_first_line(text)}); {_RESOURCE_HINTS['memory']}", FAILED
    for what, signs in _RESOURCE_ERRORS.items():
        if any(sign in text for sign in signs):
            return f"not enough {what} ({_first_line(text)}); {_RESOURCE_HINTS[what]}", FAILED
    if isinstance(error, OverflowError) or "Overflow when unpacking" in text:
        return f"a number is too large ({_first_line(text)}); pass a smaller one", BAD_INPUT
    if isinstance(error, RecursionError):
        return "a file or a value is nested too deeply to be read; pass another one", BAD_INPUT
    if isinstance(error, UnicodeEncodeError):
        return (
            f"{error.object!a} cannot be written in {error.encoding}, which this system uses for "
            "names; set PYTHONUTF8=1, or choose another name",
            BAD_INPUT,
        )
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").partition(".")[0]
        for extra, modules in EXTRAS.items():
            if module in modules:
                return str(missing_extra_error("this command", module, extra)), BAD_INPUT
        return (
            f"the package {error.name} is missing, so this installation is not complete; install "
            "anytime-ar again",
            FAILED,
        )
    if isinstance(error, ImportError) and not (error.name or "").startswith("anytime_ar"):
        return (
            f"an installed package cannot be imported ({_first_line(text)}); install it again; "
            "ANYTIME_TRACEBACK=1 shows which",
            FAILED,
        )
    if isinstance(error, OSError):
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return f"{where}{error.strerror or _first_line(text)}", FAILED
    return (
        f"an internal error of anytime-ar: {type(error).__name__}: {_first_line(text)}; set "
        "ANYTIME_TRACEBACK=1 to see where, and report it",
        INTERNAL_ERROR,
    )


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""


def closest(word: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate that is spelt most like a word; None: none is near."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(word, list(candidates), n=1)), None)


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return `, did you mean 'sample'?` for the closest candidate, or an empty string."""
    near = closest(word, candidates)
    return "" if near is None else f", did you mean {near!r}?"
