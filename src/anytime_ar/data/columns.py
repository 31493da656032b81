"""Finding the sample and the label among the columns of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from anytime_ar.data.config import DataConfig
from anytime_ar.data.rows import Modality
from anytime_ar.errors import DataError

IMAGE_KEYS = ("image", "img")
AUDIO_KEYS = ("audio", "sound")
LABEL_KEYS = ("label", "labels", "fine_label")
_COLUMN_SETTINGS = {"image_key": "image", "sound.key": "sound", "label_key": "label"}
"""What settings name the column of."""


class Column(NamedTuple):
    """What one column of a table holds."""

    kind: Literal["image", "sound", "bytes", "classes", "numbers", "texts", "other"]
    """`bytes`: of files, alone or with a path, as plain parquet tools write them."""
    type_name: str
    """What messages call it."""
    class_names: tuple[str, ...] = ()


class SelectedColumns(NamedTuple):
    """The columns to read."""

    sample: str
    modality: Modality
    label: str | None
    class_names: tuple[str, ...] | None
    """None where the label is a plain number or a text."""


def select_columns(table: Mapping[str, Column], config: DataConfig, origin: str) -> SelectedColumns:
    """Choose by column type, and by usual names where several columns fit.

    Raises:
        DataError: no column fits, several do, or the configured one is missing or unsuitable.
    """
    kind, role, sample = _select_sample_column(table, config, origin)
    label = None
    if config.labels:
        label = config.label_key or _select_label_column(table, origin)
    for setting, key in ((role, sample), ("label_key", label)):
        if key is not None and key not in table:
            raise DataError(
                f"{origin}: no column {key!r}; set data.{setting} to one of {', '.join(table)}"
            )
    if label is None:
        return SelectedColumns(sample, kind, None, None)
    column = table[label]
    if column.kind not in ("classes", "numbers", "texts"):
        raise DataError(
            f"{origin}: column {label!r} holds {column.type_name}, not class labels, integers or "
            "strings; set data.label_key to another column"
        )
    return SelectedColumns(
        sample, kind, label, column.class_names if column.kind == "classes" else None
    )


def _select_sample_column(
    table: Mapping[str, Column], config: DataConfig, origin: str
) -> tuple[Modality, str, str]:
    """What the samples are, the setting that names their column, and the column."""
    if config.sound.key is not None:
        return "sound", "sound.key", config.sound.key
    if config.image_key is not None:
        return "image", "image_key", config.image_key
    sounds = [
        key
        for key, column in table.items()
        if column.kind == "sound" or (key in AUDIO_KEYS and column.kind in ("image", "bytes"))
    ]
    if sounds:
        key = _select_by_name(sounds, AUDIO_KEYS, "sound.key", table, origin)
        assert key is not None
        return "sound", "sound.key", key
    images = [key for key, column in table.items() if column.kind in ("image", "bytes")]
    image = _select_by_name(images, IMAGE_KEYS, "image_key", table, origin)
    if image is None:
        raise DataError(
            f"{origin}: no image or sound column among {', '.join(table)}; set data.image_key "
            "or data.sound.key"
        )
    return "image", "image_key", image


def _select_label_column(table: Mapping[str, Column], origin: str) -> str | None:
    """Class labels are labels whatever their name; plain numbers only under a usual name."""
    classes = [key for key, column in table.items() if column.kind == "classes"]
    numbers = [key for key in LABEL_KEYS if key in table and table[key].kind == "numbers"]
    return _select_by_name(classes or numbers, LABEL_KEYS, "label_key", table, origin)


def unused_text_column(table: Mapping[str, Column], chosen: SelectedColumns) -> str | None:
    """A column of texts that is called as labels are and is none unless it is named."""
    if chosen.label is not None:
        return None
    return next((key for key in LABEL_KEYS if key in table and table[key].kind == "texts"), None)


def _select_by_name(
    candidates: list[str],
    usual: tuple[str, ...],
    setting: str,
    table: Mapping[str, Column],
    origin: str,
) -> str | None:
    for key in usual:
        if key in candidates:
            return key
    if len(candidates) > 1:
        raise DataError(
            f"{origin}: {len(candidates)} columns could be the {_COLUMN_SETTINGS[setting]} "
            f"({', '.join(candidates)}, of {', '.join(table)}); set data.{setting}"
        )
    return candidates[0] if candidates else None
