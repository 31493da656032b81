"""Argument parsing with jsonargparse: YAML configurations with overrides, and errors in one line.

The help lists nested settings of a configuration only with `--help-all`. Options are written with
hyphens, or with underscores as the keys of configurations. jsonargparse derives options from these
keys, so the parser registers all options with underscores, and shows them with hyphens.
"""

from __future__ import annotations

import argparse
import re
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Never, TypeVar, Union, get_args, get_origin

import yaml
from jsonargparse import (  # type: ignore[attr-defined]
    ActionConfigFile,
    ArgumentParser,
    DefaultHelpFormatter,
    Namespace,
    set_parsing_settings,
)
from pydantic.fields import FieldInfo

from anytime_ar.cli.console import did_you_mean
from anytime_ar.config import Config, ConfigUnion
from anytime_ar.errors import InputError
from anytime_ar.legacy import upgrade, warn_renamed
from anytime_ar.runtime.files import read_text
from anytime_ar.runtime.size_limits import check_yaml_size

# The docstrings of configuration fields are the help texts of their options.
set_parsing_settings(docstring_parse_attribute_docstrings=True)

ConfigT = TypeVar("ConfigT", bound=Config)

_OPTION_NAME = re.compile(r"^--([a-z][\w.-]*)")
_OPTION_IN_TEXT = re.compile(r"(?<![\w/-])--[a-z][\w.]*")
_NOISE = re.compile(r"For further information visit \S+|\[type=\w+, input_[^\]]*\]|Parser key ")
_HELP_ALL = "--help-all"
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

    def add_argument(self, *names: Any, **options: Any) -> Any:
        """Add an argument, whose long names may contain hyphens."""
        return super().add_argument(*map(_with_underscores, names), **options)

    def error(self, message: str, ex: Exception | None = None) -> Never:  # noqa: ARG002
        """Raise `InputError` with the message, a suggestion, and a hint to `--help`."""
        text = self._wrong_value(message) or self._missing_arguments(message)
        text = text or " ".join(_NOISE.sub("", message).split())
        raise InputError(
            f"{_kebab_case(text)}{self._suggestion(message)}; see `{self.prog} --help`"
        )

    def format_help(self, *arguments: Any, everything: bool = False) -> str:
        """Return the help, with nested settings only if `everything` is set."""
        if self.config is None or everything:
            return _kebab_case(super().format_help(*arguments))
        fields = self.config.model_fields.items()
        inside = [name for name, field in fields if _config_types_in(field.annotation)]
        whole = {name for name, field in fields if isinstance(field.annotation, type)}
        hidden = [a for a in self._actions if "." in a.dest or a.dest in whole.intersection(inside)]
        help_texts = [action.help for action in hidden]
        for action in hidden:
            action.help = argparse.SUPPRESS
        try:
            text = _kebab_case(super().format_help(*arguments))
        finally:
            for action, help_text in zip(hidden, help_texts, strict=True):
                action.help = help_text
        settings = textwrap.fill(
            f"Settings inside {', '.join(inside)} are given as --data.size 64 and the like; "
            f"`{self.prog} {_HELP_ALL}` lists them all.",
            80,
        )
        return f"{text}\n{settings}\n"

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
        unions = _unions_in(config)
        self.add_class_arguments(config, as_group=False, skip=set(unions))
        for name, union in unions.items():
            self._add_union(name, union.members())

    def _add_union(self, key: str, members: Mapping[str, type[ConfigUnion]]) -> None:
        """Add the settings of all members of a union, grouped by the members that have them.

        They have no default, so that the namespace holds only settings that are given.
        """
        chooser = next(iter(members.values())).discriminator
        owners: dict[str, tuple[str, ...]] = {}
        inside: dict[str, dict[str, type[ConfigUnion]]] = {}
        for name, member in members.items():
            unions = _unions_in(member)
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
                    default = "null" if action.default is None else action.default
                    action.help = f"{action.help} Default: {default}."
                    action.default = argparse.SUPPRESS
        for setting, choice in inside.items():
            self._add_union(f"{key}.{setting}", choice)

    def dump(self, *arguments: Any, **options: Any) -> str:
        """Return the settings as text, with the defaults of the chosen members of unions."""
        text = super().dump(*arguments, **options)
        if self.config is None or options.get("skip_default"):
            return text
        values = yaml.safe_load(text)
        for name, union in _unions_in(self.config).items():
            member = union.parse(values.get(name) or {}, origin=name)
            values[name] = member.model_dump(mode="json")
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)

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
            return arguments
        if arguments and not arguments[0].startswith("-"):
            arguments = ["--config", str(config_path(arguments[0])), *arguments[1:]]
        if self.argument_hook is not None:
            arguments = self.argument_hook(arguments)
        dropped: set[int] = set()
        for at, argument in enumerate(arguments):
            if argument == "--config" and at + 1 < len(arguments):
                arguments[at + 1] = _present_settings(self.config, arguments[at + 1])
            elif argument.startswith("--config="):
                path = argument.removeprefix("--config=")
                arguments[at] = f"--config={_present_settings(self.config, path)}"
            elif argument.startswith("--"):
                option, equals, value = argument[2:].partition("=")
                following = arguments[at + 1 : at + 2]
                given = value if equals else (following[0] if following else "")
                separate = not equals and bool(following) and not following[0].startswith("-")
                present = _present_option(self.config, option, given)
                if present is None:
                    dropped |= {at, at + separate}
                    continue
                option, given = present
                arguments[at] = f"--{option}{equals}{given if equals else ''}"
                if separate:
                    arguments[at + 1] = given
        return [argument for at, argument in enumerate(arguments) if at not in dropped]

    def _wrong_value(self, message: str) -> str | None:
        """Return which option expected what, from a message of jsonargparse; None: not known."""
        key = re.search(r'Parser key "([^"]+)"', message)
        value = re.search(r"(?:Given value|Got value): (.*)", message)
        if key is None:
            return None
        action = next((a for a in self._actions if a.dest == key[1]), None)
        hint = None if action is None else type_hint_of(action)
        if action is None or value is None or hint is None or _config_types_in(hint):
            return None
        should = re.search(r"Input should be ([^\[\n]*)", message)
        expected = should[1].strip() if should else describe_type(hint)
        name = max(action.option_strings, key=len, default=key[1])
        return f"{name}: expected {expected}, got {value[1]}"

    def _missing_arguments(self, message: str) -> str | None:
        """Return which arguments are required; None: the message is about something else."""
        names = re.search(r"arguments are required: (.*)", message)
        if names is None:
            return None
        options = {a.dest: max(a.option_strings, key=len, default=a.dest) for a in self._actions}
        missing = [options.get(name, name) for name in names[1].split(", ")]
        return f"the following arguments are required: {', '.join(missing)}"

    def _suggestion(self, message: str) -> str:
        """Return a question that suggests the closest option or setting for a misspelt one."""
        option = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
        if option:
            names = [name for action in self._actions for name in action.option_strings]
            names += [f"--{key}" for key in self._config_keys()]
            return did_you_mean(_kebab_case(option[1]), map(_kebab_case, names))
        setting = re.search(r"option '([^']+)'", message, re.IGNORECASE)
        if setting and "accept" in message:
            return did_you_mean(setting[1], {key.rpartition(".")[2] for key in self._config_keys()})
        return ""

    def _config_keys(self) -> Iterator[str]:
        """Yield the dotted names of all settings of the configuration."""
        if self.config is not None:
            yield from _iter_keys(self.config)


def _with_underscores(name: str) -> str:
    """Return a long option as the parser registers it; other names are returned as they are."""
    return "--" + name[2:].replace("-", "_") if name.startswith("--") else name


def _kebab_case(text: str) -> str:
    """Write all long options in a text with hyphens, which leaves its length as it is."""
    return _OPTION_IN_TEXT.sub(lambda name: name[0].replace("_", "-"), text)


def literal_path(given: str | None) -> Path | None:
    """Return the path of an option exactly as given; None: for configurations that set null.

    As a type it avoids `Path`, which the parser reads as YAML, where `#` begins a comment.
    """
    return None if given is None else Path(given)


def literal_text(given: str | None) -> str | None:
    """Return the text of an option exactly as given: a path, URL or name; see `literal_path`."""
    return given


_TYPE_NAMES = {literal_path: "path", literal_text: "text"}
"""What the help calls the types of literal options."""


def type_hint_of(action: argparse.Action) -> Any:
    """Return the type hint of an option; None: it has none."""
    return action.type if action.type is not None else getattr(action, "_typehint", None)


def describe_type(hint: Any) -> str:
    """Return a type hint in words: `int`, `path or null`, `list of float`, `mean or max`."""
    origin, inside = get_origin(hint), get_args(hint)
    if hint is None or hint is type(None):
        return "null"
    if origin is Annotated:
        return describe_type(inside[0])
    if origin is Literal:
        return " or ".join(str(value) for value in inside)
    if origin in (Union, types.UnionType):
        words = " or ".join(map(describe_type, inside)).split(" or ")
        return " or ".join(dict.fromkeys(words))
    if origin in (list, tuple):
        return f"list of {describe_type(inside[0])}"
    if hint in _TYPE_NAMES:
        return _TYPE_NAMES[hint]
    if isinstance(hint, type) and issubclass(hint, Config):
        return "settings"
    return str(getattr(hint, "__name__", hint))


def _config_types_in(hint: Any) -> list[type[Config]]:
    """Return the configuration classes inside a type hint."""
    if isinstance(hint, type) and issubclass(hint, Config):
        return [hint]
    return [config for inside in get_args(hint) for config in _config_types_in(inside)]


def _unions_in(config: type[Config]) -> dict[str, type[ConfigUnion]]:
    """Return the settings of a configuration that are unions, by name."""
    fields = {name: field.annotation for name, field in config.model_fields.items()}
    return {
        name: hint
        for name, hint in fields.items()
        if isinstance(hint, type) and issubclass(hint, ConfigUnion)
    }


def _members(config: type[Config]) -> list[type[Config]]:
    """Return the members of a union; any other configuration alone."""
    return [*config.members().values()] if issubclass(config, ConfigUnion) else [config]


def _field(config: type[Config], name: str) -> FieldInfo | None:
    """Return a field of a configuration, or of the first member of a union that has it."""
    found = (member.model_fields.get(name) for member in _members(config))
    return next((field for field in found if field is not None), None)


def _summary(config: type[Config]) -> str:
    """Return the first sentence of the docstring of a configuration."""
    return (config.__doc__ or "").split(".")[0]


def _iter_keys(config: type[Config], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of the settings of a configuration, depth first."""
    for member in _members(config):
        for name, field in member.model_fields.items():
            yield prefix + name
            for inside in _config_types_in(field.annotation):
                yield from _iter_keys(inside, f"{prefix}{name}.")


def _present_settings(config: type[Config], path_or_text: str) -> str:
    """Return the path of a configuration file that the parser can read, else the text of it.

    The parser reads only UTF-8 files and present names, but takes text in place of a path.
    """
    path = Path(path_or_text)
    if not path.is_file():
        return path_or_text
    text = read_text(path)
    check_yaml_size(path)
    _check_settings(text, path_or_text)
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:  # a tag that is not of YAML, such as !!python
        raise _yaml_error(error, path_or_text) from error
    present = _upgrade_settings(config, values)
    if present != values:
        return yaml.safe_dump(present, sort_keys=False, allow_unicode=True)
    return path_or_text if text.encode() == path.read_bytes() else text


def _upgrade_settings(config: type[Config], values: Any, *, warn: bool = True) -> Any:
    """Return settings under their present names, warning of the others."""
    if not isinstance(values, dict):
        return values
    classes = [base.__name__ for base in config.__mro__]
    present = upgrade(classes, values)
    for old in values if warn else ():
        (new,) = upgrade(classes, {old: None})
        if old not in present and new != old:
            warn_renamed(str(old), str(new))
    for name, value in present.items():
        field = _field(config, name)
        inside = [] if field is None else _config_types_in(field.annotation)
        if inside:
            present = present | {name: _upgrade_settings(inside[0], value, warn=warn)}
    return present


def _present_option(config: type[Config], option: str, value: str) -> tuple[str, str] | None:
    """Return a dotted option and its value under their present names, warning of others.

    None: the option chooses what is so anyway, and has no name any more.
    """
    values: Any = value
    for name in reversed(option.split(".")):
        values = {name: values}
    values, names = _upgrade_settings(config, values, warn=False), []
    while isinstance(values, dict) and values:
        ((name, values),) = values.items()
        names.append(name)
    if values == {}:
        return None
    present = ".".join(names)
    if present != option:
        warn_renamed(_kebab_case(f"--{option}"), _kebab_case(f"--{present}"))
    return present, str(values)


def _check_settings(text: str, origin: str) -> None:
    """Refuse text that is not YAML or that holds no settings."""
    try:
        events = yaml.parse(text, yaml.SafeLoader)
        root = next((event for event in events if isinstance(event, yaml.NodeEvent)), None)
        if isinstance(root, yaml.SequenceStartEvent | yaml.ScalarEvent):
            raise InputError(f"{origin}: holds no settings; write each as NAME: VALUE")
        for _ in events:
            pass
        _check_unique_keys(yaml.compose(text, yaml.SafeLoader), origin)
    except yaml.YAMLError as error:
        raise _yaml_error(error, origin) from error


def _check_unique_keys(node: yaml.Node | None, origin: str) -> None:
    """Refuse a mapping with a key twice, of which YAML would keep the last value."""
    if isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_unique_keys(value, origin)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[tuple[str, str], int] = {}
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines:
                raise InputError(
                    f"{origin}: holds {key.value!r} twice, in lines {lines[name]} and {line}; "
                    "keep one"
                )
            lines[name] = line
        _check_unique_keys(value, origin)


def _yaml_error(error: yaml.YAMLError, origin: str) -> InputError:
    """Return our error for one of the YAML parser, with the name of the file in it."""
    text = " ".join(str(error).split()).replace('"<unicode string>"', f'"{origin}"')
    return InputError(f"{origin} is not YAML: {text}")


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
    if Path(name).is_file():
        check_yaml_size(Path(name))
        return Path(name)
    raise InputError(
        f"no configuration {name!r}{did_you_mean(name, config_names())}: neither one of "
        f"{', '.join(config_names())} nor a file"
    )


def read_config(config_type: type[ConfigT], arguments: Namespace) -> ConfigT:
    """Return a configuration from the parsed arguments."""
    values: dict[str, Any] = arguments.as_dict()
    return config_type.parse(
        {name: values[name] for name in config_type.model_fields if name in values},
        origin="settings",
    )
