"""Generate docs/reference/configuration.md: each key of a configuration, from its classes."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from importlib import import_module
from itertools import chain, pairwise
from typing import Any, get_args

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic_core import PydanticUndefined
from tables import table, type_words

_BOUNDS = {
    Ge: ("≥", "ge"),
    Gt: (">", "gt"),
    Le: ("≤", "le"),
    Lt: ("<", "lt"),
    MinLen: ("length ≥", "min_length"),
    MaxLen: ("length ≤", "max_length"),
}


def experiment() -> Any:
    """Return the class of everything that a configuration file may hold."""
    for module in ("anytime_ar.cli.experiment", "anytime_ar.cli.train"):
        try:
            return import_module(module).Experiment
        except (ModuleNotFoundError, AttributeError):
            continue
    raise ModuleNotFoundError("no module of anytime_ar.cli defines Experiment")


def configs_in(hint: Any) -> list[Any]:
    """Return the configuration classes that a type hint allows."""
    if isinstance(hint, type) and hasattr(hint, "model_fields"):
        return [hint]
    return [config for inside in get_args(hint) for config in configs_in(inside)]


def docstrings(config: Any) -> dict[str, str]:
    """Return the docstring under each field, by name, of a class and its bases."""
    found: dict[str, str] = {}
    for base in reversed(config.__mro__):
        if not base.__module__.startswith("anytime_ar"):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for field, text in pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                found[ast.unparse(field.target)] = inspect.cleandoc(text.value.value)
    return found


def groups(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the class of each group of keys, outermost first.

    A union has a group for each of its members.
    """
    members = [*config.members().values()] if hasattr(config, "members") else [config]
    inside: dict[str, list[Any]] = {}
    for member in members:
        yield prefix, member
        for name, field in member.model_fields.items():
            inside.setdefault(name, []).extend(configs_in(field.annotation))
    known: set[str] = set()
    for name, found in inside.items():
        for group, kind in chain.from_iterable(groups(one, f"{prefix}{name}.") for one in found):
            if heading(group, kind) not in known:
                known.add(heading(group, kind))
                yield group, kind


def heading(prefix: str, kind: Any) -> str:
    """Return the title of a group of keys: its dotted name, and the choice that it belongs to."""
    group = prefix.removesuffix(".") or "Top level"
    chooser = getattr(kind, "discriminator", None)
    choice = chooser and kind.model_fields[chooser]
    return f"{group} with {chooser} {choice.default}" if choice and not choice.is_required() else group


def keys() -> list[str]:
    """Return every configuration key by its dotted name."""
    return sorted(
        {prefix + name for prefix, kind in groups(experiment()) for name in kind.model_fields}
    )


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True) if not field.is_required() else None
    if value is PydanticUndefined or field.is_required():
        return "required"
    if hasattr(value, "model_fields"):
        return "see below"
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    return (
        {None: "`null`", True: "`true`", False: "`false`"}.get(value, f"`{value}`")
        if isinstance(value, bool | None)
        else f"`{value}`"
    )


def _range(field: Any) -> str:
    """Return the bounds of a field, as `≥ 1, < 2`."""
    signs = [_BOUNDS[type(bound)] for bound in field.metadata if type(bound) in _BOUNDS]
    values = [
        getattr(bound, _BOUNDS[type(bound)][1])
        for bound in field.metadata
        if type(bound) in _BOUNDS
    ]
    return ", ".join(f"{sign} {value}" for (sign, _), value in zip(signs, values, strict=True))


def page() -> str:
    """Return the page."""
    names = sorted(_shipped())
    parts = [
        "# Configuration keys\n",
        "Which keys may a training configuration hold, and what does each do?\n",
        "Write keys in a YAML file (`anytime train mine.yaml`) or as options "
        "(`anytime train mnist --data.size 64`). `anytime train mnist --print-config` prints a "
        "complete file to start from.\n",
        f"Configurations in the package: {', '.join(f'`{name}`' for name in names)}.\n",
    ]
    seen: dict[Any, str] = {}
    for prefix, kind in groups(experiment()):
        group = heading(prefix, kind)
        parts.append(f"\n## {group}\n")
        parts.append(inspect.cleandoc(kind.__doc__ or "") + "\n")
        if kind in seen:
            parts.append(
                f"The keys mean the same as those of [`{seen[kind]}`](#{_anchor(seen[kind])}).\n"
            )
        seen.setdefault(kind, group)
        texts = docstrings(kind)
        rows = [
            [
                f"`{prefix}{name}`",
                type_words(field.annotation),
                _range(field),
                _default(field),
                texts.get(name, field.description or ""),
            ]
            for name, field in kind.model_fields.items()
        ]
        parts.append(table(["key", "type", "range", "default", "meaning"], rows))
    return "\n".join(parts) + "\n"


def _anchor(group: str) -> str:
    return group.replace(".", "").replace(" ", "-")


def _shipped() -> list[str]:
    return list(import_module("anytime_ar.cli.parser").config_names())
