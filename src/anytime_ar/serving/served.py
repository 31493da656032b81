"""The models of a server, by the names that clients use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from anytime_ar.errors import InputError
from anytime_ar.sampling import AnytimeModel
from anytime_ar.sampling.budget import quality_of
from anytime_ar.serving.lane import Lane
from anytime_ar.serving.media import Media, media_of
from anytime_ar.serving.schema import CurveAnswer, ModelAnswer, ModelsAnswer


class Missing(InputError):
    """There is no such model, or no such draw."""


@dataclass(frozen=True)
class Served:
    """One model."""

    name: str
    model: AnytimeModel
    media: Media
    lane: Lane

    @property
    def slots(self) -> int:
        """Rows drawn at once."""
        return self.lane.slots

    def quality(self, codes: int) -> float | None:
        """The share of full quality that so many codes have; None where it was not measured."""
        return quality_of(codes, self.model.curve)

    def _here_ms(self, codes: int) -> float | None:
        if not self.lane.measured:
            return None
        guided = self.model.labels is not None and self.model.bundle.card.choice.guided
        return round(1000 * self.lane.costs.sample_s(2 if guided else 1, codes), 3)

    def describe(self) -> ModelAnswer:
        """For clients."""
        model = self.model
        points = () if model.curve is None else model.curve.points
        return ModelAnswer(
            name=self.name,
            sample_shape=[*model.sample_shape],
            sample_rate=model.sample_rate,
            code_length=model.code_length,
            vocabulary=model.vocabulary,
            labels=None if model.labels is None else [*model.labels],
            formats=[*self.media.formats],
            slots=self.slots,
            curve=[
                CurveAnswer(
                    codes=point.codes,
                    quality=self.quality(point.codes),
                    fd=point.fd_sample,
                    mse=point.mse,
                    ms=point.ms,
                    here_ms=self._here_ms(point.codes),
                )
                for point in points
            ],
        )


class Models:
    """All models, the usual one first.

    Args:
        lanes: in which they are drawn.
    """

    def __init__(self, lanes: Mapping[str, Lane]) -> None:
        self._served = {
            name: Served(name, lane.model, media_of(lane.model), lane)
            for name, lane in lanes.items()
        }

    def get(self, name: str | None) -> Served:
        """A model by its name; None: the usual one.

        Raises:
            Missing: there is none.
        """
        name = next(iter(self._served)) if name is None else name
        if name not in self._served:
            raise no_model(name, self._served)
        return self._served[name]

    def formats(self, name: str | None) -> Sequence[str]:
        """That samples of a model can be written in, the usual one first.

        Raises:
            Missing: there is no such model.
        """
        return self.get(name).media.formats

    def describe(self) -> ModelsAnswer:
        """For clients."""
        return ModelsAnswer(models=[served.describe() for served in self._served.values()])


def no_model(name: str, served: Iterable[str]) -> Missing:
    """What who asks for a model hears that is not served."""
    return Missing(f"model {name!r} is not served here; choose one of {', '.join(served)}")
