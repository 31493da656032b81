"""The models of a server, by the names that clients use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from anytime_ar.errors import InputError
from anytime_ar.sampling import AnytimeModel
from anytime_ar.sampling.budget import quality_at_codes
from anytime_ar.serving.engine.runner import ModelRunner
from anytime_ar.serving.media import MediaProcessor, processor_for
from anytime_ar.serving.schema import CurvePointInfo, ModelInfo, ModelList


class NotFoundError(InputError):
    """There is no such model, or no such draw."""


@dataclass(frozen=True)
class ServedModel:
    """One model."""

    name: str
    model: AnytimeModel
    media: MediaProcessor
    runner: ModelRunner

    @property
    def slots(self) -> int:
        """Rows drawn at once."""
        return self.runner.slots

    def quality(self, codes: int) -> float | None:
        """The share of full quality that so many codes have; None where it was not measured."""
        return quality_at_codes(codes, self.model.curve)

    def _server_ms(self, codes: int) -> float | None:
        if not self.runner.measured:
            return None
        guided = self.model.labels is not None and self.model.bundle.card.sampling_params.guided
        return round(1000 * self.runner.costs.sample_s(2 if guided else 1, codes), 3)

    def describe(self) -> ModelInfo:
        """For clients."""
        model = self.model
        points = () if model.curve is None else model.curve.points
        return ModelInfo(
            name=self.name,
            sample_shape=[*model.sample_shape],
            sample_rate=model.sample_rate,
            code_length=model.code_length,
            vocabulary=model.vocabulary,
            labels=None if model.labels is None else [*model.labels],
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


class ModelRegistry:
    """All models, the usual one first.

    Args:
        runners: in which they are drawn.
    """

    def __init__(self, runners: Mapping[str, ModelRunner]) -> None:
        self._served = {
            name: ServedModel(name, lane.model, processor_for(lane.model), lane)
            for name, lane in runners.items()
        }

    def get(self, name: str | None) -> ServedModel:
        """A model by its name; None: the usual one.

        Raises:
            Missing: there is none.
        """
        name = next(iter(self._served)) if name is None else name
        if name not in self._served:
            raise unknown_model_error(name, self._served)
        return self._served[name]

    def formats(self, name: str | None) -> Sequence[str]:
        """That samples of a model can be written in, the usual one first.

        Raises:
            Missing: there is no such model.
        """
        return self.get(name).media.formats

    def describe(self) -> ModelList:
        """For clients."""
        return ModelList(models=[served.describe() for served in self._served.values()])


def unknown_model_error(name: str, served: Iterable[str]) -> NotFoundError:
    """What who asks for a model hears that is not served."""
    return NotFoundError(f"model {name!r} is not served here; choose one of {', '.join(served)}")
