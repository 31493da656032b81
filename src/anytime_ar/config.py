"""Define the base class of every configuration.

Configurations are frozen, validated at construction, and refuse unknown keys.
"""

from __future__ import annotations

from reprlib import Repr
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from anytime_ar.errors import InputError
from anytime_ar.legacy import upgrade


class Config(BaseModel):
    """A frozen, validated configuration; `parse` reads one from untrusted data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _accept_legacy_names(cls, values: Any) -> Any:
        return upgrade([base.__name__ for base in cls.__mro__], values)

    @classmethod
    def parse(cls, values: dict[str, Any], *, origin: str) -> Self:
        """Build the configuration from plain data, and report all mistakes at once.

        Args:
            values: nested dictionaries, as read from YAML or JSON.
            origin: where the values came from, for the message.

        Raises:
            InputError: a key is unknown or a value is out of range.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InputError(f"{origin}: {format_validation_error(error)}") from error


_TRUNCATED_REPR = Repr()
"""Formatter for untrusted values, which shortens them to one line."""
_TRUNCATED_REPR.maxlevel, _TRUNCATED_REPR.maxlist, _TRUNCATED_REPR.maxdict = 3, 20, 20
_TRUNCATED_REPR.maxstring = _TRUNCATED_REPR.maxother = _TRUNCATED_REPR.maxlong = 200


def format_validation_error(error: ValidationError) -> str:
    """Return all mistakes of a pydantic error in one line: key, problem and received value."""
    mistakes = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"])
        what = item["msg"].removeprefix("Value error, ")
        what = what[0].lower() + what[1:]
        got = (
            ""
            if item["type"] in ("value_error", "missing")
            else f" (got {_TRUNCATED_REPR.repr(item['input'])})"
        )
        mistakes.append(f"{key}: {what}{got}" if key else f"{what}{got}")
    return "; ".join(mistakes)


def to_python(value: Any) -> Any:
    """Convert NumPy and PyTorch scalars and arrays to Python numbers and lists.

    Other values are returned as they are.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    return type(value)(map(to_python, value)) if type(value) in (list, tuple) else value


def check_int(name: str, value: Any) -> int:
    """Return an integer of any library as a Python int.

    Args:
        name: name of the argument, for the message.
        value: the value to check.

    Raises:
        InputError: it is not an integer; floats and booleans are refused even if they equal one.
    """
    number = to_python(value)
    if not isinstance(number, int) or isinstance(number, bool):
        raise InputError(
            f"{name}={number!r} is a {type(number).__name__}; pass a whole number, as an int"
        )
    return number
