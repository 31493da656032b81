"""Parquet of any writer: literal paths, all of Arrow's types, labels of any kind."""

from __future__ import annotations

import io
import json
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from anytime_ar.data import DataConfig, DataSplits, labels, load_data
from anytime_ar.data.sources.parquet import ParquetTable, inspect_parquet
from anytime_ar.errors import DataError

COUNT = 24


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4), level).save(file, "png")
    return file.getvalue()


BYTES = [png(10 * i) for i in range(COUNT)]


def write(path: Path, declared: dict[str, Any] | None = None, **columns: Any) -> Path:
    """Writes a table, with what the library `datasets` would note about its columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if declared is not None:
        note = json.dumps({"info": {"features": declared}})
        table = table.replace_schema_metadata({"huggingface": note})
    parquet.write_table(table, path)
    return path


def load(path: Path, **options: Any) -> DataSplits:
    return load_data(DataConfig(name=str(path), **{"validation_fraction": 0.2, **options}))


def stored_labels(data: DataSplits) -> list[int]:
    """All of them, sorted."""
    found: list[int] = []
    for split in (data.train, data.validation, data.test):
        for batch in split.batches(5):
            assert batch.labels is not None
            found += batch.labels.tolist()
    return sorted(found)


# Paths


@pytest.mark.parametrize(
    "name", ["run[12]", "a*b", "what?", "night::two", "50%20off", "a#b", "s3:", "{a,b}", "~x", "é"]
)
@pytest.mark.parametrize("streaming", [False, True])
def test_paths_are_literal(tmp_path: Path, name: str, streaming: bool) -> None:
    for other in ("run1", "axxb", "whatx", "50 off", "a"):  # what patterns would find
        write(tmp_path / other / "train.parquet", image=[b"other"] * COUNT)
    write(tmp_path / name / name / "train.parquet", image=BYTES, label=[0, 1] * 12)
    write(tmp_path / name / f"{name}.parquet", image=BYTES, label=[0, 1] * 12)
    options = {"streaming": streaming}
    for data in (
        load(tmp_path / name / name, **options),
        load(tmp_path / name, subset=name, **options),
        load(tmp_path / name / f"{name}.parquet", **options),
    ):
        assert data.sample_shape == (1, 4, 4)
        assert stored_labels(data) == [0] * 12 + [1] * 12


def test_column_names_are_literal(tmp_path: Path) -> None:
    inner = pa.array([{"png": 1}] * COUNT)
    path = write(tmp_path / "p.parquet", **{"image": inner, "image.png": BYTES, "a.b": [0, 1] * 12})
    data = load(path, image_key="image.png", label_key="a.b")
    assert stored_labels(data) == [0] * 12 + [1] * 12


def test_files_that_are_no_splits_are_told(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", image=BYTES)
    write(tmp_path / "validated.parquet", image=BYTES)
    write(tmp_path / "trainval.parquet", image=BYTES)
    (tmp_path / "._train.parquet").write_bytes(b"of the system")
    with pytest.warns(UserWarning, match=r"left out trainval\.parquet, validated\.parquet, which"):
        data = load(tmp_path)
    assert data.train.size + data.validation.size + data.test.size == COUNT


def test_no_file_that_is_a_split(tmp_path: Path) -> None:
    write(tmp_path / "validated.parquet", image=BYTES)
    with pytest.raises(DataError, match=r"it holds 1 x \.parquet; .*pass the path of one"):
        load(tmp_path)


@pytest.mark.parametrize("pattern", ["{}-00000-of-00001", "{}/0000"])
def test_a_clone_of_a_hub_set_with_a_folder_for_its_configuration(
    tmp_path: Path, pattern: str
) -> None:
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: plain\n---\n")
    (tmp_path / ".git").mkdir()
    for split in ("train", "test"):
        write(tmp_path / f"plain/{pattern.format(split)}.parquet", image=BYTES)
    assert load(tmp_path).test.size == COUNT
    write(tmp_path / "other/train-00000-of-00001.parquet", image=BYTES[:9])
    with pytest.raises(DataError, match=r"several data sets \(other, plain\); choose one"):
        load(tmp_path)
    assert load(tmp_path, subset="plain").test.size == COUNT
    for i, content in enumerate(BYTES):  # with images, the folder is no set of the Hub
        (tmp_path / f"{i}.png").write_bytes(content)
    with pytest.warns(UserWarning, match=r"left out 4 files that are no samples: 3 x \.parquet"):
        assert load(tmp_path).label_names is None


def test_shards_that_cannot_be_one_split(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", image=BYTES)
    write(tmp_path / "train-00000-of-00002.parquet", image=BYTES)
    with pytest.raises(DataError, match=r"train\.parquet cannot all be shards of the train split"):
        load(tmp_path)
    (tmp_path / "train.parquet").unlink()
    with pytest.warns(UserWarning, match="1 of 2 shards of the train split are not there"):
        load(tmp_path)
    write(tmp_path / "training-00001-of-00002.parquet", image=BYTES)
    with pytest.raises(DataError, match="cannot all be shards of the train split; keep one set"):
        load(tmp_path)


def test_empty_shards_are_left_out_and_the_damaged_one_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", image=BYTES[:12])
    write(tmp_path / "train-1.parquet", image=pa.array([], pa.null()))
    write(tmp_path / "train-2.parquet", image=[*BYTES[12:20], b"broken", *BYTES[21:]])
    with pytest.raises(DataError, match=r"train-2\.parquet row 8: does not decode"):
        load(tmp_path)
    write(tmp_path / "train-2.parquet", image=BYTES[12:])
    with pytest.warns(UserWarning, match=r"left out train-1\.parquet, which hold no rows"):
        data = load(tmp_path)
    assert data.train.size + data.validation.size + data.test.size == COUNT
    (tmp_path / "train-1.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"train-1\.parquet: does not read as parquet"):
        load(tmp_path)
    write(tmp_path / "train-1.parquet", picture=BYTES)
    with pytest.raises(DataError, match=r"train-1\.parquet: has no column 'image' as the train"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["train", "train-00000-of-00001", "train-0000"])
def test_empty_files_do_no_harm_whatever_their_name(tmp_path: Path, name: str) -> None:
    write(tmp_path / f"{name}.parquet", image=BYTES)
    write(tmp_path / "train-00001-of-00001.parquet", image=pa.array([], pa.binary()))
    with pytest.warns(UserWarning, match=r"left out train-00001-of-00001\.parquet, which hold no"):
        data = load(tmp_path)
    assert data.train.size + data.validation.size + data.test.size == COUNT
    write(tmp_path / f"{name}.parquet", image=pa.array([], pa.binary()))
    with pytest.raises(DataError, match="no rows in the train split; fetch it again"):
        load(tmp_path)


def test_pipes_and_links_to_nowhere_are_no_shards(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", image=BYTES)
    os.mkfifo(tmp_path / "train-1.parquet")
    with pytest.raises(DataError, match=r"train-1\.parquet: is not there, or no file; restore"):
        load(tmp_path)
    (tmp_path / "train-1.parquet").unlink()
    (tmp_path / "train-1.parquet").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"train-1\.parquet: is not there, or no file; restore"):
        load(tmp_path)


def test_empty_cells_are_broken_samples(tmp_path: Path) -> None:
    write(tmp_path / "p.parquet", image=[None, *BYTES[1:5], b"", *BYTES[6:]])
    with pytest.raises(DataError, match=r"2 samples cannot be read: .*row 0: is empty.*row 5: is"):
        load(tmp_path / "p.parquet")


def test_a_folder_for_each_split_and_folders_of_spark(tmp_path: Path) -> None:
    write(tmp_path / "set/train/0000.parquet", image=BYTES[:12])
    write(tmp_path / "set/train/0001.parquet", image=BYTES[12:])
    write(tmp_path / "set/test/0000.parquet", image=BYTES[:5])
    data = load(tmp_path / "set")
    assert (data.train.size + data.validation.size, data.test.size) == (COUNT, 5)
    write(tmp_path / "all.parquet/part-0.snappy.parquet", image=BYTES)
    (tmp_path / "all.parquet/_SUCCESS").touch()
    data = load(tmp_path / "all.parquet")
    assert data.train.size + data.validation.size + data.test.size == COUNT


@pytest.mark.parametrize("start", [0, 1, 6, 7, 11, 12, 23])
def test_reading_begins_anywhere(tmp_path: Path, start: int) -> None:
    from anytime_ar.data.sources.parquet import ParquetTable, inspect_parquet

    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path, rows in zip(paths, (range(7), range(7, COUNT)), strict=True):
        parquet.write_table(pa.table({"row": list(rows)}), path, row_group_size=3)
    table = ParquetTable([file for path in paths for file in inspect_parquet(path)])
    rows = [row for batch in table.read(["row"], start) for row in batch["row"]]
    assert rows == list(range(start, COUNT))
    assert table.origin(start).endswith(f"row {start if start < 7 else start - 7}")


# Types

STRUCTS = [
    pa.struct([("bytes", kind), ("path", text)])
    for kind, text in ((pa.binary(), pa.string()), (pa.large_binary(), pa.large_string()))
]


@pytest.mark.parametrize(
    "kind",
    [
        pa.binary(),
        pa.large_binary(),
        pa.binary_view(),
        pa.dictionary(pa.int32(), pa.binary()),
        *STRUCTS,
    ],
    ids=str,
)
@pytest.mark.parametrize("streaming", [False, True])
def test_bytes_of_every_arrow_type(tmp_path: Path, kind: pa.DataType, streaming: bool) -> None:
    if isinstance(kind, pa.StructType):
        column = pa.array([{"bytes": b, "path": "x"} for b in BYTES], kind)
    elif isinstance(kind, pa.DictionaryType):
        column = pa.array(BYTES, pa.binary()).dictionary_encode()
    else:
        column = pa.array(BYTES, kind)
    path = write(tmp_path / "p.parquet", image=column)
    expected = write(tmp_path / "q.parquet", image=pa.array(BYTES, pa.binary()))
    read, wanted = (
        torch.cat([batch.data for batch in load(each, streaming=streaming).train.batches(7)])
        for each in (path, expected)
    )
    assert torch.equal(read, wanted)


def test_bytes_of_one_length(tmp_path: Path) -> None:
    column = pa.array([BYTES[0]] * COUNT, pa.binary(len(BYTES[0])))
    assert load(write(tmp_path / "p.parquet", image=column)).sample_shape == (1, 4, 4)


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
    ],
    ids=str,
)
def test_texts_of_every_arrow_type(tmp_path: Path, kind: pa.DataType) -> None:
    names = pa.array(["dog", "cat"] * 12)
    path = write(tmp_path / "p.parquet", image=BYTES, label=names.cast(kind))
    data = load(path, label_key="label")
    assert data.label_names == ("cat", "dog")
    assert stored_labels(data) == [0] * 12 + [1] * 12


def test_columns_of_types_that_nobody_needs(tmp_path: Path) -> None:
    path = write(
        tmp_path / "p.parquet",
        image=BYTES,
        label=[0, 1] * 12,
        box=pa.array([[1.0, 2.0]] * COUNT, pa.list_(pa.float64(), 2)),
        spans=pa.array([{"a": [1]}] * COUNT),
        when=pa.array([0] * COUNT, pa.timestamp("us", "UTC")),
        price=pa.array([None] * COUNT, pa.decimal128(9, 2)),
        pairs=pa.array([[("a", 1)]] * COUNT, pa.map_(pa.string(), pa.int32())),
    )
    assert load(path).label_names == ("0", "1")


@pytest.mark.parametrize("note", [b"no json", b"[]", b'{"info": 3}', b'{"info": {"features": 1}}'])
def test_notes_that_are_out_of_order_are_ignored(tmp_path: Path, note: bytes) -> None:
    table = pa.table({"image": BYTES, "label": [0, 1] * 12})
    parquet.write_table(
        table.replace_schema_metadata({"huggingface": note}), tmp_path / "p.parquet"
    )
    assert load(tmp_path / "p.parquet").label_names == ("0", "1")


# Labels

INTEGERS = [pa.int8(), pa.uint16(), pa.int64(), pa.uint64(), pa.float32(), pa.float64()]


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
def test_numbers_of_every_type(tmp_path: Path, kind: pa.DataType) -> None:
    path = write(tmp_path / "p.parquet", image=BYTES, label=pa.array([0, 1, 2] * 8, kind))
    data = load(path)
    assert data.label_names == ("0", "1", "2")
    assert stored_labels(data) == [0] * 8 + [1] * 8 + [2] * 8


def test_truth_values(tmp_path: Path) -> None:
    data = load(write(tmp_path / "p.parquet", image=BYTES, label=[True, False] * 12))
    assert data.label_names == ("0", "1")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("values", [(20240101, 20240103), (1, 10), (2**62, 5), (-3, 7)], ids=str)
def test_numbers_are_classes_in_their_order(
    tmp_path: Path, values: tuple[int, int], streaming: bool
) -> None:
    path = write(tmp_path / "p.parquet", image=BYTES, label=list(values) * 12)
    data = load(path, streaming=streaming)
    assert data.label_names == tuple(str(value) for value in sorted(values))
    assert stored_labels(data) == [0] * 12 + [1] * 12


def test_too_many_classes_are_ids(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(labels, "MAX_CLASSES", 20)
    path = write(tmp_path / "p.parquet", image=BYTES, label=list(range(COUNT)))
    with pytest.raises(DataError, match=r"row 20: column 'label' has more than 20 different val"):
        load(path)
    assert load(path, labels=False).label_names is None


def test_numbers_that_are_not_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "p.parquet", image=BYTES, label=[0.0, 1.5] * 12)
    with pytest.raises(DataError, match=r"p\.parquet row 1: label 1\.5 is no whole number; set"):
        load(path)


def test_texts_in_two_spellings_are_one_class(tmp_path: Path) -> None:
    spelt = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    data = load(write(tmp_path / "p.parquet", image=BYTES, label=spelt * 12), label_key="label")
    assert data.label_names == (spelt[0],)


def test_texts_are_read_where_they_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "p.parquet", image=BYTES, label=["a", "b"] * 12)
    with pytest.warns(UserWarning, match="column 'label' holds texts and is not read; set data.l"):
        assert load(path).label_names is None


CLASSES = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("declared", [None, CLASSES], ids=["numbers", "classes"])
@pytest.mark.parametrize("missing", [-1, None, "column"])
def test_a_test_split_without_labels(
    tmp_path: Path, declared: dict[str, Any] | None, missing: Any, streaming: bool
) -> None:
    write(tmp_path / "train.parquet", declared, image=BYTES, label=[0, 1] * 12)
    columns: dict[str, Sequence[Any]] = {"image": BYTES[:6]}
    if missing != "column":
        columns["label"] = pa.array([missing] * 6, pa.int64())
    write(tmp_path / "test.parquet", **columns)
    data = load(tmp_path, streaming=streaming)
    assert data.label_names == (("0", "1") if declared is None else ("cat", "dog"))
    assert next(data.train.shuffled(4, seed=0)).labels is not None
    assert next(data.test.batches(6)).labels is None
    assert next(data.test.shuffled(4, seed=0)).labels is None


@pytest.mark.parametrize("streaming", [False, True])
def test_one_sample_without_a_label_is_named(tmp_path: Path, streaming: bool) -> None:
    path = write(tmp_path / "p.parquet", image=BYTES, label=[0, 1, 1, -1] + [0, 1] * 10)
    match = r"p\.parquet row 3: has no label, and .* of the same split has one; label all"
    with pytest.raises(DataError, match=match):
        list(load(path, streaming=streaming, validation_fraction=0.05).train.batches(9))
    assert load(path, streaming=streaming, labels=False).label_names is None


def test_a_set_without_any_label(tmp_path: Path) -> None:
    path = write(tmp_path / "p.parquet", CLASSES, image=BYTES, label=[-1] * COUNT)
    with pytest.warns(UserWarning, match="left out all labels, since the training split has none"):
        data = load(path)
    assert data.label_names is None
    assert next(data.train.batches(3)).labels is None
    path = write(tmp_path / "p.parquet", image=BYTES, label=pa.array([None] * COUNT, pa.int64()))
    assert load(path).label_names is None


def test_a_validation_split_without_labels_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", image=BYTES, label=[0, 1] * 12)
    write(tmp_path / "val.parquet", image=BYTES, label=[-1] * COUNT)
    with pytest.raises(DataError, match=r"val\.parquet row 0: the validation split has no labels"):
        load(tmp_path)


@pytest.mark.parametrize("bad", [2, -2])
def test_labels_beyond_the_declared_classes(tmp_path: Path, bad: int) -> None:
    path = write(tmp_path / "p.parquet", CLASSES, image=BYTES, label=[0, 1] * 11 + [bad, 0])
    with pytest.raises(DataError, match=rf"row 22: label {bad} is not one of the classes 0 to 1"):
        load(path)


def test_a_cell_that_leads_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "a::b.png").write_bytes(BYTES[0])
    cells = [{"bytes": None, "path": str(tmp_path / "a::b.png")}] * COUNT
    assert load(write(tmp_path / "p.parquet", image=cells)).sample_shape == (1, 4, 4)
    cells[3] = {"bytes": None, "path": str(tmp_path / "gone.png")}
    with pytest.raises(DataError, match=r"row 3: .*is not there, or leads nowhere; restore"):
        load(write(tmp_path / "p.parquet", image=cells))


def test_large_rows_are_decoded_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anytime_ar.data.sources.parquet._MAX_BATCH_BYTES", 10_000)
    rows = [i.to_bytes(1000, "big") for i in range(300)]
    path = tmp_path / "large.parquet"
    parquet.write_table(pa.table({"image": rows, "label": list(range(300))}), path)
    table = ParquetTable(inspect_parquet(path))
    batches = [*table.read(["image"], 7)]
    assert [row for batch in batches for row in batch["image"]] == rows[7:]
    assert max(len(batch["image"]) for batch in batches) <= 10
    path.unlink()
    parquet.write_table(pa.table({"image": [b"x"] * 300}), path)
    assert len(next(ParquetTable(inspect_parquet(path)).read(["image"]))["image"]) == 256
