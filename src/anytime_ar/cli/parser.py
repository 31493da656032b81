"""Argument parsing with jsonargparse: YAML configurations with overrides, and errors in one line.

The help lists nested settings of a configuration only with `--help-all`. Options are written with
hyphens, or with underscores as the keys of configurations. jsonargparse derives options from these
keys, so the parser registers all options with underscores, and shows them with hyphens.
"""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Never, TypeVar

import yaml
from jsonargparse import (  # type: ignore[attr-defined]
    ActionConfigFile,
    ArgumentParser,
    DefaultHelpFormatter,
    Namespace,
    set_parsing_settings,
)
from pydantic import create_model

from anytime_ar.cli.console import closest, did_you_mean
from anytime_ar.cli.settings import (
    config_types_in,
    describe_type,
    expand_option,
    is_file,
    load_file,
    load_settings,
    merge,
    mistakes_in,
    option_of,
    option_settings,
    present_option,
    unions_in,
    without_replaced,
)
from anytime_ar.config import Config, ConfigUnion
from anytime_ar.errors import InputError
from anytime_ar.plugins import PartConfig
from anytime_ar.runtime.size_limits import check_yaml_size

# The docstrings of configuration fields are the help texts of their options.
set_parsing_settings(docstring_parse_attribute_docstrings=True)

ConfigT = TypeVar("ConfigT", bound=Config)

_OPTION_NAME = re.compile(r"^--([a-z][\w.-]*)")
_OPTION_IN_TEXT = re.compile(r"(?<![\w/-])--[a-z][\w.]*")
_NOISE = re.compile(
    r"For further information visit \S+|\[type=\w+, input_[^\]]*\]|(Parser key )?\"config\": *|"
    r"Parser key |; see `[^`]*`"
)
_MANY_OPTIONS = re.compile(r"(could match(?: \S+,){3}) .*")
_EMPTY_TEXT = re.compile(r"argument (\S+): invalid literal_(\w+) value: ''")
_IS_OPTION = re.compile(r"-(?![\d.]|$)")
_HELP_ALL = "--help-all"
_ABSENT = object()
_MAX_NESTING = 100
"""Maximum number of brackets in one argument."""


class _Formatter(DefaultHelpFormatter):
    """A help formatter that describes types in words."""

    def _get_type_str(self, action: argparse.Action) -> str | None:
        hint = type_hint_of(action)
        return None if hint is None else describe_type(hint)


class _HelpAll(argparse.Action):
    """The action of `--help-all`, which prints the help with all settings."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print the complete help and exit."""
        assert isinstance(parser, Parser)
        print(parser.format_help(everything=True), end="")
        parser.exit()


class Parser(ArgumentParser):
    """An `ArgumentParser` that raises `InputError` instead of printing its usage."""

    config: type[Config] | None = None
    """The configuration that the command reads; None: it reads none."""
    argument_hook: Callable[[list[str]], list[str]] | None = None
    """Function of a command that rewrites its arguments before they are parsed."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Create a parser whose help describes types in words."""
        super().__init__(*arguments, formatter_class=_Formatter, **options)
        self._file_settings: dict[str, Any] = {}
        self._union_defaults: dict[str, Any] = {}
        self._parts: dict[str, dict[str, Any]] = {}

    def add_argument(self, *names: Any, **options: Any) -> Any:
        """Add an argument, whose long names may contain hyphens."""
        return super().add_argument(*map(_with_underscores, names), **options)

    def error(self, message: str, ex: Exception | None = None) -> Never:  # noqa: ARG002
        """Raise `InputError` with the message, a suggestion, and a hint to `--help`."""
        message = _MANY_OPTIONS.sub(r"\1 and others", message)
        message = _EMPTY_TEXT.sub(r"\1: expected a \2, got nothing", message)
        text = self._wrong_value(message) or self._missing_arguments(message)
        text = text or " ".join(_NOISE.sub("", message).split())
        settings = set() if self.config is None else self.config.model_fields.keys()
        about_setting = not settings.isdisjoint(re.findall(r"--(\w+)", text))
        raise InputError(
            f"{_kebab_case(text)}{self._suggestion(message)}; see "
            f"`{self.prog} {_HELP_ALL if about_setting else '--help'}`"
        )

    def format_help(self, *arguments: Any, everything: bool = False) -> str:
        """Return the help, with nested settings only if `everything` is set."""
        if self.config is None:
            return _kebab_case(super().format_help(*arguments))
        fields = self.config.model_fields.items()
        inside = [name for name, field in fields if config_types_in(field.annotation)]
        whole = {name for name, field in fields if isinstance(field.annotation, type)}
        hidden = [
            action
            for action in self._actions
            if action.dest.endswith(".help")  # of one class; --help-all has the settings of all
            or not (everything or ("." not in action.dest and action.dest not in whole & {*inside}))
        ]
        with self._shown_defaults(self.config, self._actions), _hidden(hidden):
            text = _kebab_case(super().format_help(*arguments))
        if everything:
            return text + "".join(self._help_of_optional_settings(self.config))
        settings = textwrap.fill(
            f"Settings inside {', '.join(inside)} are given as --data.size 64 and the like.", 80
        )
        return f"{text}\n{settings}\n`{self.prog} {_HELP_ALL}` lists them all.\n"

    def _help_of_optional_settings(self, config: type[Config]) -> Iterator[str]:
        """Yield the help of settings inside of others that may be null."""
        for action in self._actions:
            inside = config_types_in(type_hint_of(action))
            if inside and not action.dest.endswith(".help"):
                parser = Parser(prog=self.prog, usage=argparse.SUPPRESS, add_help=False)
                parser.add_class_arguments(inside[0], action.dest)
                options = [option for option in parser._actions if option.dest != action.dest]
                whole = [
                    option
                    for option in parser._actions
                    if option.dest == action.dest or option.dest.endswith(".help")
                ]
                with self._shown_defaults(config, options), _hidden(whole):
                    yield "\n" + _kebab_case(parser.format_help())

    @contextmanager
    def _shown_defaults(
        self, config: type[Config], options: Iterable[argparse.Action]
    ) -> Iterator[None]:
        """Give options in the block the values of the files, else their defaults."""
        try:
            values = config.parse(self._file_settings, origin="").model_dump(mode="json")
        except InputError:  # options have to complete it
            values = self._file_settings
        before = [(action, action.default) for action in options]
        for action, _ in before:
            action.default = self._union_defaults.get(action.dest, action.default)
            value: Any = values
            for name in action.dest.split("."):
                value = value.get(name, _ABSENT) if isinstance(value, dict) else _ABSENT
            if isinstance(value, dict):  # its settings have lines of their own
                value = "{...}"
            if value is not _ABSENT and action.default != argparse.SUPPRESS:
                action.default = value
        try:
            yield
        finally:
            for action, default in before:
                action.default = default

    def add_config(self, config: type[Config]) -> None:
        """Add the arguments of a configuration.

        These are a first argument with its name or file, `--key value` and `--print-config`.
        """
        self.config = config
        self.usage = (
            f"{self.prog} CONFIG [options]   (CONFIG: {', '.join(config_names())}, or a file)"
        )
        self.add_argument("--config", action=ActionConfigFile, help="YAML file of settings")
        self.add_argument(
            _HELP_ALL,
            action=_HelpAll,
            nargs=0,
            default=argparse.SUPPRESS,
            help="Show all settings as well and exit.",
        )
        unions = unions_in(config)
        shown = _without_part_types(config)
        self.add_class_arguments(shown, as_group=False, skip=set(unions))
        for name, union in unions.items():
            self._add_union(name, union.members())

    def _add_union(self, key: str, members: Mapping[str, type[ConfigUnion]]) -> None:
        """Add the settings of all members of a union, grouped by the members that have them.

        They have no default but in the help, so that the namespace holds only settings that are
        given.
        """
        first_member = next(iter(members.values()))
        chooser = first_member.discriminator
        self._union_defaults[f"{key}.{chooser}"] = first_member.default_member
        owners: dict[str, tuple[str, ...]] = {}
        inside: dict[str, dict[str, type[ConfigUnion]]] = {}
        for name, member in members.items():
            unions = unions_in(member)
            for setting in member.model_fields:
                if setting not in unions and setting != chooser:
                    owners[setting] = (*owners.get(setting, ()), name)
            for setting, union in unions.items():
                inside[setting] = {**union.members(), **inside.get(setting, {})}
        choices = Literal[tuple(members)]  # type: ignore[valid-type]
        what = "; ".join(f"{name}: {_summary(member)}" for name, member in members.items())
        group = self.add_argument_group(f"{key}, whose settings depend on {chooser}")
        group.add_argument(f"--{key}.{chooser}", type=choices, default=argparse.SUPPRESS, help=what)
        for names in dict.fromkeys(owners.values()):
            if len(names) < len(members):
                group = self.add_argument_group(f"{key} with {chooser} {' or '.join(names)}")
            member, first = members[names[0]], len(self._actions)
            others = {name for name in member.model_fields if owners.get(name) != names}
            group.add_class_arguments(member, key, as_group=False, skip=others)
            for action in self._actions[first:]:
                if action.default != argparse.SUPPRESS:
                    self._union_defaults[action.dest] = action.default
                    action.default = argparse.SUPPRESS
        for setting, choice in inside.items():
            self._add_union(f"{key}.{setting}", choice)

    def dump(self, *arguments: Any, **options: Any) -> str:
        """Return the settings as text, in their order, with defaults of the members of unions."""
        text = super().dump(*arguments, **options)
        if self.config is None or options.get("skip_default"):
            return text
        values = yaml.safe_load(text)
        own = {name: values.pop(name) for name in self.config.model_fields if name in values}
        own |= self._parts
        settings = self.config.parse(own, origin="settings").model_dump(mode="json")
        return yaml.safe_dump(settings | values, sort_keys=False, allow_unicode=True)

    def normalize_arguments(self, arguments: list[str]) -> list[str]:
        """Replace a leading configuration name by `--config FILE`, and hyphens in options by `_`.

        Raises:
            InputError: an argument is nested too deeply, or there is no such configuration.
        """
        arguments = [
            _OPTION_NAME.sub(lambda name: _with_underscores(name[0]), argument)
            for argument in arguments
        ]
        for argument in arguments:
            if argument.count("[") + argument.count("{") > _MAX_NESTING:
                raise InputError(f"{argument[:20]}...: is nested deeper than any value")
        if self.config is None:
            return arguments if self.argument_hook is None else self.argument_hook(arguments)
        if arguments and not arguments[0].startswith("-"):
            arguments = ["--config", str(config_path(arguments[0])), *arguments[1:]]
        if self.argument_hook is not None:
            arguments = self.argument_hook(arguments)
        return self._normalize_settings(self.config, arguments)

    def _normalize_settings(self, config: type[Config], arguments: list[str]) -> list[str]:
        """Return arguments whose settings are checked and have their present names.

        A file loses the settings of a choice in whose place a later file or an option chooses
        another: the layout of a shipped configuration, for example.
        """
        kept: list[str] = []
        files: list[tuple[int, dict[str, Any]]] = []
        given: dict[str, Any] = {}
        spelt: dict[str, str] = {}  # by present name
        at = 0
        while at < len(arguments):
            argument, following = arguments[at], arguments[at + 1 : at + 2]
            option, equals, value = argument.partition("=")
            separate = not equals and bool(following) and not _IS_OPTION.match(following[0])
            value = following[0] if separate else value
            at += 1
            if option == "--config" and (equals or separate):
                files.append((len(kept), self._load_file(config, value)))
                kept.append(argument)
            elif not option.startswith("--") or option.endswith(".help"):
                kept.append(argument)
                continue
            elif (present := present_option(config, option[2:], value)) is not None:
                name, value = present
                if "." not in name and name not in config.model_fields:
                    kept.append(argument)
                    continue
                settings = option_settings(config, name, value)
                self._refuse(mistakes_in([config], settings, text=value, spell=option_of))
                given = merge(given, settings)
                if spelt.setdefault(name, option) != option:
                    both = f"{_kebab_case(spelt[name])} and {_kebab_case(option)}"
                    raise InputError(f"{both} are two names of one setting; keep one")
                if equals or separate:
                    kept += expand_option(config, name, settings, value)
                else:  # the parser says what is missing
                    kept.append(f"--{name}")
            at += separate
        for at, settings in reversed(files):
            left = without_replaced(config, settings, given)
            kept[at] = f"--config={json.dumps(left, default=str)}"
            given = merge(left, given)
            self._file_settings = merge(left, self._file_settings)
        return self._without_parts(config, given, kept)

    def _without_parts(
        self, config: type[Config], given: Mapping[str, Any], arguments: list[str]
    ) -> list[str]:
        """Return arguments without the settings of parts of others, which are kept as they are.

        jsonargparse does not choose between classes with different keys.
        """
        for name, field in config.model_fields.items():
            value = given.get(name)
            if (
                PartConfig in config_types_in(field.annotation)
                and isinstance(value, dict)
                and "kind" in value
            ):
                self._parts[name] = value
        if not self._parts:
            return arguments
        kept = []
        for argument in arguments:
            option, _, text = argument.partition("=")
            if option == "--config":
                settings = json.loads(text)
                left = {name: settings[name] for name in settings if name not in self._parts}
                kept.append(f"--config={json.dumps(left)}")
            elif option.removeprefix("--").partition(".")[0] not in self._parts:
                kept.append(argument)
        return kept

    def parse_args(self, *arguments: Any, **options: Any) -> Any:
        """Parse arguments, and add the settings of parts of others to what jsonargparse read."""
        parsed = super().parse_args(*arguments, **options)
        for name, value in self._parts.items():
            parsed[name] = value
        return parsed

    def _load_file(self, config: type[Config], path_or_text: str) -> dict[str, Any]:
        """Return the settings of a file, a shipped configuration or YAML text, checked."""
        origin = path_or_text
        if ":" in path_or_text and not is_file(path_or_text):
            origin = "--config"
            settings = load_settings(config, path_or_text, origin)
        else:
            settings = load_file(config, config_path(path_or_text))
        others = {action.dest for action in self._actions} - config.model_fields.keys()
        own = {name: value for name, value in settings.items() if name not in others}
        self._refuse(mistakes_in([config], own), origin)
        return settings

    def _refuse(self, mistakes: Iterable[str], origin: str = "") -> None:
        """Raise `InputError` if there are mistakes in settings."""
        if text := "; ".join(mistakes):
            place = f"{origin}: " if origin else ""
            raise InputError(f"{place}{text}; see `{self.prog} {_HELP_ALL}`")

    def _wrong_value(self, message: str) -> str | None:
        """Return which option expected what, from a message of jsonargparse; None: not known."""
        key = re.search(r'Parser key "([^"]+)"', message)
        value = re.search(r"(?:Given value|Got value): (.*)", message)
        if key is None:
            return None
        action = next((a for a in self._actions if a.dest == key[1]), None)
        hint = None if action is None else type_hint_of(action)
        if action is None or value is None or hint is None or config_types_in(hint):
            return None
        should = re.search(r"Input should be ([^\[\n]*)", message)
        limit = should[1].strip() if should else "valid"
        expected = describe_type(hint) if "valid" in limit else limit
        return f"{_name_of(action)}: expected {expected}, got {value[1]}"

    def _missing_arguments(self, message: str) -> str | None:
        """Return which arguments are required; None: the message is about something else."""
        names = re.search(r"arguments are required: (.*)", message)
        if names is None:
            return None
        options = {action.dest: _name_of(action) for action in self._actions}
        missing = [options.get(name, name) for name in names[1].split(", ")]
        return f"the following arguments are required: {', '.join(missing)}"

    def _suggestion(self, message: str) -> str:
        """Return what was meant by an argument that is not known, or an empty string."""
        unknown = re.search(r"unrecognized arguments: ([^\s=]+)", message)
        if unknown is None:
            return ""
        if self.config is not None and unknown[1] in config_names():
            return f"; a configuration comes first, as `{self.prog} {unknown[1]} --seed 1`"
        names = [name for action in self._actions for name in action.option_strings]
        known = {_kebab_case(name).removeprefix("--").removesuffix("+") for name in names}
        near = closest(_kebab_case(unknown[1]).removeprefix("--"), known)
        return "" if near is None else f", did you mean '--{near}'?"


def _without_part_types(config: type[Config]) -> type[Config]:
    """Return a class whose settings are of our own types where they may be of parts of others too.

    jsonargparse takes no nested options of such settings; see `Parser._without_parts`.
    """
    own: dict[str, Any] = {}
    for name, field in config.model_fields.items():
        inside = config_types_in(field.annotation)
        if inside[1:] == [PartConfig]:
            own[name] = (inside[0] | None, field)
    return create_model(config.__name__, __base__=config, **own) if own else config


def _name_of(action: argparse.Action) -> str:
    """Return the name of an argument in messages: its longest one, without the `+` of lists."""
    names = [name for name in action.option_strings if not name.endswith("+")]
    return max(names, key=len, default=action.dest)


@contextmanager
def _hidden(actions: Iterable[argparse.Action]) -> Iterator[None]:
    """Leave options out of the help in the block."""
    before = [(action, action.help) for action in actions]
    for action, _ in before:
        action.help = argparse.SUPPRESS
    try:
        yield
    finally:
        for action, text in before:
            action.help = text


def _with_underscores(name: str) -> str:
    """Return a long option as the parser registers it; other names are returned as they are."""
    return "--" + name[2:].replace("-", "_") if name.startswith("--") else name


def _kebab_case(text: str) -> str:
    """Write all long options in a text with hyphens, and without the backspace of jsonargparse."""
    return _OPTION_IN_TEXT.sub(lambda name: name[0].replace("_", "-"), text).replace(" \b", "")


def literal_path(given: str | Path | None) -> Path | None:
    """Return the path of an option exactly as given; None: for configurations that set null.

    As a type it avoids `Path`, which the parser reads as YAML, where `#` begins a comment.
    """
    if isinstance(given, Path):  # the parser checks values again
        return given
    text = literal_text(given)
    return None if text is None else Path(text)


def literal_text(given: str | None) -> str | None:
    """Return the text of an option exactly as given: a path, URL or name; see `literal_path`.

    Raises:
        ValueError: it is empty, or a YAML file holds something else than text.
    """
    if given is not None and not (isinstance(given, str) and given):
        raise ValueError(f"expected a text of at least one character, got {given!r}")
    return given


def type_hint_of(action: argparse.Action) -> Any:
    """Return the type hint of an option; None: it has none."""
    return action.type if action.type is not None else getattr(action, "_typehint", None)


def _summary(config: type[Config]) -> str:
    """Return the first sentence of the docstring of a configuration."""
    return (config.__doc__ or "").split(".")[0]


def config_names() -> list[str]:
    """Return the names of the configurations that come with the package."""
    root = resources.files("anytime_ar") / "configs"
    return sorted(entry.name.removesuffix(".yaml") for entry in root.iterdir())


def config_path(name: str) -> Path:
    """Return the file of a configuration by its name or path.

    Raises:
        InputError: there is no such configuration.
    """
    if name in config_names():
        return Path(str(resources.files("anytime_ar") / "configs" / f"{name}.yaml"))
    if is_file(name):
        check_yaml_size(Path(name))
        return Path(name)
    if is_file(f"{name}/config.yaml"):
        raise InputError(
            f"{name} is a run; go on with it by `anytime train --resume {name}`, or begin another "
            f"with its settings by `anytime train {Path(name) / 'config.yaml'} --out FOLDER`"
        )
    hint = (
        "; to go on with a run, pass its folder after --resume" if Path(name).name != name else ""
    )
    raise InputError(
        f"no configuration {name!r}{did_you_mean(name, config_names())}: neither one of "
        f"{', '.join(config_names())} nor a file{hint}"
    )


def read_config(config_type: type[ConfigT], arguments: Namespace) -> ConfigT:
    """Return a configuration from the parsed arguments."""
    values: dict[str, Any] = arguments.as_dict()
    return config_type.parse(
        {name: values[name] for name in config_type.model_fields if name in values},
        origin="settings",
    )
