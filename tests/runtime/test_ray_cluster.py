"""What workers of Ray run on."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest

from anytime_ar.errors import InputError
from anytime_ar.runtime.ray_cluster import check_ray_device, choose_ray_device, ray_session


def cluster(**resources: float) -> Any:
    return SimpleNamespace(cluster_resources=lambda: resources)


@pytest.mark.parametrize(
    ("device", "gpus", "chosen"),
    [("auto", 0, "cpu"), ("auto", 1, "cpu"), ("auto", 2, "cuda"), ("cpu", 2, "cpu")],
)
def test_workers_have_a_gpu_each_or_none(device: str, gpus: int, chosen: str) -> None:
    ray = cluster(CPU=4.0, **({"GPU": float(gpus)} if gpus else {}))
    assert choose_ray_device(ray, device, 2) == chosen


def test_gpus_that_are_missing_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match=r"2 workers, each with a GPU.* this machine has 1"):
        choose_ray_device(cluster(GPU=1.0), "cuda", 2)
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")  # which may grow
    assert choose_ray_device(cluster(GPU=1.0), "cuda", 2) == "cuda"


def test_devices_that_ray_does_not_have() -> None:
    with pytest.raises(InputError, match="device is mps, and engine ray takes cpu, cuda or auto"):
        check_ray_device("mps")


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "ray://[::1]:{}"])
def test_a_cluster_that_is_not_there_is_told_at_once(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", address.format(port))
    ray = SimpleNamespace(is_initialized=lambda: False)
    with (
        pytest.raises(
            InputError, match=rf"no Ray cluster at RAY_ADDRESS=\S+:{port} \(.+\); start it"
        ),
        ray_session(ray, 1),
    ):
        pass
