"""What a command finds around it: standard streams that are closed, full or know few characters,
and errors of the system. None of them ends work that can go on, and none becomes a traceback."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

from anytime_ar.errors import AnytimeError, InputError

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
    INTERNAL_ERROR: "a mistake of anytime-ar; ANYTIME_TRACEBACK=1 shows where",
    INTERRUPTED: "Ctrl-C; SIGTERM: 143",
    BROKEN_PIPE: "who read standard output has left",
}
"""Exit codes of all commands."""

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
"""What libraries say at a limit of the process or the machine; most have no type for it."""
_RESOURCE_HINTS = {
    "memory": "ask for less at a time, or see `ulimit -v` and the limits of the container",
    "threads or processes": "see `ulimit -u` and the limits of the container",
    "open files": "see `ulimit -n`",
}


class SafeStream:
    """A text stream for what a command tells, which never fails: what cannot be written is dropped
    and the reason is kept. Characters that its encoding lacks become backslash escapes.

    Args:
        stream: where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None
        """Why something could not be written."""

    def write(self, text: str) -> int:
        """Write, if that is possible; return the number of characters."""
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
        """Flush, if that is possible."""
        if self.error is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._discard_rest(error)

    def _discard_rest(self, error: OSError) -> None:
        """Send what is written from now on, and what is in buffers, nowhere: Python would try once
        more when it ends."""
        self.error = error
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def safe_standard_streams() -> Iterator[SafeStream]:
    """Replace the standard streams by such that never fail in the block; yield standard output."""
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
    """Have what anytime-ar warns of and logs told like all else that a command says on standard
    error; other packages keep their ways."""
    show = warnings.showwarning

    def ours(message: Warning | str, *place: Any, **more: Any) -> None:
        """See `warnings.showwarning`."""
        if Path(place[1]).is_relative_to(_PACKAGE):
            print(f"anytime: {' '.join(str(message).split())}", file=sys.stderr)
        else:
            show(message, *place, **more)

    warnings.showwarning = ours
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("anytime: %(message)s"))
    logging.getLogger("anytime_ar").addHandler(handler)


def reserve_standard_descriptors() -> None:
    """Open the null device in place of standard descriptors that are closed: else the next file
    would get such a number, and in it what libraries print."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def describe_error(error: Exception) -> tuple[str, int]:
    """Return what to say of an error that ends a command, and the exit code."""
    if isinstance(error, InputError):
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
        return (
            f"the package {error.name} is missing, so this installation is not complete; install "
            "anytime-ar again",
            FAILED,
        )
    if isinstance(error, OSError):
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return f"{where}{error.strerror or _first_line(text)}", FAILED
    return (
        f"a mistake of anytime-ar: {type(error).__name__}: {_first_line(text)}; set "
        "ANYTIME_TRACEBACK=1 to see where, and report it",
        INTERNAL_ERROR,
    )


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return `; did you mean 'sample'?` for the nearest of some words, or nothing."""
    from difflib import get_close_matches

    close = get_close_matches(word, list(candidates), n=1)
    return f", did you mean {close[0]!r}?" if close else ""
