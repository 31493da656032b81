"""Registry of tokenizers and priors that are not ours, by the names that bundles give them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal, Self, TypeVar

from pydantic import Field

from anytime_ar.config import Config
from anytime_ar.errors import InputError

ENTRY_POINT_GROUP = "anytime_ar.parts"
"""Group of the entry points by which an installed package provides parts of models."""
_BUILT_IN = {
    "huggingface_prior": "anytime_ar.prior.huggingface",
    "neural_codec": "anytime_ar.autoencoder.neural_codecs",
}
"""Module of each part that comes with this package, by kind."""


class ModelPart:
    """Base of tokenizers and priors, which bundles hold by their configuration and weights."""

    def get_config(self) -> dict[str, Any]:
        """Return JSON values from which `from_config` builds an equal object, without weights.

        Raises:
            InputError: the subclass does not implement it.
        """
        raise InputError(
            f"{type(self).__name__} cannot be saved; implement get_config and from_config, and "
            "register the class"
        )

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Build an object from the values of `get_config`, with any weights.

        Raises:
            InputError: the subclass does not implement it.
        """
        raise InputError(f"{cls.__name__} cannot be loaded from {sorted(config)}; implement it")


_registered: dict[str, type[ModelPart]] = {}

PartT = TypeVar("PartT", bound=ModelPart)


class PartConfig(Config):
    """A tokenizer or prior that is not ours, as config.json of a bundle describes it."""

    kind: str = Field(min_length=1)
    """Name under which its class is registered."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Values that the class builds it from, without weights."""


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
        The registered kind and the configuration; the name of the class and no configuration if
        the class is not registered or cannot be saved.
    """
    for kind, cls in _registered.items():
        if type(part) is cls:
            return PartConfig(kind=kind, config=part.get_config())
    return PartConfig(kind=f"{type(part).__module__}.{type(part).__qualname__}")


def is_registered(part: ModelPart) -> bool:
    """Return whether bundles can hold a part."""
    return type(part) in _registered.values()


def build_part(described: PartConfig, what: Literal["tokenizer", "prior"], base: type) -> Any:
    """Build a part from its description, with any weights.

    Args:
        described: description in a bundle.
        what: what the bundle uses it for, for messages.
        base: class that it has to be an instance of.

    Raises:
        InputError: no class of this kind is installed, or it refuses the configuration.
    """
    kind = described.kind
    if kind not in _registered:
        if kind in _BUILT_IN:
            import_module(_BUILT_IN[kind])
        for found in entry_points(group=ENTRY_POINT_GROUP, name=kind):
            register(kind)(found.load())
    cls = _registered.get(kind)
    if cls is None or not issubclass(cls, base):
        known = ", ".join(sorted({*_BUILT_IN, *_registered}))
        raise InputError(
            f"the {what} is of kind {kind!r}, which is not installed; import the module that "
            f"registers it, or install its package (known: {known})"
        )
    return cls.from_config(described.config)


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

    try:
        kind = values["model_type"]
        others = {name: value for name, value in values.items() if name != "model_type"}
        config = transformers.AutoConfig.for_model(kind, **others)
        choose = getattr(transformers, auto_class)
        return choose.from_config(config, trust_remote_code=False).float()
    except InputError:  # it is larger than its weights
        raise
    except (KeyError, TypeError, ValueError) as error:
        reason = textwrap.shorten(str(error), 100)  # transformers lists every model
        raise InputError(f"{what} of the installed transformers ({reason}); update it") from error
