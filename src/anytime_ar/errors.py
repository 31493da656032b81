"""Define the errors that callers may catch, and check optional extras.

Every message names the value that came, what was expected, and the next step. `InputError` is a
`ValueError`, so that library users need not know this module. The command line prints it as one
line and exits with code 2.
"""

import sys
from collections.abc import Sequence

DETAIL_SEPARATOR = "\n  - "
"""Separator before each detail in an error's text."""


def plural(count: int, noun: str) -> str:
    """Return `1 code`, `2 codes`, and so on."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


class AnytimeError(Exception):
    """Base class of every error that anytime-ar raises on purpose.

    Args:
        message: one line.
        details: further lines, one per item, such as all settings that differ.
    """

    def __init__(self, message: str = "", details: Sequence[str] = ()) -> None:
        """Store the message and its details."""
        super().__init__(message)
        self.details = tuple(details)

    def __str__(self) -> str:
        """Return the message, and each detail on a line of its own."""
        return DETAIL_SEPARATOR.join([super().__str__(), *self.details])


class InputError(AnytimeError, ValueError):
    """Error for input that cannot be used: an argument, a configuration value, a prefix length."""


class NoRoomError(InputError):
    """Error for a file that could not be written because a disk, a quota or a limit is full."""


class DataError(InputError):
    """Error for a data set that cannot be read: a path, a file in it, or its sample shapes."""


class BundleError(InputError):
    """Error for a refused bundle: unknown version, missing or altered file, or not a bundle."""


class MissingExtraError(InputError):
    """Error for a missing optional dependency; the message gives the command that installs it."""


EXTRAS = {
    "train": ("lightning_fabric", "sklearn", "scipy"),
    "eval": ("matplotlib", "pystoi", "sklearn", "scipy"),
    "audio": ("soundfile", "soxr", "matplotlib"),
    "data": ("datasets", "pyarrow"),
    "hub": ("huggingface_hub", "matplotlib"),
    "serve": ("fastapi", "starlette", "uvicorn", "httptools", "prometheus_client", "scipy"),
    "client": ("httpx",),
    "ray": ("ray",),
    "hf": ("transformers",),
    "snac": ("snac",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "bench": ("transformers", "matplotlib"),
}
"""Optional extras of `pyproject.toml` and the modules that each installs."""


def require_extras(purpose: str, *extras: str, module: str | None = None) -> None:
    """Check that extras are installed, without importing their modules.

    Args:
        purpose: what needs the extras, as a noun; the beginning of the message.
        extras: names of the extras, as in `EXTRAS`.
        module: the one module that is needed; None: all modules of the extras.

    Raises:
        MissingExtraError: a module is missing.
    """
    from importlib.util import find_spec

    needed = [name for extra in extras for name in EXTRAS[extra]] if module is None else [module]
    for name in needed:
        if find_spec(name) is None:
            raise missing_extra_error(purpose, name, *extras)


def missing_extra_error(purpose: str, module: str | None, *extras: str) -> MissingExtraError:
    """Return the error for a module that is missing.

    Args:
        purpose: what needs the module, as a noun.
        module: name of the module.
        extras: names of the extras to install.
    """
    return MissingExtraError(
        f"{purpose} needs {module} of anytime-ar[{','.join(extras)}]; install it: "
        f"{install_command(*extras)}"
    )


def install_command(*extras: str) -> str:
    """Return the command that installs the packages of extras for the running Python.

    The command names the packages instead of `anytime-ar[extra]`, because anytime-ar itself may
    come from a clone, a wheel or an index.

    Args:
        extras: names of the extras, as in `EXTRAS`.
    """
    import shlex
    from importlib.metadata import requires

    wanted = []
    for extra in extras:
        for requirement in requires("anytime-ar") or ():
            package, _, marker = requirement.partition(";")
            elsewhere = "sys_platform" in marker and sys.platform == "win32"
            if marker.replace("'", '"').endswith(f'extra == "{extra}"') and not elsewhere:
                wanted.append(package.strip())
    packages = shlex.join(dict.fromkeys(wanted))
    return f"{shlex.quote(sys.executable)} -m pip install {packages}"


class TrainingError(AnytimeError):
    """Error for training that cannot go on, at a loss that is not finite for example.

    The last good checkpoint stays on disk.
    """


class PeerExitedError(TrainingError):
    """Error for a run in which another process has exited; this process cannot go on alone."""


class ReportedByRankZeroError(AnytimeError):
    """Error for a failure that rank 0 reports, so that the other ranks need not."""


class BulkError(AnytimeError):
    """Error for a bulk job that cannot go on; the same job resumes after its complete shards."""


class BrokenSampleError(DataError):
    """Error for a sample that does not decode, whatever the settings."""
