"""Features of others, on a stand-in with the interface of the Inception file."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from evaluation_fakes import FakeModel, FakeSplits
from torch import Tensor, nn

from anytime_ar.errors import BundleError, InputError
from anytime_ar.evaluation import FeatureExtractor, TorchScriptFeatureExtractor, evaluate


class StandIn(nn.Module):
    """Takes what `inception-2015-12-05.pt` takes."""

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        assert img.dtype == torch.uint8
        assert img.shape[1] == 3
        pooled = nn.functional.adaptive_avg_pool2d(img.float() / 255, (3, 3)).flatten(1)
        return pooled if return_features else pooled[:, :2]


def saved(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(path))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return saved(StandIn(), tmp_path / "stand-in.pt")


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_handed_over_as_bytes_of_three_colours(path: Path, channels: int) -> None:
    levels = torch.tensor([-1.2, -1.0, 0.0, 1.0, 1.2])
    x = levels[:, None, None, None].expand(5, channels, 9, 9)
    found = TorchScriptFeatureExtractor(path)(x)
    expected = torch.tensor([0, 0, 128, 255, 255]) / 255
    torch.testing.assert_close(found, expected[:, None].expand(5, 27))


def test_a_model_is_judged_by_them(
    path: Path, model: FakeModel, splits: FakeSplits, features: FeatureExtractor
) -> None:
    names = ("a", "b", "c", "d")
    data = FakeSplits(splits.train, splits.test, label_names=names)
    curve = evaluate(model, data, TorchScriptFeatureExtractor(path), samples=60, codes=[1, 6])
    first, last = curve.points
    assert first.fd_reconstruction is not None
    assert last.fd_reconstruction is not None
    assert last.fd_reconstruction < first.fd_reconstruction / 2
    assert last.sample_metrics is not None
    assert last.nn_distance_ratio is not None
    assert (
        last.label_accuracy_reconstruction is curve.label_accuracy_test is None
    )  # such a network reads no labels
    own = evaluate(model, data, features, samples=60, codes=[6])
    assert last.mse == own.points[0].mse
    assert last.fd_reconstruction != own.points[0].fd_reconstruction


def test_sounds_are_no_images(path: Path) -> None:
    with pytest.raises(InputError, match=r"takes images .*, and these samples are \(1, 64\)"):
        TorchScriptFeatureExtractor(path)(torch.zeros(2, 1, 64))


class Maps(nn.Module):
    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        return img.float() if return_features else img


class Plain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Maps(), r"gives \[2, 3, 32, 32\] for 2 images; features are \[2, F\]"),
        (Plain(), r"does not take uint8 images \[B, 3, H, W\] and return_features=True"),
    ],
)
def test_networks_of_another_kind(tmp_path: Path, module: nn.Module, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        TorchScriptFeatureExtractor(saved(module, tmp_path / "other.pt"))


def test_files_of_another_kind(tmp_path: Path) -> None:
    wrong = tmp_path / "weights.pt"
    wrong.write_bytes(b"not a network")
    with pytest.raises(BundleError, match="is no TorchScript file"):
        TorchScriptFeatureExtractor(wrong)
