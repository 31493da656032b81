"""Finding the sample and the label among the columns of a Hugging Face data set."""

from __future__ import annotations

from typing import Any, NamedTuple

from anytime_ar.data.config import DataConfig
from anytime_ar.data.rows import Kind
from anytime_ar.errors import DataError

IMAGE_KEYS = ("image", "img")
SOUND_KEYS = ("audio", "sound")
LABEL_KEYS = ("label", "labels", "fine_label")
_ROLES = {"image_key": "image", "sound.key": "sound", "label_key": "label"}
"""What settings name the column of."""


class Columns(NamedTuple):
    """The columns to read."""

    sample: str
    kind: Kind
    label: str | None
    label_names: tuple[str, ...] | None
    """None where the label is a plain integer or a string."""


def find_columns(features: dict[str, Any], config: DataConfig, origin: str) -> Columns:
    """Choose by column type, and by usual names where several columns fit.

    Raises:
        DataError: no column fits, several do, or the configured one is missing or unsuitable.
    """
    kind, role, sample = _choose_sample(features, config, origin)
    label = config.label_key or _choose_label(features, origin)
    for setting, key in ((role, sample), ("label_key", label)):
        if key is not None and key not in features:
            raise DataError(
                f"{origin}: no column {key!r}; set data.{setting} to one of {', '.join(features)}"
            )
    if label is None:
        return Columns(sample, kind, None, None)
    names = _class_names(features[label])
    if names is None and not _holds(features[label], "int", "uint", "bool", "string"):
        raise DataError(
            f"{origin}: column {label!r} holds {features[label]}, not class labels, integers or "
            "strings; set data.label_key to another column"
        )
    return Columns(sample, kind, label, names)


def _choose_sample(
    features: dict[str, Any], config: DataConfig, origin: str
) -> tuple[Kind, str, str]:
    """What the samples are, the setting that names their column, and the column."""
    if config.sound.key is not None:
        return "sound", "sound.key", config.sound.key
    if config.image_key is not None:
        return "image", "image_key", config.image_key
    sounds = [key for key, feature in features.items() if _holds_sounds(key, feature)]
    if sounds:
        key = _choose(sounds, SOUND_KEYS, "sound.key", features, origin)
        assert key is not None
        return "sound", "sound.key", key
    images = [key for key, feature in features.items() if _holds_images(feature)]
    image = _choose(images, IMAGE_KEYS, "image_key", features, origin)
    if image is None:
        raise DataError(
            f"{origin}: no image or sound column among {', '.join(features)}; set data.image_key "
            "or data.sound.key"
        )
    return "image", "image_key", image


def _choose_label(features: dict[str, Any], origin: str) -> str | None:
    """Class labels are labels whatever their name; plain integers only under a usual name."""
    classes = [key for key, feature in features.items() if _class_names(feature) is not None]
    integers = [
        key
        for key in LABEL_KEYS
        if key in features and _holds(features[key], "int", "uint", "bool")
    ]
    return _choose(classes or integers, LABEL_KEYS, "label_key", features, origin)


def _choose(
    candidates: list[str],
    usual: tuple[str, ...],
    setting: str,
    features: dict[str, Any],
    origin: str,
) -> str | None:
    for key in usual:
        if key in candidates:
            return key
    if len(candidates) > 1:
        raise DataError(
            f"{origin}: {len(candidates)} columns could be the {_ROLES[setting]} "
            f"({', '.join(candidates)}, of {', '.join(features)}); set data.{setting}"
        )
    return candidates[0] if candidates else None


def _holds_images(feature: Any) -> bool:
    """An image column, or one written by plain parquet tools: bytes, or bytes with a path."""
    from datasets import Image, Value

    if isinstance(feature, dict):
        return "bytes" in feature
    return isinstance(feature, Image) or (isinstance(feature, Value) and feature.dtype == "binary")


def _holds_sounds(key: str, feature: Any) -> bool:
    """A sound column, or bytes under a usual name."""
    from datasets import Audio

    return isinstance(feature, Audio) or (key in SOUND_KEYS and _holds_images(feature))


def _class_names(feature: Any) -> tuple[str, ...] | None:
    from datasets import ClassLabel

    return tuple(feature.names) if isinstance(feature, ClassLabel) else None


def _holds(feature: Any, *types: str) -> bool:
    from datasets import Value

    return isinstance(feature, Value) and feature.dtype.startswith(types)
