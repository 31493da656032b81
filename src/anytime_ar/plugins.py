"""Classes and functions that are not ours, by a registered name or by their import path.

Settings of a user may name any import path, such as `my_package.MyQuantizer`, and its module is
imported. A bundle may come from a stranger: what it names has to be registered, imported already,
named in the environment variable `ANYTIME_PLUGINS`, or an entry point of an installed package.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_type_hints

import numpy as np
import torch
from pydantic import Discriminator, Field, Tag, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from torch import Tensor, nn

from anytime_ar.config import Config, format_validation_error, short_repr
from anytime_ar.errors import AnytimeError, InputError

ENTRY_POINT_GROUP = "anytime_ar.parts"
"""Group of the entry points by which an installed package provides parts of models."""
PLUGINS_VARIABLE = "ANYTIME_PLUGINS"
"""Environment variable with the modules that may provide parts, separated by commas."""
IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
"""Pattern of an import path: a module and a name in it."""
_BUILT_IN = {
    "huggingface_prior": "anytime_ar.prior.huggingface",
    "neural_codec": "anytime_ar.autoencoder.neural_codecs",
    "snac": "anytime_ar.autoencoder.snac",
}
"""Module of each part that comes with this package, by kind."""


class ModelPart:
    """Base of tokenizers and priors, which bundles hold by their configuration and weights.

    The arguments of the constructor are the configuration if they are JSON values. Otherwise a
    subclass implements `get_config` and `from_config`.
    """

    def __new__(cls, *values: Any, **named: Any) -> Self:
        """Create an object that remembers its arguments, if they are JSON values."""
        made = super().__new__(cls)
        made.__dict__["_arguments"] = _json_arguments(cls, values, named)
        return made

    def get_config(self) -> dict[str, Any]:
        """Return JSON values from which `from_config` builds an equal object, without weights.

        Raises:
            InputError: an argument of the constructor is no JSON value, or would come back as
                another one, and the subclass does not implement it.
        """
        stored: dict[str, Any] | str = self.__dict__["_arguments"]
        wrong = stored if isinstance(stored, str) else ""
        config: dict[str, Any] = {} if isinstance(stored, str) else json.loads(json.dumps(stored))
        restored = {} if wrong else check_arguments(type(self), config)
        for name, value in config.items():
            if value != stored[name] and restored[name] != stored[name]:  # type: ignore[index]
                wrong = f"{name} holds a tuple, which comes back as a list unless annotated as one"
        if wrong:
            raise InputError(
                f"{type(self).__name__} cannot be saved: its constructor takes more than JSON "
                f"values ({wrong}); implement get_config and from_config"
            )
        return config

    def weights_of_checkpoint(self, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of this object from files that a bundle refers to.

        Args:
            stored: content of the files, by name.

        Returns:
            The weights by their names in `state_dict`; by default, the files have these names.

        Raises:
            InputError: weights are missing, or have other shapes.
        """
        return stored

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Build an object from the values of `get_config`, with any weights.

        Raises:
            InputError: they are no arguments of the constructor.
        """
        return cls(**check_arguments(cls, config))

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """Build an object from the settings of a user, with the weights that they name, if any.

        Unlike the values of a bundle, they may name files and models of the Hub.

        Raises:
            InputError: they do not describe such an object, or the weights cannot be read.
        """
        return cls.from_config(settings)


def _json_arguments(
    cls: type, values: tuple[Any, ...], named: dict[str, Any]
) -> dict[str, Any] | str:
    """Return copies of the arguments of a constructor, by name, or why JSON cannot hold them.

    Args:
        cls: class of the object.
        values: arguments by position.
        named: arguments by name.
    """
    try:
        bound = inspect.signature(cls.__init__).bind(None, *values, **named)  # type: ignore[misc]
    except TypeError as error:  # unpickling passes none
        return str(error)
    bound.apply_defaults()
    copied: dict[str, Any] = {}
    _, *others = bound.arguments.items()
    for name, value in others:
        kind = bound.signature.parameters[name].kind
        if kind in _VARIADIC and value:
            return f"{name} are arguments without names of their own"
        if kind is inspect.Parameter.POSITIONAL_ONLY:
            return f"{name} is taken by position only"
        if kind not in _VARIADIC:
            try:
                copied[name] = _copy_json(value)
            except (RecursionError, TypeError, ValueError) as error:
                return f"{name} {error}"
    return copied


def _copy_json(value: Any) -> Any:
    """Return a copy of a JSON value that keeps tuples; NumPy's scalars become Python's.

    Raises:
        TypeError: it is another value, or has keys that are no strings.
        ValueError: it is not finite.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"is {value}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if type(value) in (list, tuple):
        return type(value)(map(_copy_json, value))
    if type(value) is not dict:
        raise TypeError(f"is a {type(value).__name__}")
    if not all(isinstance(key, str) for key in value):
        raise TypeError("has keys that are no strings")
    return {key: _copy_json(item) for key, item in value.items()}


_VARIADIC = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}

_registered: dict[str, type[ModelPart]] = {}

PartT = TypeVar("PartT", bound=ModelPart)


class PartConfig(Config):
    """A tokenizer or prior that is not ours, as config.json of a bundle describes it."""

    kind: str = Field(min_length=1)
    """Name under which its class is registered."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Values that the class builds it from, without weights."""


def _is_part(values: Any) -> str:
    """Return the tag of the configuration of a part: of another package, or of ours."""
    kind = isinstance(values, PartConfig) or (isinstance(values, dict) and "kind" in values)
    return "part" if kind else "ours"


_OursT = TypeVar("_OursT")
OneOf = Annotated[
    Annotated[_OursT, Tag("ours")] | Annotated[PartConfig, Tag("part")], Discriminator(_is_part)
]
"""Configuration of one of our own networks, or of a part of another package."""


def register(kind: str) -> Callable[[type[PartT]], type[PartT]]:
    """Register a class of tokenizers or priors, so that bundles can hold its objects.

    The class implements `get_config` and `from_config`. A bundle names the kind and never a module:
    loading one runs no code but that of registered classes.

    Args:
        kind: name of the class in bundles.

    Returns:
        A decorator of the class.
    """

    def decorate(cls: type[PartT]) -> type[PartT]:
        if _registered.get(kind, cls).__qualname__ != cls.__qualname__:
            raise InputError(
                f"a part {kind!r} is registered already, by {_registered[kind].__qualname__}; "
                "choose another kind"
            )
        _registered[kind] = cls
        return cls

    return decorate


def describe_part(part: ModelPart) -> PartConfig:
    """Return the description of a part, as a bundle holds it.

    Args:
        part: object of a class of tokenizers or priors.

    Returns:
        The registered kind, or else the import path of the class, and the configuration; no
        configuration if the object cannot be saved.
    """
    for kind, cls in _registered.items():
        if type(part) is cls:
            return PartConfig(kind=kind, config=part.get_config())
    path = f"{type(part).__module__}.{type(part).__qualname__}"
    try:
        return PartConfig(kind=path, config=part.get_config() if can_be_loaded(part) else {})
    except InputError:
        return PartConfig(kind=path)


def can_be_loaded(part: ModelPart) -> bool:
    """Return whether another process can find the class of a part by its name."""
    cls = type(part)
    module = sys.modules.get(cls.__module__)
    importable = cls.__module__ != "__main__" and getattr(module, cls.__name__, None) is cls
    return importable or cls in _registered.values()


def find_class(kind: str, what: str, base: type[ModelPart]) -> type[ModelPart]:
    """Find a class by its registered name or its import path, without importing what is unknown.

    Args:
        kind: name or import path, as a bundle or settings give it.
        what: what the class is used for, for messages.
        base: class that it has to be a subclass of.

    Raises:
        InputError: there is no such class, or its module is not imported.
    """
    if IMPORT_PATH.fullmatch(kind):
        found = find_imported(kind, what)
        if not (isinstance(found, type) and issubclass(found, base)):
            raise InputError(
                f"the {what} is {kind!r}, which is no {base.__name__}; derive the class from it"
            )
        return found
    if kind not in _registered:
        if kind in _BUILT_IN:
            import_module(_BUILT_IN[kind])
        for entry in entry_points(group=ENTRY_POINT_GROUP, name=kind):
            register(kind)(entry.load())
    if kind not in _registered:
        _import_trusted()
    registered = _registered.get(kind)
    if registered is None or not issubclass(registered, base):
        known = ", ".join(sorted({*_BUILT_IN, *_registered}))
        raise InputError(
            f"the {what} is of kind {kind!r}, which is not installed; import the module that "
            f"registers it, name that module in {PLUGINS_VARIABLE}, or install its package "
            f"(known: {known})"
        )
    return registered


def find_imported(path: str, what: str) -> Any:
    """Return the object of an import path, if its module is imported or in `ANYTIME_PLUGINS`.

    Args:
        path: import path.
        what: what the object is used for, for messages.

    Raises:
        InputError: its module is not imported, or has no such name.
    """
    module, _, name = path.rpartition(".")
    if module not in sys.modules:
        _import_trusted()
    if module not in sys.modules:
        raise InputError(
            f"the {what} is {path!r}, and {module} is not imported: models run no code that you "
            f"have not asked for; set {PLUGINS_VARIABLE}={module}, or import it first"
        )
    try:
        return getattr(sys.modules[module], name)
    except AttributeError as error:
        raise InputError(
            f"the {what} is {path!r}, and {module} has no {name}; check the name"
        ) from error


def _import_trusted() -> None:
    """Import the modules that `ANYTIME_PLUGINS` names."""
    for module in os.environ.get(PLUGINS_VARIABLE, "").split(","):
        if module.strip():
            import_module_of_user(module.strip())


def import_module_of_user(module: str) -> None:
    """Import a module that the user has named; it may be in the current folder.

    Raises:
        InputError: it cannot be imported.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        import_module(module)
    except (Exception, SystemExit) as error:
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
        raise InputError(
            f"the module {module} cannot be imported ({reason}); check its name, or run the "
            "command in its folder"
        ) from error


def import_paths_in(settings: Any) -> Iterator[str]:
    """Yield the import paths by which settings choose classes and functions.

    Args:
        settings: nested dictionaries, as read from YAML.
    """
    if isinstance(settings, list):
        for value in settings:
            yield from import_paths_in(value)
    if not isinstance(settings, dict):
        return
    for key, value in settings.items():
        if key in _CHOOSERS and isinstance(value, str) and IMPORT_PATH.fullmatch(value):
            yield value
        if not (key == "config" and "kind" in settings):  # arguments, which may have any names
            yield from import_paths_in(value)


_CHOOSERS = {"kind", "layout", "distribution"}
"""Names of the settings that choose a class or a function."""


def check_arguments(
    function: Callable[..., Any], values: dict[str, Any], *, skip: int = 0
) -> dict[str, Any]:
    """Check arguments against the names and annotations of a function or constructor.

    Args:
        function: function or class.
        values: arguments by name.
        skip: number of first arguments that are not among them.

    Returns:
        The arguments, converted as annotated: a list to a tuple, for example.

    Raises:
        InputError: a name is unknown or missing, or a value has another type.
    """
    is_class = isinstance(function, type)
    called = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    parameters = [*inspect.signature(called).parameters.values()][is_class + skip :]
    named = {each.name: each for each in parameters if each.kind not in _VARIADIC}
    open_ended = any(each.kind == each.VAR_KEYWORD for each in parameters)
    mistakes = [
        f"{name} is no argument of it" for name in values if name not in named and not open_ended
    ]
    mistakes += [
        f"{name} is missing"
        for name, parameter in named.items()
        if name not in values and parameter.default is parameter.empty
    ]
    try:
        hints = get_type_hints(called)
    except (NameError, TypeError):  # imported for type checkers only
        hints = {}
    for name, parameter in named.items():
        if isinstance(parameter.default, tuple) and isinstance(values.get(name), list):
            hints.setdefault(name, tuple)
    checked = dict(values)
    for name in values.keys() & named.keys() & hints.keys():
        try:
            checked[name] = TypeAdapter(hints[name]).validate_python(values[name])
        except PydanticSchemaGenerationError:  # a class of the caller, which checks it
            continue
        except ValidationError as error:
            mistakes.append(f"{name}: {format_validation_error(error)}")
    if mistakes:
        raise InputError(
            f"{function.__name__}: {'; '.join(mistakes)}; it takes {', '.join(named) or 'nothing'}"
        )
    return checked


def build_module(described: PartConfig, what: str) -> nn.Module:
    """Build a module by the import path and the arguments of its class.

    Args:
        described: import path and arguments.
        what: what the module is used for, for messages.

    Raises:
        InputError: there is no such class of modules, or it refuses the arguments.
    """
    found = find_imported(described.kind, what)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise InputError(f"the {what} is {described.kind!r}, which is no class of torch.nn.Module")
    arguments = check_arguments(found, described.config)
    with errors_of_user(what, described.kind):
        return found(**arguments)


@contextmanager
def errors_of_user(what: str, name: str) -> Iterator[None]:
    """Report errors of a user's class or function in the block as ours, with its name.

    Args:
        what: what it is used for.
        name: its name or import path.

    Raises:
        InputError: the block has raised another error.
    """
    try:
        yield
    except (AnytimeError, ImportError):  # the second says which extra is missing
        raise
    except Exception as error:
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
        raise InputError(f"the {what} {name} has failed ({reason}); correct it") from error


def call_function(described: PartConfig, what: str, *values: Any) -> Any:
    """Call a function by its import path, with its arguments by name after some values.

    Args:
        described: import path and arguments.
        what: what the function is used for, for messages.
        values: first arguments.

    Raises:
        InputError: there is no such function, or it refuses the arguments.
    """
    function = find_imported(described.kind, what)
    if not callable(function):
        raise InputError(f"the {what} is {described.kind!r}, which is no function")
    arguments = check_arguments(function, described.config, skip=len(values))
    with errors_of_user(what, described.kind):
        return function(*values, **arguments)


def is_built_in(described: PartConfig) -> bool:
    """Return whether a class of this package is described."""
    return described.kind in _BUILT_IN


def build_part(described: PartConfig, what: str, base: type[ModelPart]) -> Any:
    """Build a part from its description, with any weights.

    Args:
        described: description in a bundle.
        what: what the bundle uses it for, for messages.
        base: class that it has to be an instance of.

    Raises:
        InputError: no class of this kind is installed, or it refuses the configuration.
    """
    found = find_class(described.kind, what, base)
    if is_built_in(described):
        return found.from_config(described.config)
    with errors_of_user(what, described.kind):
        return found.from_config(described.config)


def load_transformers_model(auto_class: str, name: str, revision: str | None) -> Any:
    """Load a model of Hugging Face's transformers with its weights, which are safetensors.

    Args:
        auto_class: name of the class of transformers that chooses the model, such as `AutoModel`.
        name: folder that `save_pretrained` wrote, or Hub ID.
        revision: branch, tag or commit of the Hub; None: the newest one.

    Raises:
        InputError: there is no such model, or it has no safetensors.
    """
    import transformers

    choose = getattr(transformers, auto_class)
    try:
        model = choose.from_pretrained(
            name, revision=revision, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        reason = textwrap.shorten(str(error), 200)
        raise InputError(
            f"{name!r} is no model that transformers can load ({reason}); pass a folder that "
            "save_pretrained wrote, or a Hub ID such as facebook/encodec_24khz"
        ) from error
    return model.float()


def build_transformers_model(auto_class: str, values: dict[str, Any], what: str) -> Any:
    """Build a model of Hugging Face's transformers from its configuration, with random weights.

    Args:
        auto_class: name of the class of transformers that chooses the model, such as `AutoModel`.
        values: the configuration, as `get_config` of a part stores it.
        what: what the model should be, for messages.

    Raises:
        InputError: the installed transformers have no such model.
    """
    import transformers

    if not isinstance(values, dict) or not isinstance(values.get("model_type"), str):
        raise InputError(
            f"{what}: its configuration is {short_repr(values)}; give the configuration of a model "
            "of transformers, with its model_type"
        )
    attention = {*_attention_in(values)} - {None, "eager", "sdpa"}
    if attention:
        raise InputError(
            f"{what}: its attention is {', '.join(sorted(map(repr, attention)))}, whose code may "
            "come from the Hub; choose eager or sdpa"
        )
    try:
        kind = values["model_type"]
        others = {name: value for name, value in values.items() if name != "model_type"}
        config = transformers.AutoConfig.for_model(kind, **others)
        choose = getattr(transformers, auto_class)
        return choose.from_config(config, trust_remote_code=False).float()
    except InputError:  # it is larger than its weights
        raise
    except Exception as error:  # of any type, from the code of many models
        reason = textwrap.shorten(str(error), 100)  # transformers lists every model
        raise InputError(f"{what} of the installed transformers ({reason}); update it") from error


def transformers_config(model: Any) -> dict[str, Any]:
    """Return the configuration of a model of transformers, from which its part is built again.

    The path or name that it was loaded by is left out: bundles go to others.
    """
    config: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    return {name: value for name, value in config.items() if name != "_name_or_path"}


def transformers_weights(model: Any, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a model of Hugging Face's transformers from those of a checkpoint.

    Checkpoints of earlier releases have other names, which transformers knows.

    Args:
        model: the model, with any weights.
        stored: content of the files of the checkpoint, by name.

    Raises:
        InputError: weights are missing, or have other shapes.
    """
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        loaded, report = type(model).from_pretrained(
            None,
            config=copy.deepcopy(model.config),
            state_dict=stored,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # of any type, from the code of many models
        raise InputError(textwrap.shorten(str(error), 200)) from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
    for mistake in ("missing_keys", "mismatched_keys"):
        if names := sorted(map(str, report[mistake])):
            raise InputError(f"{mistake.replace('_', ' ')}: {textwrap.shorten(str(names), 200)}")
    weights: dict[str, Tensor] = loaded.state_dict()
    return weights


def _attention_in(values: Any) -> Iterator[Any]:
    """Yield the implementations of attention that a configuration of transformers names."""
    if isinstance(values, list):
        for value in values:
            yield from _attention_in(value)
    if isinstance(values, dict):
        for key, value in values.items():
            if isinstance(key, str) and "attn_implementation" in key:
                yield from value.values() if isinstance(value, dict) else [value]
            else:
                yield from _attention_in(value)
