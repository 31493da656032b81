"""Features of the test split are computed once, and never taken for those of something else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from evaluation_fakes import FakeModel, FakeSplits
from torch import Tensor

from anytime_ar.evaluation import FeatureExtractor, evaluate
from anytime_ar.evaluation import feature_cache as cached
from anytime_ar.evaluation.feature_cache import FeatureCache
from anytime_ar.runtime.distributed import DistributedContext


class Counted:
    """An extractor that counts the samples it was given."""

    def __init__(self, network: FeatureExtractor) -> None:
        self.network, self.seen = network, 0

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return self.network(x)


Run = Callable[..., tuple[list[Tensor], int]]


@pytest.fixture
def run(tmp_path: Path, splits: FakeSplits, features: FeatureExtractor) -> Run:
    """Features of the test split by way of the cache, and how many had to be computed."""

    def compute(
        network: FeatureExtractor = features, data: Tensor = splits.test.data, size: int = 64
    ) -> tuple[list[Tensor], int]:
        counted = Counted(network)
        cache = FeatureCache(tmp_path / "cache", network, DistributedContext())

        def batches() -> Iterator[Tensor]:
            return iter(data.split(size))

        return list(cache.get_or_compute(batches, counted)), counted.seen

    return compute


def test_features_are_computed_once(run: Run, tmp_path: Path, splits: FakeSplits) -> None:
    first, computed = run()
    assert computed == len(splits.test.data)
    again, computed = run()
    assert computed == 0
    assert len(again) == len(first)
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".npy"]


def test_other_samples_networks_or_batches_are_others(
    run: Run, splits: FakeSplits, features: FeatureExtractor
) -> None:
    run()
    data = splits.test.data.clone()
    data[-1, 0, 3, 3] += 1e-6
    assert run(data=data)[1] == len(data)
    assert run(data=splits.test.data[:-1])[1] == len(data) - 1
    assert run(size=65)[1] == len(data)  # which round differently
    network = copy.deepcopy(features)
    with torch.no_grad():
        network.neck.bias[0] += 1e-6
    assert run(network)[1] == len(data)
    assert run(network)[1] == run()[1] == 0


def test_an_interrupted_computation_leaves_nothing(
    tmp_path: Path, splits: FakeSplits, features: FeatureExtractor
) -> None:
    cache = FeatureCache(tmp_path / "cache", features, DistributedContext())
    found = cache.get_or_compute(lambda: iter(splits.test.data.split(64)), Counted(features))
    next(found)
    found.close()
    assert not (tmp_path / "cache").exists()


def test_what_is_too_large_is_not_kept(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, splits: FakeSplits
) -> None:
    monkeypatch.setattr(cached, "MAX_BYTES", 1000)
    assert run()[1] == run()[1] == len(splits.test.data)
    assert not (tmp_path / "cache").exists()


def test_an_evaluation_with_a_cache_finds_the_same(
    tmp_path: Path, model: FakeModel, splits: FakeSplits, features: FeatureExtractor
) -> None:
    curves = [
        evaluate(model, splits, features, samples=40, codes=[2], feature_cache=cache)
        .points[0]
        .fd_sample
        for cache in (None, tmp_path, tmp_path)
    ]
    assert curves[0] == curves[1] == curves[2]
    assert len(list(tmp_path.iterdir())) == 1
