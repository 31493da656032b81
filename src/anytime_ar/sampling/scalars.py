"""Numbers of numpy, PyTorch and their like as Python's own, which all checks are made of."""

from __future__ import annotations

from typing import Any

from anytime_ar.errors import InputError


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
