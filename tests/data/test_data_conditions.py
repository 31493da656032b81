"""Conditions of samples, from tables, from metadata.csv beside files, and from programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from anytime_ar.conditions import (
    ClassCondition,
    CodesCondition,
    TextCondition,
    VectorCondition,
    decode_conditions,
)
from anytime_ar.data import DataConfig, DataSplits, load_data
from anytime_ar.data.loading import load_objects
from anytime_ar.errors import DataError

COUNT = 24
TEXTS = [f"a {'key' if i % 2 else 'lock'}" for i in range(COUNT)]
SPEAKERS = [f"s{i % 3}" for i in range(COUNT)]
VECTORS = [[float(i), -1.0] for i in range(COUNT)]
CODES = [[i % 5, 2][: 1 + i % 2] for i in range(COUNT)]
ASKED: dict[str, Any] = {
    "text": {"kind": "text"},
    "speaker": {"column": "who"},
    "voice": {"kind": "vector", "column": "embedding"},
    "coarse": {"kind": "codes"},
}
COLUMNS: dict[str, Any] = {"text": TEXTS, "who": SPEAKERS, "embedding": VECTORS, "coarse": CODES}


def found(data: DataSplits) -> dict[int, dict[str, Any]]:
    """The conditions of each sample by its grey level."""
    values: dict[int, dict[str, Any]] = {}
    for split in (data.train, data.validation, data.test):
        for batch in (*split.batches(5), next(split.shuffled(7, seed=0))):
            assert batch.conditions is not None
            for i, image in enumerate(batch.data):
                level = round(float(image.flatten()[0] + 1) * 127.5)
                own = decode_conditions(data.conditions, batch.conditions, i)
                assert values.setdefault(level, own) == own
    return values


def expected(number: int) -> dict[str, Any]:
    return {
        "text": TEXTS[number],
        "speaker": number % 3,
        "voice": VECTORS[number],
        "coarse": CODES[number],
    }


def level(number: int) -> bytes:
    """An image of one grey level, as a file."""
    stream = io.BytesIO()
    Image.new("L", (4, 4), 10 * number).save(stream, "png")
    return stream.getvalue()


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_of_a_table(tmp_path: Path, streaming: bool) -> None:
    images = [level(i) for i in range(COUNT)]
    parquet.write_table(pa.table({"image": images, **COLUMNS}), tmp_path / "a.parquet")
    data = load_data(
        DataConfig(
            name=str(tmp_path / "a.parquet"),
            conditions=ASKED,  # type: ignore[arg-type]
            streaming=streaming,
            validation_fraction=0.2,
        )
    )
    assert data.conditions == {
        "text": TextCondition(words=("a", "key", "lock"), max_tokens=2),
        "speaker": ClassCondition(names=("s0", "s1", "s2")),
        "voice": VectorCondition(width=2),
        "coarse": CodesCondition(vocabulary=5, max_tokens=2),
    }
    assert found(data) == {10 * i: expected(i) for i in range(COUNT)}


def test_declared_classes_keep_their_names(tmp_path: Path) -> None:
    images, sets = [level(i) for i in range(COUNT)], [i % 2 for i in range(COUNT)]
    table = pa.table({"image": images, "set": sets})
    declared = {"set": {"_type": "ClassLabel", "names": ["thin", "wide"]}}
    note = json.dumps({"info": {"features": declared}})
    parquet.write_table(
        table.replace_schema_metadata({"huggingface": note}), tmp_path / "a.parquet"
    )
    config = DataConfig(name=str(tmp_path / "a.parquet"), conditions={"set": {}}, labels=False)  # type: ignore[dict-item]
    data = load_data(config)
    assert data.conditions == {"set": ClassCondition(names=("thin", "wide"))}
    assert data.label_names is None
    assert found(data) == {10 * i: {"set": i % 2} for i in range(COUNT)}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_metadata_beside_the_files_of_a_folder(
    make_folder: Callable[..., Path], suffix: str
) -> None:
    files = {f"{i % 2}/{i}.png": Image.new("L", (4, 4), 10 * i) for i in range(COUNT)}
    root = make_folder(files)
    rows = [
        {"file_name": name, **{key: values[i] for key, values in COLUMNS.items()}}
        for i, name in enumerate(files)
    ]
    path = root / f"metadata{suffix}"
    if suffix == ".csv":
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = DataConfig(name=str(root), conditions=ASKED, validation_fraction=0.2)  # type: ignore[arg-type]
    data = load_data(config)
    assert data.label_names == ("0", "1")
    assert found(data) == {10 * i: expected(i) for i in range(COUNT)}
    path.write_text(
        path.read_text(encoding="utf-8").replace("0/2.png", "0/1.png"), encoding="utf-8"
    )
    with pytest.raises(DataError, match=r"2\.png: is not in .*metadata"):
        load_data(config)
    path.unlink()
    with pytest.raises(DataError, match=r"data\.conditions are read from metadata\.csv"):
        load_data(config)


@pytest.mark.parametrize("as_items", [False, True])
def test_samples_of_a_program(as_items: bool) -> None:
    samples = torch.arange(COUNT, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4) * 10
    named = {"text": TEXTS, "speaker": SPEAKERS, "voice": np.array(VECTORS), "coarse": CODES}
    items = [
        (samples[i], None, {key: values[i] for key, values in named.items()}) for i in range(COUNT)
    ]
    config = DataConfig(conditions=ASKED, validation_fraction=0.2)  # type: ignore[arg-type]
    data = load_objects(items if as_items else (samples, None, named), config)
    assert found(data) == {10 * i: expected(i) for i in range(COUNT)}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"size": {}}, "has no column 'size' for data.conditions.size, only image, text, who"),
        ({"text": {"kind": "vector"}}, "data.conditions.text: .* a vector is a list of numbers"),
        ({"text": {"kind": "text", "max_tokens": 1}}, "a text of 2 words .*, over max_tokens 1"),
        ({"embedding": {"kind": "text"}}, "no text; set another kind"),
        ({"embedding": {"kind": "codes"}}, "codes are lists of whole numbers"),
        ({"coarse": {"kind": "codes", "vocabulary": 3}}, "has the code [34]; pass codes in 0..2"),
        ({"coarse": {"kind": "vector"}}, "is . numbers; pass . numbers"),
    ],
)
def test_columns_that_do_not_fit(tmp_path: Path, asked: dict[str, Any], message: str) -> None:
    images = [level(i) for i in range(COUNT)]
    parquet.write_table(pa.table({"image": images, **COLUMNS}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        load_data(DataConfig(name=str(tmp_path / "a.parquet"), conditions=asked))


def test_sets_without_columns_have_none() -> None:
    with pytest.raises(DataError, match=r"has no columns for data\.conditions"):
        load_data(DataConfig(conditions={"text": {"kind": "text"}}))  # type: ignore[dict-item]
