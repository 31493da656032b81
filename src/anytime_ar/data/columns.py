"""Finding the image and the label among the columns of a Hugging Face data set."""

from __future__ import annotations

from typing import Any, NamedTuple

from anytime_ar.data.config import DataConfig
from anytime_ar.errors import DataError

IMAGE_KEYS = ("image", "img")
LABEL_KEYS = ("label", "labels", "fine_label")


class Columns(NamedTuple):
    """The columns to read."""

    image: str
    label: str | None
    label_names: tuple[str, ...] | None
    """None where the label is a plain integer."""


def find_columns(features: dict[str, Any], config: DataConfig, origin: str) -> Columns:
    """Choose by column type, and by usual names where several columns fit.

    Raises:
        DataError: no column fits, several do, or the configured one is missing or unsuitable.
    """
    image = config.image_key or _choose(
        [key for key, feature in features.items() if _holds_images(feature)],
        IMAGE_KEYS,
        "image",
        features,
        origin,
    )
    if image is None:
        raise DataError(
            f"{origin}: no image column among {', '.join(features)}; set data.image_key"
        )
    label = config.label_key or _choose_label(features, origin)
    for role, key in (("image_key", image), ("label_key", label)):
        if key is not None and key not in features:
            raise DataError(
                f"{origin}: no column {key!r}; set data.{role} to one of {', '.join(features)}"
            )
    if label is None:
        return Columns(image, None, None)
    names = _class_names(features[label])
    if names is None and not _holds_integers(features[label]):
        raise DataError(
            f"{origin}: column {label!r} holds {features[label]}, not class labels or integers; "
            "set data.label_key to another column"
        )
    return Columns(image, label, names)


def _choose_label(features: dict[str, Any], origin: str) -> str | None:
    """Class labels are labels whatever their name; plain integers only under a usual name."""
    classes = [key for key, feature in features.items() if _class_names(feature) is not None]
    integers = [key for key in LABEL_KEYS if key in features and _holds_integers(features[key])]
    return _choose(classes or integers, LABEL_KEYS, "label", features, origin)


def _choose(
    candidates: list[str],
    usual: tuple[str, ...],
    role: str,
    features: dict[str, Any],
    origin: str,
) -> str | None:
    for key in usual:
        if key in candidates:
            return key
    if len(candidates) > 1:
        raise DataError(
            f"{origin}: {len(candidates)} columns could be the {role} ({', '.join(candidates)}, of "
            f"{', '.join(features)}); set data.{role}_key"
        )
    return candidates[0] if candidates else None


def _holds_images(feature: Any) -> bool:
    """An image column, or one written by plain parquet tools: bytes, or bytes with a path."""
    from datasets import Image, Value

    if isinstance(feature, dict):
        return "bytes" in feature
    return isinstance(feature, Image) or (isinstance(feature, Value) and feature.dtype == "binary")


def _class_names(feature: Any) -> tuple[str, ...] | None:
    from datasets import ClassLabel

    return tuple(feature.names) if isinstance(feature, ClassLabel) else None


def _holds_integers(feature: Any) -> bool:
    from datasets import Value

    return isinstance(feature, Value) and feature.dtype.startswith(("int", "uint", "bool"))
