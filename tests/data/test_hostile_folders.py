"""Parquet folders that hold more than is read, and splits in which nothing decodes."""

from __future__ import annotations

import io
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from anytime_ar.data import DataConfig, DataSplits, load_data
from anytime_ar.errors import DataError

COUNT = 30


def png(level: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4), level).save(file, "png")
    return file.getvalue()


def write(path: Path, count: int = COUNT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({"image": [png(8 * i) for i in range(count)]}), path)
    return path


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def load(path: Path, **options: Any) -> DataSplits:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notes hold the same
        return load_data(DataConfig(name=str(path), **options))


def size(data: DataSplits) -> int:
    return sum(split.size or 0 for split in (data.train, data.validation, data.test))


def test_images_beside_parquet_are_told(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet")
    for name in ("cat/0.png", "cat/1.png", "dog/deep/0.JPG", "top.png", "data/a.wav"):
        put(tmp_path / name, png())
    for name in (".DS_Store", ".cache/x.png", "README.md", "__MACOSX/cat.png"):
        put(tmp_path / name, png())
    data = load(tmp_path)
    assert size(data) == COUNT
    assert data.notes == (
        "left out 5 images or sounds that lie beside parquet files: 3 x .png, 1 x .wav, 1 x .jpg",
    )


def test_images_in_the_folder_of_a_split_are_told(tmp_path: Path) -> None:
    write(tmp_path / "train/0.parquet")
    put(tmp_path / "train/0.png", png())
    assert "left out 1 images or sounds" in load(tmp_path).notes[0]


@pytest.mark.parametrize(
    ("read", "unread"),
    [
        ("train.parquet", "data/test.parquet"),
        ("train.parquet", "deep/er/train.parquet"),
        ("train/0.parquet", "train/deep/0.parquet"),
        ("train.parquet", "shards.parquet/part-0.parquet"),
        ("data/train.parquet", "default/test.parquet"),
    ],
)
def test_parquet_elsewhere_is_told(tmp_path: Path, read: str, unread: str) -> None:
    write(tmp_path / read)
    write(tmp_path / unread)
    data = load(tmp_path)
    assert size(data) == COUNT
    assert len(data.notes) == 1
    assert f"left out {unread}, which do not lie in" in data.notes[0]


def test_parquet_beside_the_folder_that_is_read_is_told(tmp_path: Path) -> None:
    write(tmp_path / "data/train.parquet")
    write(tmp_path / "data/more.parquet")
    write(tmp_path / "validated.parquet")
    notes = load(tmp_path).notes
    assert notes[0] == "left out more.parquet, which are not named as splits"
    assert "left out validated.parquet, which do not lie in" in notes[1]


def test_parquet_in_folders_of_keys(tmp_path: Path) -> None:
    write(tmp_path / "set.parquet/part-0.parquet")
    write(tmp_path / "set.parquet/label=1/part-1.parquet")
    notes = load(tmp_path / "set.parquet").notes
    assert "left out label=1/part-1.parquet, which do not lie in" in notes[0]
    (tmp_path / "empty.parquet").mkdir()
    with pytest.raises(DataError, match=r"empty\.parquet: no rows in the train split; fetch it"):
        load(tmp_path / "empty.parquet")


def test_links_that_lead_back_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "set/train.parquet")
    put(tmp_path / "cats/0.png", png())
    (tmp_path / "set/back").symlink_to(tmp_path / "set")
    (tmp_path / "set/cats").symlink_to(tmp_path / "cats")
    assert "left out 1 images or sounds" in load(tmp_path / "set").notes[0]


@pytest.mark.parametrize("total", [30_000_000, 10**40])
def test_a_number_in_a_name_allocates_nothing(tmp_path: Path, total: int) -> None:
    write(tmp_path / f"train-00000-of-{total}.parquet")
    load(tmp_path)
    tracemalloc.start()
    try:
        notes = load(tmp_path).notes
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    assert notes == (f"{total - 1} of {total} shards of the train split are not there",)


@pytest.mark.parametrize("streaming", [False, True])
def test_splits_in_which_nothing_decodes_are_told_together(tmp_path: Path, streaming: bool) -> None:
    for name, content in (("train", png()), ("validation", b"broken"), ("test", b"broken")):
        for i in range(4):
            put(tmp_path / name / f"{i}.png", content)
    with pytest.raises(DataError) as refused:
        load(tmp_path, streaming=streaming)
    assert "validation/0.png: does not" in str(refused.value)
    assert "test/0.png: does not" in str(refused.value)
    assert str(refused.value).endswith("set data.skip_broken to leave such samples out")
    with pytest.raises(DataError, match=r"^8 samples cannot be read") as refused:
        load(tmp_path, streaming=streaming, skip_broken=True)
    assert "without them the splits" in str(refused.value)
    assert "validation" in str(refused.value).split("the splits ")[1]
    put(tmp_path / "test/9.png", png())
    with pytest.raises(DataError, match=r"; without them the split validation would be empty: rep"):
        load(tmp_path, streaming=streaming, skip_broken=True)


def test_a_broken_row_by_path_names_the_path(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(png()[:40])
    cells = [{"bytes": None, "path": str(broken)}] * COUNT
    parquet.write_table(pa.table({"image": cells}), tmp_path / "p.parquet")
    with pytest.raises(
        DataError, match=rf"p\.parquet row 0: {broken}: does not decode as an image"
    ):
        load(tmp_path / "p.parquet")
