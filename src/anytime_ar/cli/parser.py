"""Argument parsing with jsonargparse: YAML configurations with overrides, errors in one line."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any, Never, TypeVar

from jsonargparse import (  # type: ignore[attr-defined]
    ActionConfigFile,
    ArgumentParser,
    Namespace,
    set_parsing_settings,
)

from anytime_ar.config import Config
from anytime_ar.errors import InputError
from anytime_ar.yaml_size import check_yaml

# The docstrings of a configuration's fields are their help, read for those that a command takes.
set_parsing_settings(docstring_parse_attribute_docstrings=True)

ConfigT = TypeVar("ConfigT", bound=Config)

_OPTION_NAME = re.compile(r"^--([a-z][\w.-]*)")
_NOISE = re.compile(r"For further information visit \S+|\[type=\w+, input_[^\]]*\]|Parser key ")


class Parser(ArgumentParser):
    """An `ArgumentParser` that raises `InputError` instead of printing its usage."""

    takes_config = False

    def error(self, message: str, ex: Exception | None = None) -> Never:  # noqa: ARG002
        text = " ".join(_NOISE.sub("", message).split())
        raise InputError(f"{text}; see `{self.prog} --help`")

    def add_config(self, config: type[Config]) -> None:
        """Take a configuration: a first argument with its name or file, `--key value` overrides and
        `--print_config`."""
        self.takes_config = True
        self.usage = (
            f"{self.prog} CONFIG [options]   (CONFIG: {', '.join(config_names())}, or a file)"
        )
        self.add_argument("--config", action=ActionConfigFile, help="YAML file of settings")
        self.add_class_arguments(config, as_group=False)

    def prepare(self, arguments: list[str]) -> list[str]:
        """Turn a leading configuration name into the option that reads its file, and the hyphens of
        option names into underscores."""
        arguments = [
            _OPTION_NAME.sub(lambda name: "--" + name[1].replace("-", "_"), argument)
            for argument in arguments
        ]
        if self.takes_config and arguments and not arguments[0].startswith("-"):
            return ["--config", str(config_path(arguments[0])), *arguments[1:]]
        return arguments


def config_names() -> list[str]:
    """Names of the configurations that come with the package."""
    root = resources.files("anytime_ar") / "configs"
    return sorted(entry.name.removesuffix(".yaml") for entry in root.iterdir())


def config_path(name: str) -> Path:
    """The file of a configuration, by name or path.

    Raises:
        InputError: there is none.
    """
    if name in config_names():
        return Path(str(resources.files("anytime_ar") / "configs" / f"{name}.yaml"))
    if Path(name).is_file():
        check_yaml(Path(name))
        return Path(name)
    raise InputError(
        f"no configuration {name!r}: neither one of {', '.join(config_names())} nor a file"
    )


def read_config(kind: type[ConfigT], arguments: Namespace) -> ConfigT:
    """The configuration among parsed arguments."""
    values: dict[str, Any] = arguments.as_dict()
    return kind.parse({name: values[name] for name in kind.model_fields}, origin="settings")
