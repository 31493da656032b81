"""Shuffled batches: order, resuming, augmentation."""

from __future__ import annotations

import json
import threading
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from anytime_ar.data import AugmentationConfig, Batch, DataConfig, DataSplits, Prefetcher, load_data
from anytime_ar.data.augmentation import NO_AUGMENTATION, augment
from anytime_ar.data.rows import InMemoryRows, Row, StoredArray
from anytime_ar.data.splits import StreamingSplit
from anytime_ar.errors import DataError, InputError
from anytime_ar.runtime.distributed import BatchShard

STRONG = AugmentationConfig(flip=True, shift=1.0, rotate=20.0, scale=0.2)


@pytest.fixture(params=["memory", "streaming", "streaming folder"])
def data(request, tmp_path: Path, make_picture, make_parquet, make_folder) -> DataSplits:
    """50 pictures to train on, labelled 0 to 9; a stream reads them in blocks of 8."""
    pictures = [make_picture(i) for i in range(50)]
    if request.param == "streaming folder":
        root = make_folder({f"train/{i // 5}/{i:02}.png": p for i, p in enumerate(pictures)})
        for split in ("validation", "test"):
            make_folder({f"{split}/{i}/x.png": make_picture(99) for i in range(10)})
    else:
        root = tmp_path
        make_parquet(root / "train.parquet", pictures, [i // 5 for i in range(50)])
        for split in ("validation", "test"):
            make_parquet(root / f"{split}.parquet", [make_picture(99)], [0])
    streaming = request.param != "memory"
    return load_data(DataConfig(name=str(root), streaming=streaming, shuffle_buffer=8))


def equal(a: Batch, b: Batch) -> bool:
    return torch.equal(a.data, b.data) and torch.equal(a.labels, b.labels)


def keys(batch: Batch) -> list[tuple[float, ...]]:
    return [tuple(image.flatten().tolist()) for image in batch.data]


def test_each_epoch_has_every_sample_once_in_a_new_order(data: DataSplits) -> None:
    batches = data.train.shuffled(10, seed=0)
    epochs = [[key for batch in islice(batches, 5) for key in keys(batch)] for _ in range(2)]
    stored = keys(next(data.train.batches(50)))
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(stored)
    assert epochs[0] != epochs[1]
    assert epochs[0] != stored


def test_labels_stay_with_their_images(data: DataSplits) -> None:
    stored = next(data.train.batches(50))
    label_of = dict(zip(keys(stored), stored.labels.tolist(), strict=True))
    for batch in islice(data.train.shuffled(7, seed=3), 8):
        assert [label_of[key] for key in keys(batch)] == batch.labels.tolist()


def test_same_seed_same_batches_other_seed_others(data: DataSplits) -> None:
    first, again, other = (next(data.train.shuffled(16, seed, STRONG)) for seed in (1, 1, 2))
    assert equal(first, again)
    assert not equal(first, other)


@pytest.mark.parametrize("interrupted_after", [0, 1, 3, 4, 8, 11])
def test_resumed_equals_uninterrupted(data: DataSplits, interrupted_after: int) -> None:
    batches = data.train.shuffled(12, seed=5, augmentation=STRONG)
    for _ in islice(batches, interrupted_after):
        pass
    state = json.loads(json.dumps(batches.state_dict()))
    expected = list(islice(batches, 6))
    resumed = data.train.shuffled(12, seed=5, augmentation=STRONG)
    next(resumed)  # a used iterator can be set back as well
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert all(equal(a, b) for a, b in zip(expected, islice(resumed, 6), strict=True))
    assert resumed.state_dict() == batches.state_dict()


def test_reading_ahead_changes_nothing(data: DataSplits) -> None:
    """Also where it is resumed: what was read ahead then is read again."""
    expected = [*islice(data.train.shuffled(7, seed=1), 12)]
    ahead = Prefetcher(data.train.shuffled(7, seed=1))
    assert all(equal(*pair) for pair in zip(islice(ahead, 5), expected, strict=False))
    state = json.loads(json.dumps(ahead.state_dict()))
    assert all(equal(*pair) for pair in zip(islice(ahead, 3), expected[5:], strict=False))
    for resumed in (ahead, Prefetcher(data.train.shuffled(7, seed=1))):
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        assert all(equal(*pair) for pair in zip(islice(resumed, 7), expected[5:], strict=True))


def test_the_next_batch_is_read_while_the_last_one_is_used() -> None:
    read = [threading.Event() for _ in range(4)]

    def note(row: Row) -> StoredArray:
        read[row.index // 2].set()
        if row.index == 5:
            raise DataError("row 5 cannot be read")
        return np.zeros((1, 2, 2), dtype=np.uint8)

    rows = InMemoryRows([Row(i, b"", None, str(i)) for i in range(8)])
    batches = Prefetcher(StreamingSplit(rows, note, 2, "test").shuffled(2, seed=0))
    next(batches)
    assert read[1].wait(10)
    assert not read[2].is_set()
    next(batches)
    assert read[2].wait(10)  # and fails, which is nothing to who has not asked for it
    with pytest.raises(DataError, match="row 5"):
        next(batches)


def test_resuming_a_stream_that_skips_held_out_samples(
    tmp_path: Path, make_picture, make_parquet
) -> None:
    path = make_parquet(tmp_path / "all.parquet", [make_picture(i) for i in range(60)], [0] * 60)
    config = DataConfig(name=str(path), streaming=True, shuffle_buffer=8, validation_fraction=0.3)
    train = load_data(config).train
    batches = train.shuffled(5, seed=0)
    for _ in islice(batches, 4):
        pass
    resumed = train.shuffled(5, seed=0)
    resumed.load_state_dict(batches.state_dict())
    assert all(equal(a, b) for a, b in zip(islice(batches, 8), islice(resumed, 8), strict=True))


@pytest.mark.parametrize("count", [2, 3, 12])
def test_parts_are_the_batch_and_each_process_reads_its_own(
    data: DataSplits, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    whole = data.train.shuffled(12, seed=5, augmentation=STRONG)
    parts = [
        data.train.shuffled(12, seed=5, augmentation=STRONG, shard=BatchShard(index, count))
        for index in range(count)
    ]
    for _ in range(9):  # more than two epochs of 50
        expected, found = next(whole), [next(part) for part in parts]
        torch.testing.assert_close(torch.cat([batch.data for batch in found]), expected.data)
        assert torch.equal(torch.cat([batch.labels for batch in found]), expected.labels)
        assert parts[0].state_dict() == parts[-1].state_dict() == whole.state_dict()
    read = 0
    if isinstance(data.train, StreamingSplit):
        reader = data.train._decoder

        def counted(row: Row) -> StoredArray:
            nonlocal read
            read += 1
            return reader(row)

        monkeypatch.setattr(data.train, "_decoder", counted)
        for _ in range(5):
            next(parts[0])
        assert 0 < read <= 5 * 12 // count  # a block was begun before it was counted


def test_a_batch_that_cannot_be_cut_is_refused(data: DataSplits) -> None:
    with pytest.raises(InputError, match="batch_size is 12, which cannot be cut into 5 equal par"):
        data.train.shuffled(12, seed=0, shard=BatchShard(0, 5))


def test_augmentation_is_drawn_anew_in_every_step(make_picture, make_folder) -> None:
    root = make_folder({f"{i}.png": make_picture(0) for i in range(20)})  # all the same
    data = load_data(DataConfig(name=str(root)))
    first, second = islice(data.train.shuffled(6, seed=0, augmentation=STRONG), 2)
    assert not torch.equal(first.data, second.data)


def test_batches_stay_full_when_larger_than_the_split(data: DataSplits) -> None:
    batch = next(data.train.shuffled(125, seed=0))
    assert batch.data.shape == (125, 1, 4, 4)
    assert set(Counter(keys(batch)).values()) == {2, 3}


def test_ordered_pass_ends_with_a_short_batch(data: DataSplits) -> None:
    assert [len(batch.data) for batch in data.train.batches(20)] == [20, 20, 10]


def test_state_of_another_run_is_refused(data: DataSplits) -> None:
    batches = data.train.shuffled(4, seed=0)
    state = batches.state_dict()
    with pytest.raises(ValueError, match=r"data state has seed=0, but .* seed=1; resume with"):
        data.train.shuffled(4, seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match=r"batch_size=4, but these batches have batch_size=5"):
        data.train.shuffled(5, seed=0).load_state_dict(state)
    with pytest.raises(ValueError, match=r"epoch=-1, expected an integer >= 0"):
        batches.load_state_dict({**state, "epoch": -1})
    with pytest.raises(ValueError, match=r"batch_size is 0; pass at least 1"):
        data.train.shuffled(0, seed=0)
    with pytest.raises(ValueError, match=r"batch_size is -1; pass at least 1"):
        data.train.batches(-1)


def test_position_beyond_changed_data_is_refused(data: DataSplits) -> None:
    batches = data.train.shuffled(4, seed=0)
    batches.load_state_dict({**batches.state_dict(), "block_start": 80})
    with pytest.raises(ValueError, match=r"no samples from position 80 on; the data changed"):
        next(batches)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_augmentation_is_free() -> None:
    images = torch.rand(2, 1, 4, 4)
    assert augment(images, NO_AUGMENTATION, generator()) is images


def test_flips_mirror_about_half_of_the_images() -> None:
    images = torch.rand(1000, 3, 4, 5, generator=generator(1)) * 2 - 1
    flipped = augment(images, AugmentationConfig(flip=True), generator())
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    kept = (flipped == images).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert 450 < mirrored.sum() < 550


def test_affine_changes_each_image_within_the_range() -> None:
    image = (torch.rand(1, 1, 9, 9, generator=generator(1)) * 2 - 1).sign()
    moved = augment(image.repeat(20, 1, 1, 1), STRONG, generator())
    assert moved.shape == (20, 1, 9, 9)
    assert moved.min() >= -1.0
    assert moved.max() <= 1.0
    assert len(torch.unique(moved, dim=0)) == 20


def test_shift_moves_by_at_most_its_pixels() -> None:
    image = torch.full((200, 1, 11, 11), -1.0)
    image[:, :, 5, 5] = 1.0
    moved = augment(image, AugmentationConfig(shift=2.0), generator()) + 1
    position = torch.arange(11.0)
    for axis in (2, 3):
        mass = moved.sum(dim=5 - axis).flatten(1)  # [200, 11]
        offset = (mass * position).sum(1) / mass.sum(1) - 5
        assert offset.abs().max() <= 2.0 + 1e-4
        assert offset.min() < -1.5
        assert offset.max() > 1.5


def test_moved_images_are_as_sharp_as_before() -> None:
    """Stripes of four pixels keep their contrast, by however many parts of a pixel they move; by
    half a pixel the mean of two neighbours would keep 71 % of it."""
    stripes = (torch.arange(32.0) * torch.pi / 2).sin().expand(200, 1, 32, 32) / 2
    moved = augment(stripes, AugmentationConfig(shift=1.0), generator())
    inside = moved[:, 0, 4:-4, 4:-4]
    contrast = inside.std(dim=(1, 2)) / stripes[0, 0, 4:-4, 4:-4].std()
    assert contrast.min() > 0.95
    assert contrast.max() < 1.05


def test_rotation_keeps_its_form_on_oblong_images() -> None:
    """A dot 3 pixels right of the centre stays 3 pixels from it, whatever the aspect."""
    image = torch.full((100, 1, 9, 17), -1.0)
    image[:, :, 4, 11] = 1.0
    moved = augment(image, AugmentationConfig(rotate=90.0), generator()) + 1
    mass = moved.sum(dim=(1, 2, 3))
    down = (moved.sum(dim=(1, 3)) * (torch.arange(9.0) - 4)).sum(1) / mass
    right = (moved.sum(dim=(1, 2)) * (torch.arange(17.0) - 8)).sum(1) / mass
    distance = (down**2 + right**2).sqrt()
    assert (distance - 3).abs().max() < 0.3
    assert down.abs().max() > 2.5
