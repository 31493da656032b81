"""Sources, splits and the shape of what comes out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from anytime_ar.data import DataConfig, Split, load_data
from anytime_ar.data.rows import HeldOutRows, HoldOut, InMemoryRows, Row

SHARED = Path(__file__).parents[2] / "../shared/data"


def everything(split: Split, batch_size: int = 7) -> tuple[torch.Tensor, torch.Tensor | None]:
    batches = list(split.batches(batch_size))
    labels = [batch.labels for batch in batches if batch.labels is not None]
    return torch.cat([batch.data for batch in batches]), torch.cat(labels) if labels else None


def test_digits_values_and_labels() -> None:
    from sklearn.datasets import load_digits

    data = load_data(DataConfig())
    assert data.sample_shape == (1, 8, 8)
    assert data.label_names == tuple("0123456789")
    assert [data.train.size, data.validation.size, data.test.size] == [1456, 162, 179]
    images, labels = everything(data.train, 100)
    assert images.dtype == torch.float32
    assert labels is not None
    assert labels.dtype == torch.int64
    assert images.min() == -1.0
    assert images.max() == 1.0
    levels, stored = load_digits(return_X_y=True)
    levels = levels.reshape(-1, 1, 8, 8)
    # The first sample that training keeps, found by its pixels.
    ours = torch.round((images[0] + 1) * 8).numpy()
    (position,) = np.flatnonzero((levels == ours).all(axis=(1, 2, 3)))
    assert stored[position] == labels[0]


def test_splits_are_disjoint_complete_and_deterministic(make_picture, make_folder) -> None:
    root = make_folder({f"{i:03}.png": make_picture(i) for i in range(100)})
    config = DataConfig(name=str(root), validation_fraction=0.2)
    data = load_data(config)
    parts = [everything(split)[0] for split in (data.train, data.validation, data.test)]
    assert [len(part) for part in parts] == [64, 16, 20]
    assert len(torch.unique(torch.cat(parts), dim=0)) == 100
    assert torch.equal(everything(load_data(config).validation)[0], parts[1])
    other = load_data(config.model_copy(update={"split_seed": 1}))
    assert not torch.equal(everything(other.validation)[0], parts[1])


@pytest.mark.parametrize("fraction", [0.03, 0.1, 1 / 3, 0.5, 0.77, 0.99])
def test_hold_out_takes_its_share_at_random_positions(fraction: float) -> None:
    hold_out = HoldOut(fraction, 0, "test")
    taken = [position for position in range(600) if position in hold_out]
    assert abs(len(taken) - fraction * 600) <= 1
    assert [hold_out.count_before(i) for i in (0, 77, 600)] == [
        sum(position < i for position in taken) for i in (0, 77, 600)
    ]
    if 0.1 <= fraction <= 0.5:
        # Not every n-th: the digits are stored in turn, and a stride would pick one class.
        assert len(set(np.diff(taken))) > 1


def test_held_out_parts_know_their_sizes() -> None:
    rows = InMemoryRows([Row(i, b"", None, str(i)) for i in range(101)])
    hold_outs = [HoldOut(0.3, 5, "test"), HoldOut(0.3, 5, "validation")]
    parts = [HeldOutRows(rows, hold_outs, part) for part in range(3)]
    found = [[row.index for row in part.read()] for part in parts]
    assert [part.size for part in parts] == [len(indices) for indices in found]
    assert sorted(index for indices in found for index in indices) == list(range(101))
    assert [row.index for row in parts[2].read(40)] == [i for i in found[2] if i >= 40]
    for part, indices in zip(parts, found, strict=True):
        assert [part.index_of(position) for position in range(len(indices))] == indices


def test_stored_splits_are_used_and_validation_never_is_the_test_set(
    make_picture, make_folder
) -> None:
    pictures = {f"train/{'ab'[i % 2]}/{i:02}.png": make_picture(i) for i in range(20)}
    pictures |= {f"test/{'ab'[i % 2]}/{i:02}.png": make_picture(i) for i in range(20, 30)}
    data = load_data(DataConfig(name=str(make_folder(pictures)), validation_fraction=0.25))
    assert data.label_names == ("a", "b")
    test, labels = everything(data.test)
    expected = [np.asarray(make_picture(i)) for i in [*range(20, 30, 2), *range(21, 30, 2)]]
    assert torch.equal(test[:, 0], torch.from_numpy(np.stack(expected)).float() / 127.5 - 1)
    assert labels is not None
    assert labels.tolist() == [0] * 5 + [1] * 5
    assert (data.train.size, data.validation.size) == (15, 5)


def test_folder_of_classes_and_flat_folder(make_picture, make_folder) -> None:
    root = make_folder({f"{c}/{i}.png": make_picture(i) for c in "yx" for i in range(8)})
    data = load_data(DataConfig(name=str(root), validation_fraction=0.25))
    assert data.label_names == ("x", "y")
    flat = load_data(DataConfig(name=str(root / "x"), validation_fraction=0.25))
    assert flat.label_names is None
    assert next(flat.train.batches(3)).labels is None
    assert next(flat.train.shuffled(3, 0)).labels is None


def test_hub_layout_and_single_file_of_parquet(tmp_path, make_picture, make_parquet) -> None:
    images = [make_picture(i) for i in range(12)]
    root = tmp_path / "set"
    make_parquet(root / "data/train-00000-of-00002.parquet", images[:5], [0, 1, 2, 0, 1])
    make_parquet(root / "data/train-00001-of-00002.parquet", images[5:10], [2, 0, 1, 3, 0])
    make_parquet(root / "data/test-00000-of-00001.parquet", images[10:], [0, 1])
    data = load_data(DataConfig(name=str(root), validation_fraction=0.2))
    assert (data.train.size, data.validation.size, data.test.size) == (8, 2, 2)
    assert data.label_names == ("0", "1", "2", "3")  # plain integers
    train, _ = everything(data.train)
    validation, _ = everything(data.validation)
    stored = torch.from_numpy(np.stack([np.asarray(i) for i in images[:10]])).float() / 127.5 - 1
    read = {tuple(x.flatten().tolist()) for x in torch.cat([train, validation])}
    assert read == {tuple(x.flatten().tolist()) for x in stored}

    single = root / "data/train-00000-of-00002.parquet"
    alone = load_data(DataConfig(name=str(single), validation_fraction=0.4))
    assert alone.train.size == 2
    subset = load_data(DataConfig(name=str(root), subset="data", validation_fraction=0.2))
    assert subset.train.size == 8


def test_class_names_and_unusual_columns(tmp_path, make_picture, make_parquet) -> None:
    path = make_parquet(
        tmp_path / "p.parquet",
        [make_picture(i, mode="RGB") for i in range(10)],
        [i % 2 for i in range(10)],
        names=("cat", "dog"),
        image_key="img",
        label_key="animal",
    )
    data = load_data(DataConfig(name=str(path), validation_fraction=0.4))
    assert data.label_names == ("cat", "dog")
    assert data.sample_shape == (3, 4, 4)


def test_crop_resize_and_channels(make_picture, make_folder) -> None:
    wide = make_picture(0, size=(12, 8), mode="RGB")
    root = make_folder({f"{i}.png": wide for i in range(9)})
    plain = DataConfig(name=str(root), validation_fraction=0.3)
    cropped = load_data(plain.model_copy(update={"center_crop": 4}))
    image = next(cropped.train.batches(1)).data[0]
    pixels = torch.from_numpy(np.array(wide)).permute(2, 0, 1)
    assert torch.equal(image, pixels[:, 2:6, 4:8].float() / 127.5 - 1)
    gray = load_data(plain.model_copy(update={"size": 6, "channels": 1}))
    assert gray.sample_shape == (1, 6, 6)
    celeba = load_data(plain.model_copy(update={"center_crop": 8, "size": 4}))
    assert celeba.sample_shape == (3, 4, 4)


def test_every_level_maps_into_the_range_exactly(make_folder) -> None:
    from PIL import Image

    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    data = load_data(
        DataConfig(name=str(make_folder({f"{i}.png": ramp for i in range(9)})),
                   validation_fraction=0.3)
    )  # fmt: skip
    values = next(data.train.batches(1)).data.flatten()
    assert values[0] == -1.0
    assert values[255] == 1.0
    torch.testing.assert_close(values, torch.linspace(-1, 1, 256))


def test_streaming_gives_what_memory_gives(tmp_path, make_picture, make_parquet) -> None:
    path = make_parquet(
        tmp_path / "train.parquet", [make_picture(i) for i in range(40)], [i % 3 for i in range(40)]
    )
    memory = load_data(DataConfig(name=str(tmp_path)))
    stream = load_data(DataConfig(name=str(path), streaming=True, shuffle_buffer=6))
    assert stream.label_names == memory.label_names
    assert stream.sample_shape == memory.sample_shape
    for name in ("train", "validation", "test"):
        a, b = getattr(memory, name), getattr(stream, name)
        assert a.size == b.size
        for x, y in zip(a.batches(7), b.batches(7), strict=True):
            assert torch.equal(x.data, y.data)
            assert torch.equal(x.labels, y.labels)
        samples, labels = everything(a)
        for split in (a, b):
            part = split.read_range(1, a.size + 5)
            assert torch.equal(part.data, samples[1:])
            assert torch.equal(part.labels, labels[1:])
            assert torch.equal(split.read_range(1, 3).data, samples[1:3])


def test_hub_set_is_asked_for_by_name(monkeypatch, make_picture) -> None:
    import datasets

    asked = []

    def table(start: int, count: int) -> datasets.Dataset:
        features = datasets.Features(
            {"img": datasets.Image(), "label": datasets.ClassLabel(names=["plane", "car"])}
        )
        images = [make_picture(i, mode="RGB") for i in range(start, start + count)]
        labels = [i % 2 for i in range(count)]
        return datasets.Dataset.from_dict({"img": images, "label": labels}, features)

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        tables = {"train": table(0, 20), "test": table(20, 5)}
        if kwargs["streaming"]:
            return {name: value.to_iterable_dataset() for name, value in tables.items()}
        return tables

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    config = DataConfig(name="uoft-cs/cifar10", subset="plain_text", revision="main")
    data = load_data(config)
    assert asked == [(("uoft-cs/cifar10", "plain_text"), {"revision": "main", "streaming": False})]
    assert data.label_names == ("plane", "car")
    assert (data.train.size, data.validation.size, data.test.size) == (18, 2, 5)
    stream = load_data(config.model_copy(update={"streaming": True}))
    assert stream.train.size is None  # the stream does not say
    for name in ("train", "validation", "test"):
        assert torch.equal(everything(getattr(data, name))[0], everything(getattr(stream, name))[0])


def test_stream_without_declared_columns_is_refused(monkeypatch) -> None:
    import datasets

    def rows():
        yield {"image": b""}

    table = datasets.IterableDataset.from_generator(rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: {"train": table})
    with pytest.raises(ValueError, match=r"a/b: does not declare .* set data.streaming to false"):
        load_data(DataConfig(name="a/b", streaming=True))


@pytest.mark.parametrize(
    "bad", [{"size": 0}, {"validation_fraction": 1.0}, {"channels": 2}, {"nmae": "digits"}]
)
def test_configuration_is_validated(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DataConfig(**bad)


def test_configuration_survives_json() -> None:
    config = DataConfig(name="ylecun/mnist", size=32)
    assert DataConfig(**json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize(
    ("name", "shape", "classes"), [("mnist", (1, 28, 28), "7"), ("cifar10", (3, 32, 32), "frog")]
)
def test_real_data(name: str, shape: tuple[int, ...], classes: str) -> None:
    path = SHARED / name
    if not path.is_dir():
        pytest.skip(f"no {name} beside the repository (../shared/data/{name})")
    data = load_data(DataConfig(name=str(path), streaming=True, shuffle_buffer=64))
    assert data.sample_shape == shape
    assert data.label_names is not None
    assert classes in data.label_names
    assert data.test.size == 10_000
    batch = next(data.train.shuffled(64, seed=0))
    assert batch.data.shape == (64, *shape)
    assert len(set(batch.labels.tolist())) == 10
