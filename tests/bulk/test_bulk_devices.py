"""What shards are made on, by a cluster that is only told of."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anytime_ar.bulk import RayPoolConfig, SampleJob, ShardingConfig, run, sample_job
from anytime_ar.bulk import workers as ray_pool
from anytime_ar.errors import BulkError, InputError

BROKEN = "a worker of this test makes nothing"


class Cluster:
    """Ray, as far as it is asked; workers say that they can make nothing."""

    exceptions = SimpleNamespace(RayError=OSError)

    def __init__(self, **resources: float) -> None:
        self.resources, self.pools = resources, []
        context = SimpleNamespace(get_current=SimpleNamespace)
        self.data = SimpleNamespace(
            DataContext=context,
            from_items=lambda *_, **__: self,
            ActorPoolStrategy=lambda size: size,
        )

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def map_batches(self, _: object, **settings: Any) -> Any:
        self.pools.append((settings["compute"], settings["num_cpus"], settings["num_gpus"]))
        return SimpleNamespace(iter_rows=lambda: iter([{"error": BROKEN}]))


@pytest.fixture
def join(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def to(**resources: float) -> Cluster:
        cluster = Cluster(**resources)
        monkeypatch.setattr(ray_pool, "require_ray", lambda _: cluster)
        monkeypatch.setattr(ray_pool, "ray_session", lambda *_: nullcontext())
        return cluster

    return to


@pytest.fixture
def job(path_of, model_of) -> Any:
    def of(device: Any = None) -> SampleJob:
        options: Any = {"seed": 3, "sharding": ShardingConfig(shard_size=5), "device": device}
        return sample_job(path_of("images"), model_of("images"), 50, **options)

    return of


@pytest.mark.parametrize(
    ("resources", "asked", "pool", "device", "chosen"),
    [
        ({"CPU": 8.0}, "auto", {}, "cpu", (8, 1, None)),
        ({"CPU": 8.0, "GPU": 2.0}, "auto", {}, "cuda", (2, 1, 1)),
        ({"CPU": 8.0, "GPU": 2.0}, "auto", {"workers": 4}, "cpu", (4, 1, None)),
        ({"CPU": 8.0, "GPU": 4.0}, "cuda", {"threads": 4}, "cuda", (2, 4, 1)),
        ({"CPU": 64.0, "GPU": 32.0}, "cuda", {}, "cuda", (10, 1, 1)),  # one for each shard
        ({"CPU": 8.0, "GPU": 2.0}, "cpu", {}, "cpu", (8, 1, None)),
    ],
)
def test_workers_have_what_the_cluster_has(
    resources, asked, pool, device, chosen, join, job, tmp_path
) -> None:
    cluster = join(**resources)
    with pytest.raises(BulkError, match=f"{BROKEN}; 0 of 10 shards"):
        run(job(asked), str(tmp_path / "out"), engine="ray", pool=RayPoolConfig(**pool))
    assert cluster.pools == [chosen]
    stored = settings(tmp_path / "out")
    assert stored["device"] == device
    assert device == "cpu" or stored["backend"] == "portable"  # the kernel is for CPUs


@pytest.mark.parametrize(("device", "why"), [("cuda", "this machine has 0"), ("mps", "is mps")])
def test_a_device_that_is_not_there_leaves_nothing_behind(device, why, join, job, tmp_path) -> None:
    join(CPU=8.0)
    with pytest.raises(InputError, match=why):
        run(job(device), str(tmp_path / "out"), engine="ray")
    assert not (tmp_path / "out").exists()


def test_a_job_that_is_continued_keeps_its_device(join, job, tmp_path) -> None:
    cluster, out = join(CPU=8.0, GPU=8.0), tmp_path / "out"
    run(job("cpu"), str(out))
    (out / "records" / "00003.json").unlink()
    with pytest.raises(BulkError, match=BROKEN):
        run(job("auto"), str(out), engine="ray")
    assert cluster.pools == [(1, 1, None)]
    assert settings(out)["device"] == "cpu"
    with pytest.raises(InputError, match="device"):
        run(job("cuda"), str(out), engine="ray")


def test_a_job_of_this_process_is_done_with_what_it_has(job, tmp_path) -> None:
    assert run(job("auto"), str(tmp_path / "out")).new_samples == 50
    assert settings(tmp_path / "out")["device"] != "auto"


def settings(out: Path) -> dict[str, Any]:
    return json.loads((out / "job.json").read_text())
