from __future__ import annotations

from collections.abc import Iterator

import pytest
from sampling_models import CARDS, Kind, build_model, record_steps

from anytime_ar.prior import Backend
from anytime_ar.sampling import AnytimeModel


@pytest.fixture(scope="session", autouse=True, params=list(CARDS))
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test runs on images and on sounds."""
    Kind.name = request.param
    yield Kind.name
    Kind.name = "images"


@pytest.fixture(scope="session")
def model(kind: str) -> AnytimeModel:  # noqa: ARG001 - decides what is built
    """Conditional on three classes."""
    return build_model()


@pytest.fixture(scope="session")
def unconditional(kind: str) -> AnytimeModel:  # noqa: ARG001
    return build_model(labels=None)


@pytest.fixture
def steps(model: AnytimeModel, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """For every step of the decoder, the positions of its rows."""
    return record_steps(monkeypatch, model)


@pytest.fixture(params=["native", "portable"])
def backend(request: pytest.FixtureRequest, kind: str) -> Backend:
    """Every backend that the kind of model has; one for a codec, whose prior is ours."""
    other = {"a Llama prior": "native", "parts of the user": "native", "a neural codec": "portable"}
    if request.param == other.get(kind):
        pytest.skip("tested with the other backend")
    return request.param
