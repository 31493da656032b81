from __future__ import annotations

import pytest
import torch
from evaluation_fakes import LABELS, LENGTH, FakeModel, FakeSplits, patterns
from torch import Tensor

from anytime_ar.evaluation import FeatureExtractor, FeatureExtractorConfig, train_feature_extractor


@pytest.fixture(scope="session")
def splits() -> FakeSplits:
    return FakeSplits(patterns(400, seed=1), patterns(200, seed=2))


@pytest.fixture(scope="session")
def basis(splits: FakeSplits) -> Tensor:
    flat = splits.train.data.flatten(1)
    vectors: Tensor = torch.linalg.svd(flat, full_matrices=False).Vh
    return vectors[:LENGTH].T.contiguous()


@pytest.fixture
def model(splits: FakeSplits, basis: Tensor) -> FakeModel:
    return FakeModel(basis, source=splits.train.data)


@pytest.fixture
def unordered(splits: FakeSplits, basis: Tensor) -> FakeModel:
    return FakeModel(basis.flip(1), source=splits.train.data)


@pytest.fixture(scope="session")
def features(splits: FakeSplits) -> FeatureExtractor:
    config = FeatureExtractorConfig(width=4, num_features=24, steps=40, batch_size=32)
    return train_feature_extractor(splits.train, config, label_count=LABELS)
