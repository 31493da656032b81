"""Labels that are incomplete, ambiguous or damaged: an error or a note, never silence."""

from __future__ import annotations

import datetime
import decimal
import io
import json
import math
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


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4), level).save(file, "png")
    return file.getvalue()


BYTES = [png(8 * i) for i in range(COUNT)]


def write(path: Path, label: Any, declared: Any = None) -> Path:
    table = pa.table({"image": BYTES, "label": label})
    if declared is not None:
        note = json.dumps({"info": {"features": {"label": declared}}})
        table = table.replace_schema_metadata({"huggingface": note})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path)
    return path


def load(path: Path, **options: Any) -> DataSplits:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notes hold the same
        return load_data(DataConfig(name=str(path), **options))


def read_all(path: Path, **options: Any) -> None:
    data = load(path, **options)
    for split in (data.train, data.validation, data.test):
        list(split.batches(8))


CLASSES = {"_type": "ClassLabel", "names": ["a", "b"]}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("declared", [None, CLASSES], ids=["numbers", "classes"])
@pytest.mark.parametrize(
    "label",
    [
        [-1, 0, 1] * 10,
        [math.nan, 0.0, 1.0] * 10,
        [None] + [0, 1] * 14 + [0],
        [0] + [None] + [0, 1] * 14,
        [None] * 29 + [1],
        ["", "a", "b"] * 10,
    ],
    ids=["-1", "nan", "row 0", "row 1", "all but one", "empty text"],
)
def test_labels_do_not_depend_on_the_order_of_rows(
    tmp_path: Path, label: list[Any], declared: Any, streaming: bool
) -> None:
    path = write(tmp_path / "p.parquet", label, declared)
    options = {"label_key": "label", "streaming": streaming}
    with pytest.raises(DataError, match=r"row \d+: has no label, and .*row \d+ of the same split"):
        read_all(path, **options)
    assert load(path, labels=False, streaming=streaming).label_names is None


def test_a_null_in_a_row_that_is_held_out_is_named(tmp_path: Path) -> None:
    whole = write(tmp_path / "p.parquet", [0, 1] * 15)
    for row in range(COUNT):
        label = [0, 1] * 15
        label[row] = -1
        with pytest.raises(DataError, match=rf"row {row}: has no label"):
            load(write(whole, label))


def test_shards_whose_labels_differ_in_type(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", [0, 1, 2] * 10)
    write(tmp_path / "train-1.parquet", ["0", "1", "2"] * 10)
    match = (
        r"train-1\.parquet: column 'label' holds string, and .*train-0\.parquet holds int64; store"
    )
    with pytest.raises(DataError, match=match):
        load(tmp_path, label_key="label")
    write(tmp_path / "train-0.parquet", ["x", "y"] * 15)
    write(tmp_path / "train-1.parquet", [0, 1] * 15, CLASSES)
    with pytest.raises(DataError, match="store labels with one type everywhere"):
        load(tmp_path, label_key="label")
    write(tmp_path / "train-0.parquet", [0, 1] * 15, CLASSES)
    write(tmp_path / "train-1.parquet", ["b", "a"] * 15)  # texts that name declared classes
    assert load(tmp_path, label_key="label").label_names == ("a", "b")


def test_splits_that_declare_other_classes(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [0, 1] * 15, CLASSES)
    write(tmp_path / "test.parquet", [0, 1] * 15, {"_type": "ClassLabel", "names": ["b", "a"]})
    with pytest.raises(DataError, match=r"test\.parquet: column 'label' declares the classes b, a"):
        load(tmp_path)
    write(tmp_path / "test.parquet", [0, 0] * 15, {"_type": "ClassLabel", "names": ["a"]})
    assert load(tmp_path).label_names == ("a", "b")


@pytest.mark.parametrize(
    "names", [["a", "a", "c"], ["\u00e9", "e\u0301", "c"]], ids=["same", "spelt twice"]
)
def test_classes_of_one_name_are_refused(tmp_path: Path, names: list[str]) -> None:
    path = write(tmp_path / "p.parquet", [0, 1, 2] * 10, {"_type": "ClassLabel", "names": names})
    with pytest.raises(DataError, match=r"declares the class '.' twice; rename one"):
        load(path)
    assert load(path, labels=False).label_names is None


@pytest.mark.parametrize("names", [5, "abc", {"a": 0}, [["a"]], [None], [], None, 0.5])
def test_declared_classes_without_a_list_of_names(tmp_path: Path, names: Any) -> None:
    path = write(tmp_path / "p.parquet", [0, 1, 2] * 10, {"_type": "ClassLabel", "names": names})
    data = load(path)
    assert data.label_names == ("0", "1", "2")
    assert "column 'label' declares classes without a list of their names" in data.notes[0]


@pytest.mark.parametrize("feature", [[], {}, 5, None])
def test_features_of_no_known_type(tmp_path: Path, feature: Any) -> None:
    table = pa.table({"image": BYTES, "label": [0, 1, 2] * 10})
    declared = {"image": {"_type": feature}, "label": {"_type": feature, "names": ["a"]}}
    note = json.dumps({"info": {"features": declared}})
    parquet.write_table(
        table.replace_schema_metadata({"huggingface": note}), tmp_path / "p.parquet"
    )
    assert load(tmp_path / "p.parquet").label_names == ("0", "1", "2")


def test_metadata_that_is_nested_too_deeply(tmp_path: Path) -> None:
    table = pa.table({"image": BYTES, "label": [0, 1, 2] * 10})
    table = table.replace_schema_metadata({"huggingface": "[" * 100_000})
    parquet.write_table(table, tmp_path / "p.parquet")
    assert load(tmp_path / "p.parquet").label_names == ("0", "1", "2")


def test_a_class_name_that_is_no_text(tmp_path: Path) -> None:
    declared = {"_type": "ClassLabel", "names": ["\ud800", 7]}
    path = write(tmp_path / "p.parquet", [0, 1] * 15, declared)
    assert load(path).label_names == ("\\ud800", "7")


@pytest.mark.parametrize(
    "label",
    [
        pa.array([decimal.Decimal(1)] * COUNT),
        pa.array([datetime.date(2020, 1, 1)] * COUNT),
        pa.array([[1]] * COUNT),
        pa.array([{"a": 1}] * COUNT),
        pa.array([b"1"] * COUNT),
        pa.array([None] * COUNT),
    ],
    ids=lambda column: str(column.type),
)
def test_labels_of_other_types_are_told(tmp_path: Path, label: pa.Array) -> None:
    data = load(write(tmp_path / "p.parquet", label))
    assert data.label_names is None
    assert len(data.notes) == 1
    kind = str(label.type).replace("item", "element")  # as parquet calls it
    assert f"column 'label' holds {kind} and is not read; store classes as" in data.notes[0]
    assert load(tmp_path / "p.parquet", labels=False).notes == ()
