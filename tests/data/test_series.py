"""Series: arrays and lists in, channels of one range out, or one clear line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from anytime_ar.data import DataConfig, load_data
from anytime_ar.data.fingerprint import data_fingerprint
from anytime_ar.data.loading import DataSplits, load_objects
from anytime_ar.errors import DataError
from anytime_ar.media.series import (
    scale_channels,
    series_from_csv,
    series_to_csv,
    unscale_channels,
)

N, C, T = 30, 3, 12
RANGES = ((-5.0, 15.0), (1e6, 1e6 + 4), (2.0, 2.0))


def values(count: int = N) -> np.ndarray:
    """float64 [count, C, T], in each series both ends of `RANGES`."""
    share = np.random.default_rng(0).permuted(np.tile(np.linspace(0, 1, T), (count, C, 1)), axis=2)
    low, high = np.array(RANGES).T[..., None]
    return low + (high - low) * share


def table(path: Path, columns: dict[str, Any]) -> Path:
    parquet.write_table(pa.table(columns), path)
    return path


def everything(data: DataSplits) -> torch.Tensor:
    return torch.cat([batch.data for batch in data.train.batches(7)])


def columns_of(x: np.ndarray) -> dict[str, Any]:
    return {name: [*x[:, i]] for i, name in enumerate(("temperature", "pressure", "version"))}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("stored", ["npz", "npy", "columns", "one column", "tensor"])
def test_each_channel_has_one_range_however_it_is_stored(
    stored: str, streaming: bool, tmp_path: Path
) -> None:
    x = values()
    config = {"streaming": streaming, "validation_fraction": 0.2}
    if stored == "tensor":
        data = load_objects(torch.from_numpy(x), DataConfig(**config))
    else:
        path = tmp_path / f"x.{stored}"
        if stored == "npz":
            np.savez(path, train=x)
        elif stored == "npy":
            np.save(path, x)
        elif stored == "columns":
            path = table(tmp_path / "x.parquet", columns_of(x) | {"codes": [[1, 2]] * N})
        else:
            path = table(tmp_path / "x.parquet", {"x": x.tolist(), "label": [0, 1] * (N // 2)})
        data = load_data(DataConfig(name=str(path), **config))
    assert (data.sample_shape, data.sample_rate) == ((C, T), None)
    assert data.channel_ranges == RANGES
    named = ("temperature", "pressure", "version") if stored == "columns" else None
    assert data.channel_names == named
    assert data.label_names == (("0", "1") if stored == "one column" else None)
    scaled = everything(data)
    assert scaled.dtype == torch.float32
    assert scaled.amax((0, 2)).tolist() == [1, 1, 0]
    assert scaled.amin((0, 2)).tolist() == [-1, -1, 0]
    original = scale_channels(torch.from_numpy(x), RANGES).flatten(1)
    distances = torch.cdist(scaled.flatten(1), original)
    assert distances.amin(1).max() < 1e-3  # each is one of them
    assert len(distances.argmin(1).unique()) == len(scaled)


def test_other_units_are_a_change_of_the_data() -> None:
    first, again, scaled = (
        data_fingerprint(load_objects(factor * torch.from_numpy(values()), DataConfig()))
        for factor in (1, 1, 2)
    )
    assert again.changes_since(first) == []
    assert scaled.changes_since(first) == ["the ranges of the channels of the series differ"]


def test_ranges_are_those_of_training_unless_a_model_has_some(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", train=values(), test=3 * values())
    config = DataConfig(name=str(tmp_path / "x.npz"))
    data = load_data(config)
    assert data.channel_ranges == RANGES
    assert float(next(data.test.batches(1)).data[:, 0].max()) == pytest.approx(4.0)
    wide = tuple((2 * low, 2 * high) for low, high in RANGES)
    assert load_data(config, wide).channel_ranges == wide
    assert everything(load_data(config, wide))[:, 0].amax() == pytest.approx(0.25)


def test_splits_labels_and_one_channel_of_an_archive(tmp_path: Path) -> None:
    x = values()[:, 0]
    labels = np.array(["walk", "run"] * (N // 2))
    np.savez(tmp_path / "x.npz", train=x, val=x[:4], test=x[:2], train_labels=labels)
    config = DataConfig(name=str(tmp_path / "x.npz"), labels=False)
    data = load_data(config)
    assert data.sample_shape == (1, T)
    assert [split.size for split in (data.train, data.validation, data.test)] == [N, 4, 2]
    np.savez(tmp_path / "y.npz", train=x, train_labels=labels)
    assert load_data(DataConfig(name=str(tmp_path / "y.npz"))).label_names == ("run", "walk")


def test_columns_are_chosen_by_name(tmp_path: Path) -> None:
    integers = {"steps": [[i, i + 1] for i in range(N)], "heart": [[0.5, 1.0]] * N}
    path = table(tmp_path / "x.parquet", integers | {"note": ["x"] * N})
    assert load_data(DataConfig(name=str(path))).sample_shape == (1, 2)
    chosen = load_data(DataConfig(name=str(path), series_keys=("heart", "steps")))
    assert chosen.sample_shape == (2, 2)
    assert chosen.channel_names == ("heart", "steps")


def refused(match: str, path: Path, **settings: Any) -> None:
    with pytest.raises(DataError, match=match) as caught:
        load_data(DataConfig(name=str(path), **settings))
    assert "\n" not in str(caught.value)


def test_mistakes_take_one_line(tmp_path: Path) -> None:
    x = values()
    gap = x.copy()
    gap[4, 1, 3] = np.nan
    np.save(tmp_path / "gap.npy", gap)
    refused(r"train sample 4: channel 1 is nan at step 3; fill gaps", tmp_path / "gap.npy")
    with pytest.warns(UserWarning, match="left out 1 broken"):
        kept = load_data(DataConfig(name=str(tmp_path / "gap.npy"), skip_broken=True))
    assert kept.channel_ranges == RANGES
    np.save(tmp_path / "flat.npy", x[0, 0])
    refused(r"train has shape \[12\]; store \[N, C, T\]", tmp_path / "flat.npy")
    np.save(tmp_path / "text.npy", np.array([["a", "b"]] * 20))
    refused(r"is <U1 of shape \[\d, ?\d?\]; pass series|is <U1 of shape", tmp_path / "text.npy")
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused("does not read as arrays of numbers", tmp_path / "object.npy")
    (tmp_path / "noise.npz").write_bytes(b"PK\3\4nothing")
    refused("does not read as arrays of numbers", tmp_path / "noise.npz")
    np.savez(tmp_path / "names.npz", x=x)
    refused("has an array 'x'; name arrays train, validation and test", tmp_path / "names.npz")
    np.savez(tmp_path / "test.npz", test=x)
    refused("data has the splits test; pass one as train", tmp_path / "test.npz")
    ragged = table(tmp_path / "ragged.parquet", {"x": [[0.0] * (5 + i % 2) for i in range(N)]})
    refused(r"has shape \[1, [56]\], but .* has \[1, [56]\]; give all", ragged)
    uneven = table(tmp_path / "uneven.parquet", {"x": [[0.0, 1]] * N, "y": [[0.5]] * N})
    refused("row 0: channels are no lists of numbers of one length", uneven)
    refused(r"no column 'z'; set data.series_keys to one of x, y", uneven, series_keys=("x", "z"))
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(DataError, match="has 3 channels, and the model 1; pass the same"):
        load_data(DataConfig(name=str(tmp_path / "x.npy")), ((0.0, 1.0),))


def test_tables_hold_every_bit() -> None:
    series = values()[0].astype(np.float32)
    for names in (("a", "b", 'c,"d"'), ("1", "2", "x")):
        assert np.array_equal(series_from_csv(series_to_csv(series, names)), series)
    assert series_from_csv(b"1,2\r\n3,4\r\n\r\n").tolist() == [[1, 3], [2, 4]]
    for broken in (b"a,b\n1\n1,2\n", b"a\nb\n", b"\xff\xfe\n1"):
        with pytest.raises(ValueError):  # noqa: PT011
            series_from_csv(broken)


def test_scaling_is_undone() -> None:
    x = torch.from_numpy(values()).float()
    scaled = scale_channels(x, RANGES)
    torch.testing.assert_close(unscale_channels(scaled, RANGES), x)
