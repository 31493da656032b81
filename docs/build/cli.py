"""Generate docs/reference/cli.md: each command with all of its options, from the parsers."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from tables import table, type_words


def kebab(option: str) -> str:
    """Return an option as it is written on the command line."""
    return option.replace("_", "-")


def commands() -> dict[str, str]:
    """Return each command and its line in `anytime --help`."""
    return dict(import_module("anytime_ar.cli.main").COMMANDS)


def parser_of(name: str) -> Any:
    """Build the parser of a command, named as on the command line (`bulk sample`)."""
    first, *rest = name.split()
    module = import_module(f"anytime_ar.cli.{first.replace('-', '_')}")
    command: Any = module.SUBCOMMANDS[rest[0]] if rest else module
    description = getattr(command, "description", None) or module.__doc__
    parser = import_module("anytime_ar.cli.parser").Parser(
        prog=f"anytime {name}", description=description
    )
    command.add_arguments(parser)
    return parser


def _is_setting(action: argparse.Action, config: Any) -> bool:
    """Say whether an option is a key of the configuration, which has a page of its own."""
    return config is not None and action.dest.partition(".")[0] in config.model_fields


def options_of(name: str) -> Iterator[argparse.Action]:
    """Yield the arguments of a command, except --help and configuration keys."""
    parser = parser_of(name)
    for action in parser._actions:
        hidden = action.help == argparse.SUPPRESS or "--help" in action.option_strings
        if not hidden and not _is_setting(action, parser.config):
            yield action


def _row(action: argparse.Action) -> list[str]:
    hint = action.type if action.type is not None else getattr(action, "_typehint", None)
    if action.choices is not None:
        kind = " or ".join(f"`{choice}`" for choice in action.choices)
    elif action.nargs == 0:
        kind = "flag"
    else:
        kind = type_words(hint) if hint is not None else "text"
    names = ", ".join(f"`{kebab(option)}`" for option in action.option_strings)
    default = action.default
    shown = default in (None, False, argparse.SUPPRESS) or not action.option_strings
    text = kebab_in_prose((action.help or "").replace("%(default)s", str(default)))
    return [names or f"`{action.dest.upper()}`", kind, "" if shown else f"`{default}`", text]


def kebab_in_prose(text: str) -> str:
    """Write the options that a text names as on the command line."""
    return " ".join(
        kebab(word) if word.lstrip("(`'").startswith("--") else word for word in text.split(" ")
    )


def _exit_codes() -> str:
    for module in ("anytime_ar.cli.console", "anytime_ar.cli.surroundings"):
        try:
            codes = import_module(module).EXIT_CODES
        except ModuleNotFoundError:
            continue
        return table(["code", "meaning"], [[f"`{code}`", text] for code, text in codes.items()])
    raise ModuleNotFoundError("no module of anytime_ar.cli defines EXIT_CODES")


def page() -> str:
    """Return the page."""
    parts = [
        "# Command line\n",
        "Which commands does `anytime` have, and which options does each take?\n",
        "`anytime COMMAND --help` prints the same. Options are written with hyphens; underscores "
        "are accepted too. `anytime train` and the other commands that read a configuration also "
        "take every [configuration key](configuration.md) as an option, "
        "such as `--data.size 64`.\n",
        table(
            ["command", "what it does"],
            [[f"[`{n}`](#anytime-{n.replace(' ', '-')})", text] for n, text in commands().items()],
        ),
        "\n## Exit codes\n",
        _exit_codes(),
    ]
    for name in commands():
        parser = parser_of(name)
        rows = [_row(action) for action in options_of(name)]
        parts += [
            f"\n## anytime {name}\n",
            kebab_in_prose(inspect.cleandoc(parser.description or "")) + "\n",
        ]
        if parser.config is not None:
            parts.append("It also takes every [configuration key](configuration.md).\n")
        parts.append(table(["option", "value", "default", "meaning"], rows))
    return "\n".join(parts) + "\n"
