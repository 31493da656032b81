"""The base of every configuration: frozen, validated at construction, unknown keys refused."""

from __future__ import annotations

from reprlib import Repr
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from anytime_ar.errors import InputError
from anytime_ar.legacy import upgrade


class Config(BaseModel):
    """A configuration value. Read it from data of unknown origin with `parse`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _accept_legacy_names(cls, values: Any) -> Any:
        return upgrade([base.__name__ for base in cls.__mro__], values)

    @classmethod
    def parse(cls, values: dict[str, Any], *, origin: str) -> Self:
        """Build from plain data, reporting all mistakes at once.

        Args:
            values: nested dictionaries as read from YAML or JSON.
            origin: where the values came from, for the message.

        Raises:
            InputError: a key is unknown or a value is out of range.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InputError(f"{origin}: {format_validation_error(error)}") from error


_TRUNCATED_REPR = Repr()
"""Values of unknown origin, in a line."""
_TRUNCATED_REPR.maxlevel, _TRUNCATED_REPR.maxlist, _TRUNCATED_REPR.maxdict = 3, 20, 20
_TRUNCATED_REPR.maxstring = _TRUNCATED_REPR.maxother = _TRUNCATED_REPR.maxlong = 200


def format_validation_error(error: ValidationError) -> str:
    """All mistakes of a pydantic error in one line: key, what is wrong, and the value that came."""
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
    """Return scalars and arrays as Python's numbers and lists, and all else as it is."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return type(value)(map(to_python, value)) if type(value) in (list, tuple) else value


def check_int(name: str, value: Any) -> int:
    """Return a whole number of any kind as Python's.

    Raises:
        InputError: it is something else, a float or a truth value say, even if it is equal to one.
    """
    number = to_python(value)
    if not isinstance(number, int) or isinstance(number, bool):
        raise InputError(
            f"{name}={number!r} is a {type(number).__name__}; pass a whole number, as an int"
        )
    return number
