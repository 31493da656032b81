"""Write Markdown tables and describe Python types in words, for the generated pages."""

from __future__ import annotations

import types
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin


def cell(text: str) -> str:
    """Return text that stands in one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell(value) for value in line)} |" for line in lines)


def type_words(hint: Any) -> str:
    """Return a type hint as `int`, `path or null`, `list of float` or `mean or max`."""
    origin, inside = get_origin(hint), get_args(hint)
    if hint is None or hint is type(None):
        return "null"
    if origin is Annotated:
        return type_words(inside[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inside)
    if origin in (Union, types.UnionType):
        words = " or ".join(map(type_words, inside)).split(" or ")
        return " or ".join(dict.fromkeys(words))
    if origin in (list, tuple, set, frozenset) or getattr(origin, "__name__", "") == "Sequence":
        return f"list of {type_words(inside[0])}"
    if origin is dict:
        return "mapping"
    if hasattr(hint, "model_fields"):
        return "settings"
    name = str(getattr(hint, "__name__", hint))
    if "path" in name:
        return "path"
    return "text" if name in ("str", "literal_text", "as_given") else name
