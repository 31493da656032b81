"""Define the base class of every configuration.

Configurations are frozen, validated at construction, and refuse unknown keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import isabstract
from reprlib import Repr
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from anytime_ar.errors import InputError
from anytime_ar.legacy import upgrade, upgrade_flat


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


class ConfigUnion(Config):
    """The base of configurations of which the value of one key, the discriminator, chooses one.

    A class that leaves the key open accepts values for each class below it that sets it. So a
    subclass adds a choice.
    """

    discriminator: ClassVar[str]
    """Name of the key whose value chooses a subclass."""
    default_member: ClassVar[str]
    """Value of the key where it is left out."""

    @classmethod
    def _name(cls) -> str | None:
        """Return the value of the key that chooses this class; None: it leaves the key open.

        A class outside of the package that sets none is chosen by its import path, unless other
        classes are below it.
        """
        field = cls.model_fields[cls.discriminator]
        if not field.is_required():
            return str(field.default)
        ours = cls.__module__.startswith(f"{__package__}.")
        is_open = ours or isabstract(cls) or cls.__subclasses__()
        return None if is_open else f"{cls.__module__}.{cls.__qualname__}"

    @classmethod
    def members(cls) -> dict[str, type[Self]]:
        """Return the classes that this class accepts values for, by the value of the key."""
        if (name := cls._name()) is not None:
            return {name: cls}
        return {
            name: member
            for below in cls.__subclasses__()
            for name, member in below.members().items()
        }

    @classmethod
    def choose(cls, values: Mapping[str, Any]) -> type[Self]:
        """Return the class that values choose among those that this class accepts values for.

        Raises:
            ValueError: they choose none of them.
        """
        members = cls.members()
        name = values.get(cls.discriminator, cls._name() or cls.default_member)
        if not isinstance(name, str) or name not in members:
            raise ValueError(
                f"{cls.discriminator} is {name!r}, expected {' or '.join(sorted(members))}"
            )
        return members[name]

    @model_validator(mode="wrap")
    @classmethod
    def _choose_member(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Validate values with the class that they choose."""
        if not isinstance(values, dict):
            return validate(values)
        values = upgrade_flat(upgrade([base.__name__ for base in cls.__mro__], values))
        if (name := cls._name()) is not None:
            values = {cls.discriminator: name} | values
        member = cls.choose(values)
        if member is not cls:
            return member.model_validate(values)
        return validate(cls._without_foreign(values))

    @classmethod
    def _without_foreign(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Drop settings of other members that are at their defaults, and refuse others.

        Files of version 0.1 hold the settings of all members.
        """
        unions = (base for base in cls.__mro__ if issubclass(base, ConfigUnion))
        root = next(union for union in unions if "discriminator" in vars(union))
        members, kept = root.members().items(), dict(values)
        for key in values:
            fields = {name: member.model_fields.get(key) for name, member in members}
            owners = {name: field.default for name, field in fields.items() if field is not None}
            if key in cls.model_fields or not owners:
                continue  # an unknown key is refused by the class
            if kept.pop(key) not in (*owners.values(), None, []):
                raise ValueError(
                    f"{key} is {short_repr(values[key])}, a setting of "
                    f"{cls.discriminator}={' or '.join(owners)}, not of {cls._name()}; drop it"
                )
        return kept


def changed_settings(earlier: Config, now: Config) -> list[tuple[str, Any, Any]]:
    """Return (dotted name, earlier value, value now) of every setting that differs, by name.

    Values are those of JSON. A setting that one side does not have is None there.
    """
    before, after = (_flatten(config.model_dump(mode="json")) for config in (earlier, now))
    return [
        (name, before.get(name), after.get(name))
        for name in sorted(before | after)
        if before.get(name) != after.get(name)
    ]


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, dict)
        flat |= _flatten(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return flat


_TRUNCATED_REPR = Repr()
_TRUNCATED_REPR.maxlevel, _TRUNCATED_REPR.maxlist, _TRUNCATED_REPR.maxdict = 3, 20, 20
_TRUNCATED_REPR.maxstring = _TRUNCATED_REPR.maxother = _TRUNCATED_REPR.maxlong = 200
short_repr = _TRUNCATED_REPR.repr
"""Return an untrusted value as text of one line, shortened."""


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
            else f" (got {short_repr(item['input'])})"
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
