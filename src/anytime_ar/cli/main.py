"""`anytime COMMAND ...`: parse the arguments, call the library, print the results.

An error prints one line on standard error and ends with one of `EXIT_CODES`, never with a
traceback. Written files stay, even if standard output fails. Heavy imports happen inside the
commands, so that `--help` is quick.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from importlib import import_module
from types import ModuleType

from anytime_ar.cli.console import (
    BROKEN_PIPE,
    EXIT_CODES,
    INTERRUPTED,
    OUTPUT_FAILED,
    describe_error,
    did_you_mean,
    install_message_format,
    is_rank_zero_process,
    reserve_standard_descriptors,
    safe_standard_streams,
)
from anytime_ar.errors import DETAIL_SEPARATOR, InputError, ReportedByRankZeroError
from anytime_ar.legacy import upgrade_arguments
from anytime_ar.runtime.signals import Terminated, exit_on_signal, install_exit_handler
from anytime_ar.runtime.threads import check_omp_num_threads

_INTERRUPTED_MESSAGE = b"anytime: interrupted\n"
COMMANDS = {
    "demo": "train on digits, and show quality at every number of codes",
    "train": "train an ordered autoencoder and its prior on a data set",
    "train-classifier": "train the classifier whose features score samples",
    "evaluate": "measure quality and cost at every number of codes",
    "compare": "set the curves of several models side by side",
    "bench": "time codes a second and deadlines on this machine",
    "doctor": "show what is used, what is missing and what would be faster",
    "serve": "serve models over HTTP, with a web page",
    "push": "upload a model to the Hugging Face Hub, with a model card",
    "sample": "draw samples by codes, seconds or quality, or until Ctrl-C",
    "vary": "keep the first codes of a sample, and draw the others anew",
    "refine": "continue samples that were saved or interrupted",
    "encode": "turn images or audio into codes",
    "decode": "turn codes, or any prefix of them, into images or audio",
    "bulk sample": "write many samples in shards, locally or on Ray",
    "bulk encode": "write the codes of a data set in shards, locally or on Ray",
}
"""Commands and their summaries.

A command's first word names a module of this package, with `_` for `-`. It has `add_arguments` and
`run`, or a table `SUBCOMMANDS` of them by the second word.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command, and exit with its code unless the code is 0 and a program is the caller.

    Args:
        arguments: what follows `anytime`; None: the arguments of the process, whose signals and
            descriptors are then handled as well.
    """
    ours = arguments is None
    with ExitStack() as starting:
        if ours:
            message = _INTERRUPTED_MESSAGE if is_rank_zero_process() else b""
            starting.enter_context(exit_on_signal(signal.SIGINT, INTERRUPTED, message))
            reserve_standard_descriptors()
        with safe_standard_streams() as stdout:
            if ours:
                install_message_format()
            code = _exit_code(list(sys.argv[1:] if arguments is None else arguments), starting)
            stdout.flush()
            if isinstance(stdout.error, BrokenPipeError):  # the reader has closed it: not an error
                code = code or BROKEN_PIPE
            elif stdout.error is not None and not code:
                _print_error(
                    f"done, but standard output cannot be written: {stdout.error.strerror}"
                )
                code = OUTPUT_FAILED
    if ours:  # libraries would print the traceback of an interrupt while Python ends
        install_exit_handler(signal.SIGINT, code or 0)
    if code is not None:
        sys.exit(code)


def _exit_code(arguments: list[str], startup_handlers: ExitStack) -> int | None:
    """Run a command and return its exit code; None: it finished.

    Args:
        arguments: what follows `anytime`.
        startup_handlers: signal handlers, which are removed before the command runs.
    """
    try:
        _dispatch(arguments, startup_handlers)
    except Terminated as stopped:
        if stopped.message and is_rank_zero_process():
            _print_error(stopped.message)
        return int(stopped.code or 0)
    except SystemExit as stopped:  # after --help, or by a signal
        if isinstance(stopped.code, str):
            raise
        return stopped.code or 0
    except ReportedByRankZeroError:
        return 1
    except KeyboardInterrupt as error:
        if is_rank_zero_process():
            _print_error(str(error) or "interrupted")
        return INTERRUPTED
    except Exception as error:
        if os.environ.get("ANYTIME_TRACEBACK"):
            sys.excepthook(type(error), error, error.__traceback__)
        message, code = describe_error(error)
        _print_error(message)
        return code
    return None


def _dispatch(arguments: list[str], startup_handlers: ExitStack) -> None:
    """Import the module of a command, parse its arguments and run it."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"anytime-ar {version('anytime-ar')}")
        return
    arguments = upgrade_arguments(arguments)
    group = _commands_of(arguments[0])
    if group and (len(arguments) == 1 or arguments[1] in ("-h", "--help")):
        print("\n".join([f"usage: anytime {arguments[0]} COMMAND ...", "", *_summaries(group)]))
        return
    words = 2 if group else 1
    name, rest = " ".join(arguments[:words]), arguments[words:]
    if name not in COMMANDS:
        known = group or COMMANDS
        raise InputError(
            f"unknown command {name!r}{did_you_mean(name, known)}; choose one of {', '.join(known)}"
        )
    _check_current_folder()
    # A server imports and loads for seconds. SIGTERM may end it at once meanwhile.
    with exit_on_signal(signal.SIGTERM, 0) if name == "serve" else nullcontext():
        _quiet_libraries()
        if "torch" not in sys.modules:
            check_omp_num_threads(_print_error)
        module = _import_command(name)
        command = module.SUBCOMMANDS[arguments[1]] if group else module
        description = command.description if group else module.__doc__
        from anytime_ar.cli.parser import Parser  # this import takes longer than --help
        from anytime_ar.cli.settings import import_plugins

        if name.startswith("train"):  # the commands that take settings
            import_plugins(rest)
        parser = Parser(prog=f"anytime {name}", description=description)
        command.add_arguments(parser)
        parsed = parser.parse_args(parser.normalize_arguments(rest))
        startup_handlers.close()
        command.run(parsed)


def _commands_of(word: str) -> dict[str, str]:
    """Return the commands of two words that begin with a word, and their summaries."""
    return {name: what for name, what in COMMANDS.items() if name.startswith(f"{word} ")}


def _check_current_folder() -> None:
    """Check that the current folder exists, without which libraries end the process.

    Raises:
        InputError: it was deleted, or cannot be read.
    """
    try:
        os.getcwd()  # noqa: PTH109
    except OSError as error:
        raise InputError(
            f"the current folder cannot be used: {error.strerror}; change to one that exists"
        ) from error


def _quiet_libraries() -> None:
    """Silence routine messages of Fabric, the Hub and `datasets`, whose failures our errors report.

    Fabric sets its own level when it is imported.
    """
    import logging

    fabric = [f"lightning_fabric.utilities.{name}" for name in ("rank_zero", "distributed")]
    for library in (*fabric, "huggingface_hub", "datasets"):
        logging.getLogger(library).setLevel(logging.ERROR)


def _import_command(name: str) -> ModuleType:
    """Import the module of a command.

    The imported objects, mostly those of torch, stay until the process ends. In a process of our
    own the garbage collector pauses during the import and skips these objects later. That saves a
    quarter of the time of `import torch`.
    """
    where = f"anytime_ar.cli.{name.split()[0].replace('-', '_')}"
    if "torch" in sys.modules:  # another program calls `main`, so do not freeze its objects
        return import_module(where)
    gc.disable()
    try:
        return import_module(where)
    finally:
        gc.freeze()
        gc.enable()


def _overview() -> str:
    """Return the help text of `anytime` itself."""
    width = max(len(str(code)) for code in EXIT_CODES)
    return "\n".join(
        [
            "usage: anytime COMMAND ...",
            "",
            "Anytime generation: samples that can be cut off after any number of codes.",
            "",
            *_summaries(COMMANDS),
            "",
            "`anytime COMMAND --help` lists the options of a command.",
            "",
            "exit codes:",
            *(f"  {code:<{width}}  {what}" for code, what in EXIT_CODES.items()),
        ]
    )


def _summaries(commands: dict[str, str]) -> list[str]:
    """Return a line for each command."""
    width = max(map(len, commands))
    return [f"  {name:<{width}}  {what}" for name, what in commands.items()]


def _print_error(message: str) -> None:
    """Print an error in one line, and each of its details in one more."""
    lines = (" ".join(part.split()) for part in message.split(DETAIL_SEPARATOR))
    print(f"anytime: {DETAIL_SEPARATOR.join(lines)}", file=sys.stderr)
