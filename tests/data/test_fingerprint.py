"""What tells a data set from one that has changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anytime_ar.data import DataConfig, load_data
from anytime_ar.data.fingerprint import data_fingerprint, files_fingerprint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(20):
            Image.new("L", (8, 8), 7 * i).save(tmp_path / "set" / name / f"{i:02}.png")
    return tmp_path / "set"


def test_the_same_data_has_the_same_fingerprint(folder: Path) -> None:
    for streaming in (False, True):
        config = DataConfig(name=str(folder), streaming=streaming)
        before = data_fingerprint(load_data(config))
        (folder / ".DS_Store").write_bytes(b"x")
        now = data_fingerprint(load_data(config))
        assert now == before
        assert now.changes_since(before) == []
        assert (now.files is not None) == streaming
        (folder / ".DS_Store").unlink()


def test_it_survives_a_move_and_a_file(folder: Path) -> None:
    before = data_fingerprint(load_data(DataConfig(name=str(folder), streaming=True)))
    moved = folder.rename(folder.with_name("moved"))
    now = data_fingerprint(load_data(DataConfig(name=str(moved), streaming=True)))
    stored = type(before).model_validate_json(before.model_dump_json())
    assert now.changes_since(stored) == []


def test_labels_and_pixels_count(folder: Path) -> None:
    config = DataConfig(name=str(folder))
    before = data_fingerprint(load_data(config))
    (folder / "b").rename(folder / "c")
    renamed = data_fingerprint(load_data(config))
    assert renamed.changes_since(before) == ["labels are a, c; were a, b"]
    for path in (folder / "a").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) + 1).save(path)
    changes = data_fingerprint(load_data(config)).changes_since(renamed)
    assert "train has as many samples as before, but others" in changes


def test_files_of_a_stream_count_by_name_and_size(folder: Path) -> None:
    config = DataConfig(name=str(folder), streaming=True)
    before = files_fingerprint(config)
    assert before is not None
    assert str(before).startswith("40 files of ")
    (folder / "a" / "00.png").rename(folder / "a" / "99.png")
    assert files_fingerprint(config) != before
    assert files_fingerprint(DataConfig(name="digits")) is None
    assert files_fingerprint(DataConfig(name="owner/name")) is None


def test_files_of_a_stream_count_by_content(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(name=str(folder), streaming=True)
    paths = [folder / name / "00.png" for name in "ab"]
    for path, level in zip(paths, (1, 2), strict=True):
        Image.new("L", (8, 8), level).save(path, "bmp")
    before = data_fingerprint(load_data(config))
    one, other = (path.read_bytes() for path in paths)
    assert len(one) == len(other)
    paths[0].write_bytes(other)
    now = data_fingerprint(load_data(config))
    assert now.changes_since(before) == ["files have names and sizes as before, but other content"]
    assert before.files is not None
    begun_without = before.model_copy(
        update={"files": before.files.model_copy(update={"content_sha256": None})}
    )
    assert now.changes_since(begun_without) == []
    # Of large sets, only some blocks are read.
    for count in (1, 10**9):
        monkeypatch.setattr("anytime_ar.data.fingerprint._BLOCK_BYTES", 16)
        monkeypatch.setattr("anytime_ar.data.fingerprint._MAX_HASHED_BYTES", count)
        found = []
        for content in (one, other):
            paths[1].write_bytes(content)
            found.append(files_fingerprint(config))
        assert (found[0] == found[1]) == (count == 1)


def test_what_was_left_out_is_told(folder: Path) -> None:
    (folder / "a" / "notes.txt").write_text("no picture")
    with pytest.warns(UserWarning, match=r"\.txt"):
        data = load_data(DataConfig(name=str(folder)))
    assert data.notes
    assert data_fingerprint(data).left_out == data.notes
