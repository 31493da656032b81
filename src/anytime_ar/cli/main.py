"""`anytime COMMAND ...`: parses, calls the library, prints.

Bad input ends with one line on standard error and exit code 2, a failed run with exit code 1; never
with a traceback. Heavy imports happen inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from types import ModuleType

from anytime_ar.errors import AnytimeError, InputError, ToldElsewhereError
from anytime_ar.interrupt import ended_by_term

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
    """Run a command and exit with its code.

    Args:
        arguments: what follows `anytime`; None: those of the process.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # Fabric announces its precision and its processes on every run, the Hub each of its retries;
    # our own errors say what came of it. (Fabric itself sets its level when it is imported.)
    fabric = [f"lightning_fabric.utilities.{name}" for name in ("rank_zero", "distributed")]
    for library in (*fabric, "huggingface_hub", "datasets"):
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        _dispatch(arguments)
        sys.stdout.flush()
    except ToldElsewhereError:
        sys.exit(1)
    except InputError as error:
        _complain(error, code=2)
    except AnytimeError as error:
        _complain(error, code=1)
    except KeyboardInterrupt as error:
        print(f"anytime: {str(error) or 'interrupted'}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has left: not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"anytime-ar {version('anytime-ar')}")
        return
    name, *rest = arguments
    if name not in COMMANDS:
        raise InputError(f"unknown command {name!r}; choose one of {', '.join(COMMANDS)}")
    # To import and load takes a server seconds, in which there is nothing to bring to an end.
    with ended_by_term() if name == "serve" else nullcontext():
        module = _load(name)
        from anytime_ar.cli.parser import Parser  # takes longer than all that --help needs

        parser = Parser(prog=f"anytime {name}", description=module.__doc__)
        module.add_arguments(parser)
        module.run(parser.parse_args(parser.prepare(rest)))


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
        ]
    )


def _complain(error: AnytimeError, *, code: int) -> None:
    print(f"anytime: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(code)
