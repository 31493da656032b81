from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from real_server import RealServer, save_models

from anytime_ar.sampling import AnytimeModel, load


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles on disk, by kind."""
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def server(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealServer]:
    """One that serves all of them."""
    logs = tmp_path_factory.mktemp("logs") / "server.log"
    real = RealServer(
        *map(str, models.values()), options=("--slots", "32", "--deadline-s", "600"), logs=logs
    )
    yield real.ready()
    assert real.terminate() == 0


@pytest.fixture(scope="session")
def alone(models: dict[str, Path]) -> dict[str, AnytimeModel]:
    """The same models in this process."""
    return {kind: load(folder, device="cpu") for kind, folder in models.items()}
