from __future__ import annotations

from typing import Any

import pytest
from sampling_models import build_model, record

from anytime_ar.sampling import AnytimeModel


@pytest.fixture(scope="session")
def model() -> AnytimeModel:
    """Conditional on three classes."""
    return build_model()


@pytest.fixture(scope="session")
def unconditional() -> AnytimeModel:
    return build_model(labels=None)


@pytest.fixture
def steps(model: AnytimeModel, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The arguments of every step of the decoder: cache, inputs, positions."""
    return record(monkeypatch, model, "step")
