"""`anytime COMMAND ...`: parses, calls the library, prints.

An error ends with one line on standard error and one of `EXIT_CODES`, never with a traceback. What
a command has written stays where it is, even if nobody can be told. Heavy imports happen inside the
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

from anytime_ar.cli.spelling import did_you_mean
from anytime_ar.cli.surroundings import (
    EXIT_CODES,
    INTERRUPTED,
    READER_LEFT,
    UNTOLD,
    explain,
    occupy_descriptors,
    outputs,
    tell_as_ours,
)
from anytime_ar.errors import DETAIL, InputError, ToldElsewhereError
from anytime_ar.interrupt import end_at_once, ended_at_once

_INTERRUPTED = b"anytime: interrupted\n"
COMMANDS = {
    "demo": "train on digits, sample at every budget, and show table and pictures",
    "train": "train an ordered autoencoder and its prior on a data set",
    "features": "train the classifier whose features judge samples",
    "evaluate": "measure quality and cost at every number of codes",
    "compare": "set the curves of several models side by side",
    "bench": "time codes a second and deadlines on this machine",
    "doctor": "show what is used here, what is missing, what would be faster",
    "serve": "serve models over HTTP, with a web page",
    "push": "upload a model to the Hugging Face Hub, with a model card",
    "sample": "draw pictures by codes, by seconds, by quality, or until Ctrl-C",
    "refine": "go on with a draw that was saved or interrupted",
    "encode": "turn pictures into codes",
    "decode": "turn codes, or any prefix of them, into pictures",
}
"""Each command is the module of that name beside this one, with `add_arguments` and `run`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit with its code, unless that is 0 and the caller a program.

    Args:
        arguments: what follows `anytime`; None: those of the process, which is ours then.
    """
    ours = arguments is None
    with ExitStack() as starting:
        if ours:
            starting.enter_context(ended_at_once(signal.SIGINT, INTERRUPTED, _INTERRUPTED))
            occupy_descriptors()
        with outputs() as told:
            if ours:
                tell_as_ours()
            code = _exit_code(list(sys.argv[1:] if arguments is None else arguments), starting)
            told.flush()
            if isinstance(told.error, BrokenPipeError):  # its reader has left: not an error
                code = code or READER_LEFT
            elif told.error is not None and not code:
                _complain(f"done, but standard output cannot be written: {told.error.strerror}")
                code = UNTOLD
    if ours:  # libraries would print the traceback of an interrupt while Python ends
        end_at_once(signal.SIGINT, code or 0)
    if code is not None:
        sys.exit(code)


def _exit_code(arguments: list[str], starting: ExitStack) -> int | None:
    """Run a command and return its exit code; None: it came to its end. What `starting` holds ends
    when the command begins its work."""
    try:
        _dispatch(arguments, starting)
    except SystemExit as stopped:  # after --help, or by a signal
        if isinstance(stopped.code, str):
            raise
        return stopped.code or 0
    except ToldElsewhereError:
        return 1
    except KeyboardInterrupt as error:
        _complain(str(error) or "interrupted")
        return INTERRUPTED
    except Exception as error:
        if os.environ.get("ANYTIME_TRACEBACK"):
            sys.excepthook(type(error), error, error.__traceback__)
        message, code = explain(error)
        _complain(message)
        return code
    return None


def _dispatch(arguments: list[str], starting: ExitStack) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"anytime-ar {version('anytime-ar')}")
        return
    name, *rest = arguments
    if name not in COMMANDS:
        raise InputError(
            f"unknown command {name!r}{did_you_mean(name, COMMANDS)}; choose one of "
            f"{', '.join(COMMANDS)}"
        )
    # To import and load takes a server seconds, in which there is nothing to bring to an end.
    with ended_at_once(signal.SIGTERM, 0) if name == "serve" else nullcontext():
        _quiet_libraries()
        module = _load(name)
        from anytime_ar.cli.parser import Parser  # takes longer than all that --help needs

        parser = Parser(prog=f"anytime {name}", description=module.__doc__)
        module.add_arguments(parser)
        parsed = parser.parse_args(parser.prepare(rest))
        starting.close()
        module.run(parsed)


def _quiet_libraries() -> None:
    """Silence what Fabric says on every run, and the Hub of each of its retries: our own errors say
    what came of it. (Fabric itself sets its level when it is imported.)"""
    import logging

    fabric = [f"lightning_fabric.utilities.{name}" for name in ("rank_zero", "distributed")]
    for library in (*fabric, "huggingface_hub", "datasets"):
        logging.getLogger(library).setLevel(logging.ERROR)


def _load(name: str) -> ModuleType:
    """Import the module of a command.

    What it imports, torch above all, stays until the process ends. In a process of our own the
    garbage collector pauses meanwhile and does not look at it again, neither later nor at the end:
    that takes a quarter of the time of `import torch`.
    """
    where = f"anytime_ar.cli.{name}"
    if "torch" in sys.modules:  # a program that calls `main`, whose objects are not ours to freeze
        return import_module(where)
    gc.disable()
    try:
        return import_module(where)
    finally:
        gc.freeze()
        gc.enable()


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: anytime COMMAND ...",
            "",
            "Anytime generation: samples that can be cut off after any number of codes.",
            "",
            *lines,
            "",
            "`anytime COMMAND --help` tells the options of a command.",
            "",
            "exit codes:",
            *(f"  {code:<{width}}  {what}" for code, what in EXIT_CODES.items()),
        ]
    )


def _complain(message: str) -> None:
    """Say what is wrong in one line, and details of it in one more each."""
    lines = (" ".join(part.split()) for part in message.split(DETAIL))
    print(f"anytime: {DETAIL.join(lines)}", file=sys.stderr)
