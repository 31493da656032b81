"""The models that come with the package are as good as they say on their whole test sets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import anytime_ar as aar
from anytime_ar.data import DataConfig, load_data
from anytime_ar.evaluation.metrics.reconstruction import snr_db

DATA = Path(__file__).parents[3] / "shared" / "data"
FSDD = DATA / "fsdd"


@pytest.mark.parametrize(("name", "every"), [("mnist", 4), ("cifar10", 8)])
def test_an_image_model_reconstructs_as_its_curve_says(name: str, every: int) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"no images beside the repository (../shared/data/{name})")
    model = aar.load(name, device="cpu")
    assert model.curve is not None
    data = load_data(DataConfig(name=str(DATA / name)))
    x = next(data.test.batches(10_000)).data
    codes = model.encode(x)
    for point in model.curve.points[::every]:
        error = float((model.decode(codes[:, : point.codes]) - x).square().mean())
        assert error == pytest.approx(point.mse, rel=0.001)
    assert torch.equal(codes, model.encode(x))


def test_fsdd_reconstructs_as_its_curve_says() -> None:
    if not FSDD.is_dir():
        pytest.skip("no FSDD beside the repository (../shared/data/fsdd)")
    model = aar.load("fsdd", device="cpu")
    assert model.curve is not None
    config = DataConfig.parse(model.bundle.card.training["data"], origin="fsdd")
    data = load_data(config.model_copy(update={"name": str(FSDD)}))
    x = next(data.test.batches(300)).data
    codes = model.encode(x)
    for point in model.curve.points[::6]:
        made = model.decode(codes[:, : point.codes])
        assert float((made - x).square().mean()) == pytest.approx(point.mse, rel=0.01)
        ratio = float(snr_db(x, made).mean())
        assert ratio == pytest.approx(point.metrics["snr"], abs=0.05)
