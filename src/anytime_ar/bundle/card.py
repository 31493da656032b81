"""The card of a model: the content of config.json in a bundle."""

from __future__ import annotations

import math
import re
from typing import Any, Literal, Self

from pydantic import (
    Field,
    FiniteFloat,
    PositiveInt,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from anytime_ar.autoencoder import AutoencoderConfig
from anytime_ar.bundle.references import PartName, WeightsReference
from anytime_ar.conditions import Condition
from anytime_ar.config import Config
from anytime_ar.errors import InputError
from anytime_ar.plugins import OneOf, PartConfig
from anytime_ar.prior import PriorConfig, SamplingParams

_NAME = re.compile(r"[A-Za-z]\w*")
MAX_SAMPLE_VALUES = 2**28
"""Maximum number of values of one sample, 1 GB as float32: the weights do not limit the size of
what they decode."""


class DataCard(Config):
    """Shape, range and labels of a model's samples."""

    name: str
    """Data set that the model was trained on: a name, path or Hub ID."""
    sample_shape: tuple[PositiveInt, ...] = Field(min_length=2, max_length=3)
    """Shape of one sample: (C, H, W) of images, (C, T) of audio."""
    sample_rate: int | None = Field(None, ge=1)
    """Sampling rate of audio in Hz; None for images and series."""
    normalize: Literal["peak", "none"] | None = None
    """Scaling of audio before it is encoded: to the peak of training clips, or none.

    None for images and series.
    """
    channel_ranges: tuple[tuple[FiniteFloat, FiniteFloat], ...] | None = None
    """Lowest and highest value of each channel of a series in the training split, in its own units:
    a sample has -1 and 1 for these. None for images and audio."""
    channel_names: tuple[str, ...] | None = None
    """Names of the channels of a series; None if they have none."""
    value_range: tuple[float, float] = (-1.0, 1.0)
    """Lowest and highest value of samples."""
    labels: tuple[str, ...] | None = None
    """Names of the classes, by label; None without labels."""
    label_frequencies: tuple[float, ...] | None = None
    """Share of each class in the training split, by label; None without labels."""
    conditions: dict[str, SerializeAsAny[Condition]] = Field(default_factory=dict)
    """Conditions of the prior beside the label, by name."""

    @field_validator("conditions")
    @classmethod
    def _check_condition_names(cls, conditions: dict[str, Condition]) -> dict[str, Condition]:
        wrong = [name for name in conditions if name == "label" or not _NAME.fullmatch(name)]
        if wrong:
            raise ValueError(
                f"{wrong[0]!r} is no name of a condition; take letters, digits and _, and not label"
            )
        return conditions

    @field_validator("sample_shape")
    @classmethod
    def _check_sample_size(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        if math.prod(shape) > MAX_SAMPLE_VALUES:
            raise ValueError(
                f"a sample has at most {MAX_SAMPLE_VALUES:,} numbers, got shape {shape}"
            )
        return shape

    @model_validator(mode="after")
    def _check_sample_rate(self) -> Self:
        if len(self.sample_shape) == 3 and self.sample_rate is not None:
            raise ValueError(
                f"samples of shape {self.sample_shape} do not go with sample_rate "
                f"{self.sample_rate}; sounds (C, T) have one, images (C, H, W) have none"
            )
        return self

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        is_series = len(self.sample_shape) == 2 and self.sample_rate is None
        for name in ("channel_ranges", "channel_names"):
            described = getattr(self, name)
            count = self.sample_shape[0] if is_series else 0
            if described is not None and len(described) != count:
                raise ValueError(
                    f"{name} describes {len(described)} channels, and samples have shape "
                    f"{self.sample_shape}; give one for each channel of a series (C, T)"
                )
        return self

    @model_validator(mode="after")
    def _check_label_frequencies(self) -> Self:
        labels, shares = len(self.labels or ()), len(self.label_frequencies or ())
        if labels != shares:
            raise ValueError(f"{labels} labels need as many label_frequencies, got {shares}")
        return self

    def check_guidance(self, params: SamplingParams) -> None:
        """Check that there is what sampling parameters guide.

        Raises:
            InputError: the model has no labels or conditions, or not those that are named.
        """
        if params.guidance != 1 and not self.labels and not self.conditions:
            raise InputError(
                f"guidance {params.guidance} was given, but this model has no labels; drop it"
            )
        known = [*(["label"] if self.labels else []), *self.conditions]
        unknown = [name for name, _ in params.condition_guidance if name not in known]
        if unknown:
            raise InputError(
                f"condition_guidance names {unknown[0]!r}, and this model has "
                f"{', '.join(known) or 'no conditions'}; drop it"
            )


class Card(Config):
    """The description of a model, as its config.json holds it."""

    format_version: Literal[2] = 2
    """Version of the bundle format, always 2."""
    name: str
    """Name of the model, shown in reports and on its card."""
    data: DataCard
    """Shape, range and labels of the samples."""
    autoencoder: OneOf[SerializeAsAny[AutoencoderConfig]]
    """Configuration of the autoencoder's networks, or of another tokenizer."""
    prior: OneOf[PriorConfig] | None = None
    """Configuration of the prior; None for an autoencoder alone, which encodes and decodes only."""
    sampling_params: SamplingParams = SamplingParams()
    """Default temperature, top-k, top-p and guidance of samples."""
    weights_dtype: Literal["float32", "float16"] = "float32"
    """Number format of the stored weights; in memory they are float32."""
    references: dict[PartName, WeightsReference] = Field(default_factory=dict)
    """Where the weights of tokenizer or prior are, if they are not in the bundle."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Configuration of the run that trained the model, for the record."""

    @model_validator(mode="before")
    @classmethod
    def _read_normalize_of_0_1(cls, values: Any) -> Any:
        """Take the scaling of recordings from the record of training, where version 0.1 has it."""
        match values:
            case {
                "data": {"sample_rate": int()} as data,
                "training": {"data": {"sound": dict(old)}},
            }:
                scaling = "peak" if old.get("loudness") == "peak" else "none"
                return values | {"data": {"normalize": scaling} | data}
        return values

    @model_validator(mode="after")
    def _check_guidance(self) -> Self:
        try:
            self.data.check_guidance(self.sampling_params)
        except InputError as error:
            raise ValueError(f"sampling_params: {error}") from error
        return self

    @model_validator(mode="after")
    def _check_references(self) -> Self:
        parts = {"tokenizer": self.autoencoder, "prior": self.prior}
        for part in self.references:
            if not isinstance(parts[part], PartConfig):
                raise ValueError(
                    f"references.{part} is for one of another package, and this model has "
                    f"{'none' if parts[part] is None else 'one of ours'}; drop it"
                )
        return self

    @property
    def label_count(self) -> int:
        """Number of classes that the prior is conditioned on; 0 for none."""
        return len(self.data.labels or ())
