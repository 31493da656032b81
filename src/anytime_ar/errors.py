"""The errors that callers may catch.

Every message names the value that came, what was expected, and the next step. `InputError` is a
`ValueError` so that library users need not know this module; the command line turns it into one
line and exit code 2.
"""

import sys
from collections.abc import Sequence

DETAIL_SEPARATOR = "\n  - "
"""Comes before each detail in the text of an error."""


class AnytimeError(Exception):
    """Base class of every error that anytime-ar raises on purpose.

    Args:
        message: one line.
        details: what belongs to it, for a line each: all settings that differ, say.
    """

    def __init__(self, message: str = "", details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.details = tuple(details)

    def __str__(self) -> str:
        return DETAIL_SEPARATOR.join([super().__str__(), *self.details])


class InputError(AnytimeError, ValueError):
    """What the caller passed cannot be used: an argument, a configuration value, a prefix
    length."""


class DataError(InputError):
    """A data set cannot be read: a path, a file inside it, or the shape of its samples."""


class BundleError(InputError):
    """A model folder is refused: unknown version, missing or altered file, or not a bundle."""


class MissingExtraError(InputError):
    """An optional dependency is needed; the message gives the command that brings it."""


def install_command(extra: str) -> str:
    """Return the command that installs what an extra asks for into the Python that runs this.

    It names the packages, as anytime-ar itself may come from a clone, a wheel or an index.
    """
    import shlex
    from importlib.metadata import requires

    wanted = []
    for requirement in requires("anytime-ar") or ():
        package, _, marker = requirement.partition(";")
        elsewhere = "sys_platform" in marker and sys.platform == "win32"
        if marker.replace("'", '"').endswith(f'extra == "{extra}"') and not elsewhere:
            wanted.append(package.strip())
    return f"{shlex.quote(sys.executable)} -m pip install {shlex.join(wanted)}"


class TrainingError(AnytimeError):
    """Training cannot go on (a loss that is not finite, say); the last good checkpoint is kept."""


class PeerExitedError(TrainingError):
    """Another process of the same run has ended, of itself or not; this one cannot go on alone."""


class ReportedByRankZeroError(AnytimeError):
    """Another process of the same run says what is wrong, and says it once."""


class BulkError(AnytimeError):
    """A bulk job cannot go on; complete shards are kept, and the same job continues after them."""


class BrokenSampleError(DataError):
    """A sample that no setting makes readable: it does not decode."""
