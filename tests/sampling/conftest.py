from __future__ import annotations

import pytest
from sampling_models import build_model, record_steps

from anytime_ar.sampling import AnytimeModel


@pytest.fixture(scope="session")
def model() -> AnytimeModel:
    """Conditional on three classes."""
    return build_model()


@pytest.fixture(scope="session")
def unconditional() -> AnytimeModel:
    return build_model(labels=None)


@pytest.fixture
def steps(model: AnytimeModel, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """For every step of the decoder, the positions of its rows."""
    return record_steps(monkeypatch, model)
