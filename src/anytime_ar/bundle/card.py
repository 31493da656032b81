"""What a model is, in words and numbers: the content of a bundle's config.json."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from anytime_ar.autoencoder import AutoencoderConfig
from anytime_ar.config import Config
from anytime_ar.prior import PriorConfig, SamplingParams

MAX_SAMPLE_VALUES = 2**28
"""Of one sample, 1 GB: no weights say how large what they decode is."""


class DataCard(Config):
    """What a model's samples are."""

    name: str
    """The data set that it was trained on."""
    sample_shape: tuple[PositiveInt, ...] = Field(min_length=2, max_length=3)
    """(C, H, W) of images, (C, T) of sounds."""
    sample_rate: int | None = Field(None, ge=1)
    """Of sounds, in Hz; None: the samples are no sounds."""
    normalize: Literal["peak", "none"] | None = None
    """Scaling of recordings before they are encoded: to the peak of training clips, or none; None
    for images."""
    value_range: tuple[float, float] = (-1.0, 1.0)
    labels: tuple[str, ...] | None = None
    """Names of the classes; None where there are none."""
    label_frequencies: tuple[float, ...] | None = None
    """Share of each class in the training split, one for each label."""

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
        if (len(self.sample_shape) == 2) != (self.sample_rate is not None):
            raise ValueError(
                f"samples of shape {self.sample_shape} do not go with sample_rate "
                f"{self.sample_rate}; sounds (C, T) need one, images (C, H, W) have none"
            )
        return self

    @model_validator(mode="after")
    def _check_label_frequencies(self) -> Self:
        labels, shares = len(self.labels or ()), len(self.label_frequencies or ())
        if labels != shares:
            raise ValueError(f"{labels} labels need as many label_frequencies, got {shares}")
        return self


class Card(Config):
    """What a bundle holds, as written in its config.json."""

    format_version: Literal[2] = 2
    name: str
    data: DataCard
    autoencoder: AutoencoderConfig
    prior: PriorConfig | None = None
    """None: an autoencoder alone, which encodes and decodes but does not sample."""
    sampling_params: SamplingParams = SamplingParams()
    """How codes are chosen where a draw does not say otherwise."""
    weights_dtype: Literal["float32", "float16"] = "float32"
    """Number format of the stored weights; in memory they are float32."""
    training: dict[str, Any] = Field(default_factory=dict)
    """The configuration of the run that made the model, for the record."""

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
        if self.sampling_params.guided and not self.data.labels:
            raise ValueError(
                f"sampling_params.guidance is {self.sampling_params.guidance}, and the model has no "
                "labels; drop it"
            )
        return self

    @property
    def label_count(self) -> int:
        """Classes that the prior is conditioned on; 0: none."""
        return len(self.data.labels or ())
