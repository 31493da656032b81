"""Settings of a configuration as users give them, in YAML files and in options.

They get their present names, and are checked by name and type, before the parser reads them. So a
mistake is one line that names the setting, whatever the parser would say.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from anytime_ar.cli.console import closest
from anytime_ar.config import Config, ConfigUnion, short_repr
from anytime_ar.errors import InputError
from anytime_ar.legacy import upgrade, upgrade_flat, warn_renamed
from anytime_ar.plugins import import_module_of_user, import_paths_in
from anytime_ar.runtime.files import read_text
from anytime_ar.runtime.size_limits import check_yaml_size


class _Loader(yaml.SafeLoader):
    """A safe loader that reads `1e-3` as a number, as YAML 1.2 does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+"),
    [*"-+0123456789"],
)
_TYPE_NAMES = {"literal_path": "path", "literal_text": "text"}
"""What messages call types that are functions."""


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
    if isinstance(hint, type) and issubclass(hint, Config):
        return "settings"
    name = str(getattr(hint, "__name__", hint))
    return _TYPE_NAMES.get(name, name)


def config_types_in(hint: Any) -> list[type[Config]]:
    """Return the configuration classes inside a type hint, unless users name its values."""
    if get_origin(hint) is dict:
        return []
    if isinstance(hint, type) and issubclass(hint, Config):
        return [hint]
    return [config for inside in get_args(hint) for config in config_types_in(inside)]


def unions_in(config: type[Config]) -> dict[str, type[ConfigUnion]]:
    """Return the settings of a configuration that are unions, by name."""
    fields = {name: field.annotation for name, field in config.model_fields.items()}
    return {
        name: hint
        for name, hint in fields.items()
        if isinstance(hint, type) and issubclass(hint, ConfigUnion)
    }


def merge(values: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings in which later ones, also inside of others, replace earlier ones."""
    merged = dict(values)
    for name, value in later.items():
        earlier = merged.get(name)
        both = isinstance(value, dict) and isinstance(earlier, dict)
        merged[name] = merge(earlier, value) if both else value  # type: ignore[arg-type]
    return merged


def is_file(path: str) -> bool:
    """Return whether a text, which may be no path at all, is the path of a file."""
    try:
        return Path(path).is_file()
    except OSError:  # it is too long
        return False


def load_file(config: type[Config], path: Path) -> dict[str, Any]:
    """Return the settings of a YAML file under their present names; see `load_settings`."""
    text = read_text(path)
    check_yaml_size(path)
    return load_settings(config, text, str(path))


def load_settings(config: type[Config], text: str, origin: str) -> dict[str, Any]:
    """Return the settings of YAML text under their present names.

    Args:
        config: class of the settings.
        text: the text.
        origin: where it came from, for messages.

    Raises:
        InputError: it is not YAML, or holds no settings.
    """
    _check_mappings(text, origin)
    try:
        values = yaml.load(text, _Loader) or {}
    except yaml.YAMLError as error:  # a tag that is not of YAML, such as !!python
        raise _yaml_error(error, origin) from error
    present: dict[str, Any] = _upgrade_settings(config, values, origin=origin)
    return present


def present_option(config: type[Config], option: str, value: str) -> tuple[str, str] | None:
    """Return a dotted option and its value under their present names, warning of others.

    None: the option chooses what is so anyway, and has no name any more.

    Raises:
        InputError: the option was dropped, and its value does not say what it is now.
    """
    values: Any = value
    for name in reversed(option.split(".")):
        values = {name: values}
    values = _upgrade_settings(config, values, origin=option_of(option), warn=False)
    names: list[str] = []
    while isinstance(values, dict) and values:
        ((name, values),) = values.items()
        names.append(name)
    if values == {}:
        return None
    present = ".".join(names)
    if present != option:
        warn_renamed(option_of(option), option_of(present))
    return present, str(values)


def option_settings(config: type[Config], option: str, text: str) -> dict[str, Any]:
    """Return the settings that a dotted option gives as text, or in a YAML file.

    Raises:
        InputError: it names a file that holds no settings.
    """
    inside = _classes_at(config, option)
    if inside and is_file(text):
        value: Any = load_file(inside[0], Path(text))
    else:
        value = _load_value(text)
    for name in reversed(option.split(".")):
        value = {name: value}
    return value


def import_plugins(arguments: Sequence[str]) -> None:
    """Import the modules of classes and functions that settings choose by their import paths.

    Args:
        arguments: arguments of a command: options with values, and YAML files.

    Raises:
        InputError: a module cannot be imported.
    """
    for at, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        text = value if equals else " ".join(arguments[at + 1 : at + 2])
        settings: list[Any] = []
        if option.startswith("--"):
            settings = [{option[2:].rpartition(".")[2]: _load_value(text)}, _load_value(text)]
        # The run of another argument may come from a stranger, as a bundle may.
        resumed = [f"{text}/config.yaml"] if option == "--resume" else []
        for path in (argument, text, *resumed):
            if path.endswith((".yaml", ".yml")) and is_file(path):
                check_yaml_size(Path(path))
                settings.append(_load_value(read_text(Path(path))))
        for found in {*import_paths_in(settings)}:
            import_module_of_user(found.rpartition(".")[0])


def _load_value(text: str) -> Any:
    """Return the value of an option, which is read as YAML, or as text where it is none."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError):  # as `[a`, or an impossible date
        return text


def expand_option(config: type[Config], option: str, values: Any, text: str) -> list[str]:
    """Return options that set what one option sets: a union as a whole has no option of its own.

    Args:
        config: class of the settings.
        option: dotted name of the option.
        values: its settings from `option_settings`, without mistakes.
        text: its value.
    """
    for name in option.split("."):
        values = values[name]
    return [*_expand(config, option, values, text)]


def _expand(config: type[Config], option: str, value: Any, text: str) -> Iterator[str]:
    """Yield options that set a value."""
    inside = _classes_at(config, option)
    if not inside or not issubclass(inside[0], ConfigUnion):
        yield f"--{option}={text}"
        return
    for name, setting in value.items():
        text = setting if isinstance(setting, str) else json.dumps(setting)
        yield from _expand(config, f"{option}.{name}", setting, text)


def _classes_at(config: type[Config], option: str) -> list[type[Config]]:
    """Return the classes of the settings inside of a dotted option, or an empty list."""
    classes = [config]
    for name in option.split("."):
        classes = _inside(_fields(classes).get(name, []))
    return classes


def mistakes_in(
    classes: Sequence[type[Config]],
    values: Mapping[str, Any],
    *,
    text: str | None = None,
    spell: Callable[[str], str] = str,
    prefix: str = "",
) -> Iterator[str]:
    """Yield each mistake in the names and types of settings, in one sentence.

    Args:
        classes: classes that take the settings; of unions each member may.
        values: the settings.
        text: the value of an option, which is text where a setting takes any text.
        spell: function that writes a dotted name as the user does.
        prefix: dotted name of what the settings are inside of, with a dot at its end.
    """
    fields = _fields(classes)
    for name, value in values.items():
        key = f"{prefix}{name}"
        if name not in fields:
            known = closest(str(name), fields)
            meant = _elsewhere(classes, str(name), prefix) if known is None else prefix + known
            near = "" if meant is None else f", did you mean {spell(meant)!r}?"
            yield f"unknown setting {spell(key)}{near}"
            continue
        inside = _inside(fields[name])
        whole = text if text is not None and value == _load_value(text) else None
        if inside and isinstance(value, dict):
            yield from mistakes_in(inside, value, text=text, spell=spell, prefix=f"{key}.")
        elif (
            isinstance(value, dict)
            and value
            and text is not None
            and whole is None
            and _mistake_of(fields[name], value) is not None
        ):
            yield f"unknown setting {spell(f'{key}.{next(iter(value))}')}"
        elif (problem := _mistake_of(fields[name], value, whole)) is not None:
            shown = short_repr(value) if whole is None else whole[:200] or "nothing"
            example = f"; write {spell(key + _example(inside, value))}" if inside else ""
            yield f"{spell(key)}: expected {problem}, got {shown}{example}"


def without_replaced(
    config: type[Config],
    values: Mapping[str, Any],
    later: Mapping[str, Any],
    *,
    replaced: bool = False,
) -> dict[str, Any]:
    """Return settings without those of a union's member in whose place later ones choose another.

    Args:
        config: class of the settings.
        values: settings of a file, without mistakes.
        later: settings that override them.
        replaced: whether a union that they are inside of has another member now.
    """
    kept, chooser = dict(values), None
    if issubclass(config, ConfigUnion):
        before, chooser = _member(config, kept), config.discriminator
        if before is None and replaced:  # the former outer choice offers it, the present one not
            del kept[chooser]
        member = _member(config, merge(kept, later))
        if member is None:
            return kept  # the configuration refuses it
        replaced, config = replaced or before is not member, member
    for name, value in values.items():
        field = config.model_fields.get(name)
        inside = [] if field is None else _inside([field])
        if inside and isinstance(value, dict):
            over = later.get(name)
            over = over if isinstance(over, dict) else {}
            kept[name] = without_replaced(inside[0], value, over, replaced=replaced)
        elif replaced and name != chooser and not (field and _takes(field, value)):
            del kept[name]
    return kept


def _member(union: type[ConfigUnion], values: dict[str, Any]) -> type[ConfigUnion] | None:
    """Return the member of a union that settings choose; None: there is none of this name."""
    try:
        return union.choose(upgrade_flat(values))
    except ValueError:
        return None


def _fields(classes: Sequence[type[Config]]) -> dict[str, list[FieldInfo]]:
    """Return the fields of classes and of all members of unions among them, by name."""
    fields: dict[str, list[FieldInfo]] = {}
    for config in classes:
        members = config.members().values() if issubclass(config, ConfigUnion) else [config]
        for member in members:
            for name, field in member.model_fields.items():
                fields.setdefault(name, []).append(field)
    return fields


def _inside(fields: Sequence[FieldInfo]) -> list[type[Config]]:
    """Return the configuration classes that fields hold."""
    return [config for field in fields for config in config_types_in(field.annotation)]


def _mistake_of(fields: Sequence[FieldInfo], value: Any, text: str | None = None) -> str | None:
    """Return what a setting takes that does not take a value; None: it takes it.

    Args:
        fields: the setting, in each class that has it.
        value: the value.
        text: the same as text, if it came as text.
    """
    expected: list[str] = []
    for field in fields:
        adapter, problem = TypeAdapter(_hint_of(field)), ""
        for given in (value,) if text is None else (value, text):
            try:
                adapter.validate_python(given)
            except ValidationError as error:
                problem = _expected(field, error)
            else:
                return None
        expected.append(problem)
    return " or ".join(dict.fromkeys(" or ".join(expected).split(" or ")))


def _takes(field: FieldInfo, value: Any) -> bool:
    """Return whether a setting takes a value."""
    return _mistake_of([field], value) is None


def _hint_of(field: FieldInfo) -> Any:
    """Return the type of a field with its limits."""
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def _expected(field: FieldInfo, error: ValidationError) -> str:
    """Return what a setting takes: the limit that was passed, or its type."""
    first = error.errors(include_url=False)[0]
    limit = first.get("ctx", {}).keys() & {"gt", "ge", "lt", "le", "min_length", "max_length"}
    if limit and len(error.errors()) == 1:
        return re.sub(r"^\w+ should (be|have) ", "", first["msg"])
    return describe_type(field.annotation)


def _example(classes: Sequence[type[Config]], value: Any) -> str:
    """Return the end of a dotted name with a value, as an example of a setting inside of others."""
    config = classes[0]
    if not issubclass(config, ConfigUnion):
        name, field = next(iter(config.model_fields.items()))
        return f".{name}={'my_package.name' if field.is_required() else field.default}"
    members = [name for union in classes for name in union.members()]  # type: ignore[attr-defined]
    return f".{config.discriminator}={value if value in members else members[0]}"


def _elsewhere(classes: Sequence[type[Config]], name: str, prefix: str) -> str | None:
    """Return the dotted name of a setting that was given too far outside; None: there is none."""
    keys = (key for key in _keys(classes, prefix) if key.rpartition(".")[2] == name)
    return next(keys, None)


def _keys(classes: Sequence[type[Config]], prefix: str) -> Iterator[str]:
    """Yield the dotted names of the settings of classes, depth first."""
    for name, fields in _fields(classes).items():
        yield f"{prefix}{name}"
        yield from _keys(_inside(fields), f"{prefix}{name}.")


def option_of(key: str) -> str:
    """Return the option that sets a dotted key."""
    return f"--{key.replace('_', '-')}"


def _upgrade_settings(config: type[Config], values: Any, *, origin: str, warn: bool = True) -> Any:
    """Return settings under their present names, warning of the others.

    Raises:
        InputError: a setting of an earlier version has no present name in its place.
    """
    if not isinstance(values, dict):
        return values
    classes = [base.__name__ for base in config.__mro__]
    try:
        present = upgrade(classes, values)
    except ValueError as error:
        raise InputError(f"{origin}: {error}") from error
    for old in values if warn else ():
        (new,) = upgrade(classes, {old: None})
        if old not in present and new != old:
            warn_renamed(str(old), str(new))
    fields = _fields([config])
    for name, value in present.items():
        inside = _inside(fields.get(name, []))
        if inside:
            upgraded = _upgrade_settings(inside[0], value, origin=f"{origin}: {name}", warn=warn)
            present = present | {name: upgraded}
    return present


def _check_mappings(text: str, origin: str) -> None:
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
