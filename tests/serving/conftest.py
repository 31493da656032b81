from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from real_server import RealServer, save_models
from serving_fakes import KINDS
from spoiled_server import SLOW_STEP_S, Device, slow_device

from anytime_ar.sampling import AnytimeModel, load


@pytest.fixture(scope="session", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    """For what draws: a model of ours, and models with parts of other packages."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles on disk, by kind."""
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def shared_device(tmp_path_factory: pytest.TempPathFactory) -> Device:
    """That of the server below."""
    return slow_device(tmp_path_factory.mktemp("shared") / "device")


@pytest.fixture
def device(shared_device: Device) -> Iterator[Device]:
    """The same, for a test that changes how long steps of the slow model take."""
    yield shared_device
    shared_device.set(SLOW_STEP_S)


@pytest.fixture(scope="session")
def server(
    models: dict[str, Path], shared_device: Device, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealServer]:
    """One that serves all of them."""
    logs = tmp_path_factory.mktemp("logs") / "server.log"
    real = RealServer(
        *map(str, models.values()),
        options=("--slots", "32", "--deadline-s", "600"),
        logs=logs,
        device=shared_device,
    )
    yield real.ready()
    assert real.terminate() == 0


@pytest.fixture(scope="session")
def alone(models: dict[str, Path]) -> dict[str, AnytimeModel]:
    """The same models in this process."""
    return {kind: load(folder, device="cpu") for kind, folder in models.items()}
