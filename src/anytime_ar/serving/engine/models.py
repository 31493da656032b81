"""Registry of the models of a server, by the names that clients use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from anytime_ar.conditions import (
    ClassCondition,
    Condition,
    TextCondition,
    TokenCondition,
    VectorCondition,
)
from anytime_ar.errors import InputError
from anytime_ar.media.processor import MediaProcessor
from anytime_ar.sampling import AnytimeModel
from anytime_ar.sampling.budget import quality_at_codes
from anytime_ar.serving.engine.runner import ModelRunner
from anytime_ar.serving.schema import ConditionInfo, CurvePointInfo, ModelInfo, ModelList


class NotFoundError(InputError):
    """Error for a name of a model or an id of a sample that does not exist."""


@dataclass(frozen=True)
class ServedModel:
    """A model and its runner."""

    name: str
    """Name by which clients request the model."""
    model: AnytimeModel
    """Model with a prior and an autoencoder."""
    runner: ModelRunner
    """Runner that generates samples of the model."""

    @property
    def slots(self) -> int:
        """Return the number of rows that are sampled at once."""
        return self.runner.slots

    @property
    def media(self) -> MediaProcessor:
        """Return the converter between samples of the model and files."""
        return self.model.media

    def resolve_format(self, format: str | None) -> str:
        """Return the format of the samples in a response.

        Args:
            format: Requested format; None for the default of the model.

        Raises:
            InputError: Samples of this model cannot be written in the requested format.
        """
        formats = self.media.formats
        if format is None:
            return formats[0]
        if format not in formats:
            raise InputError(
                f"format {format!r} does not suit samples of shape {[*self.model.sample_shape]}; "
                f"use {', '.join(formats)}"
            )
        return format

    def quality(self, codes: int) -> float | None:
        """Return the share of the quality at full length that some codes reach.

        Args:
            codes: Number of codes of each sample.

        Returns:
            The share by the measured curve, or None if the model has no curve.
        """
        return quality_at_codes(codes, self.model.curve)

    def _server_ms(self, codes: int) -> float | None:
        if not self.runner.measured:
            return None
        rows = self.model.slots_per_sample(self.model.bundle.card.sampling_params)
        return round(1000 * self.runner.costs.sample_s(rows, codes), 3)

    def describe(self) -> ModelInfo:
        """Describe the model for clients."""
        model = self.model
        points = () if model.curve is None else model.curve.points
        return ModelInfo(
            name=self.name,
            sample_shape=[*model.sample_shape],
            sample_rate=model.sample_rate,
            code_length=model.code_length,
            vocabulary=model.vocabulary
            if isinstance(model.vocabulary, int)
            else [*model.vocabulary],
            labels=None if model.labels is None else [*model.labels],
            conditions={
                name: _describe_condition(condition) for name, condition in model.conditions.items()
            },
            formats=[*self.media.formats],
            slots=self.slots,
            curve=[
                CurvePointInfo(
                    codes=point.codes,
                    quality=self.quality(point.codes),
                    fd=point.fd_sample,
                    mse=point.mse,
                    ms=point.ms,
                    server_ms=self._server_ms(point.codes),
                )
                for point in points
            ],
        )


_MAX_WORDS = 1000
"""Most words of a condition that a description lists."""


def _describe_condition(condition: Condition) -> ConditionInfo:
    """Describe a condition for clients."""
    return ConditionInfo(
        kind=condition.kind,
        names=[*condition.names] if isinstance(condition, ClassCondition) else None,
        width=condition.width if isinstance(condition, VectorCondition) else None,
        max_tokens=condition.max_tokens if isinstance(condition, TokenCondition) else None,
        vocabulary=condition.token_count if isinstance(condition, TokenCondition) else None,
        words=[*condition.words[:_MAX_WORDS]] if isinstance(condition, TextCondition) else None,
    )


class ModelRegistry:
    """The models of a server, the default model first.

    Args:
        runners: Runners of the models, by name.
    """

    def __init__(self, runners: Mapping[str, ModelRunner]) -> None:
        """Store the models by name."""
        self._served = {
            name: ServedModel(name, runner.model, runner) for name, runner in runners.items()
        }

    def get(self, name: str | None) -> ServedModel:
        """Return a model by its name.

        Args:
            name: Name of the model; None for the default model.

        Raises:
            NotFoundError: No model has this name.
        """
        name = next(iter(self._served)) if name is None else name
        if name not in self._served:
            raise unknown_model_error(name, self._served)
        return self._served[name]

    def formats(self, name: str | None) -> Sequence[str]:
        """Return the formats that samples of a model can be written in, the default first.

        Args:
            name: Name of the model; None for the default model.

        Raises:
            NotFoundError: No model has this name.
        """
        return self.get(name).media.formats

    def describe(self) -> ModelList:
        """Describe all models for clients."""
        return ModelList(models=[served.describe() for served in self._served.values()])


def unknown_model_error(name: str, served: Iterable[str]) -> NotFoundError:
    """Return the error for a request that names a model that is not served.

    Args:
        name: Name in the request.
        served: Names of the served models.
    """
    return NotFoundError(f"model {name!r} is not served; choose one of {', '.join(served)}")
