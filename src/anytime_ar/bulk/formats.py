"""Rows as the bytes of a shard: parquet in the Hugging Face layout, or a tar file of WebDataset.

Equal rows, equal bytes: there is no time, name of a machine or order of completion in them.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from anytime_ar.bulk.jobs import ShardFormat
from anytime_ar.errors import MissingExtraError, install_command

_INT16_ENTRIES = 2**15


@dataclass(frozen=True)
class ShardRows:
    """Consecutive samples of a job."""

    first_index: int
    """The number of the first."""
    codes: npt.NDArray[np.signedinteger[Any]] | None
    """[n, k]; None where they are not kept."""
    labels: list[int] | None
    """None where there are none."""
    files: list[bytes] | None
    """The samples; None where they are not kept."""

    def __len__(self) -> int:
        kept = self.files if self.codes is None else self.codes
        assert kept is not None
        return len(kept)


@dataclass(frozen=True)
class ShardSchema:
    """What is the same for all rows of a job."""

    modality: Literal["image", "audio"]
    suffix: Literal["png", "wav"]
    """Of the samples as files."""
    encode_files: Callable[[Tensor], list[bytes]]
    """Turns samples into them."""
    label_names: tuple[str, ...] | None


def pack_codes(codes: Tensor, vocabulary: int) -> npt.NDArray[np.signedinteger[Any]]:
    """Codes int64 [n, k] in the shortest type that parquet readers have in common."""
    dtype = np.int16 if vocabulary <= _INT16_ENTRIES else np.int32
    return codes.cpu().numpy().astype(dtype)


def require_format(name: ShardFormat) -> None:
    """Refuse a format that cannot be written here.

    Raises:
        MissingExtraError: it is parquet, and pyarrow is not installed.
    """
    if name == "parquet":
        try:
            import_module("pyarrow.parquet")
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                f"parquet needs pyarrow; install it: {install_command('data')}; or choose "
                "webdataset"
            ) from error


def parquet_bytes(rows: ShardRows, schema: ShardSchema) -> bytes:
    """A table with `index`, and as far as there are any `label`, `image` or `audio`, `codes`."""
    require_format("parquet")
    import pyarrow as pa
    from pyarrow import parquet

    numbers = np.arange(rows.first_index, rows.first_index + len(rows))
    columns: dict[str, Any] = {"index": pa.array(numbers, pa.int64())}
    features: dict[str, Any] = {"index": {"dtype": "int64", "_type": "Value"}}
    if rows.labels is not None:
        columns["label"] = pa.array(rows.labels, pa.int64())
        features["label"] = {"names": list(schema.label_names or ()), "_type": "ClassLabel"}
    if rows.files is not None:
        files = pa.array(rows.files, pa.binary())
        names = [f"{number:09d}.{schema.suffix}" for number in numbers]
        paths = pa.array(names, pa.string())
        columns[schema.modality] = pa.StructArray.from_arrays([files, paths], ["bytes", "path"])
        features[schema.modality] = {"_type": schema.modality.capitalize()}
    if rows.codes is not None:
        values = pa.array(rows.codes.reshape(-1))
        ends = np.arange(len(rows) + 1, dtype=np.int32) * rows.codes.shape[1]
        columns["codes"] = pa.ListArray.from_arrays(pa.array(ends), values)
        value = {"dtype": str(rows.codes.dtype), "_type": "Value"}
        features["codes"] = {"feature": value, "_type": "List"}
    # Tells `datasets` the names of labels, and that bytes are pictures or sounds.
    told = json.dumps({"info": {"features": features}})
    table = pa.table(columns).replace_schema_metadata({"huggingface": told})
    file = io.BytesIO()
    parquet.write_table(table, file)
    return file.getvalue()


def tar_bytes(rows: ShardRows, schema: ShardSchema) -> bytes:
    """A tar file with, for each row, its sample (`.png` or `.wav`), its label (`.cls`), codes
    (`.codes.npy`) and `.json` with its number and label, as far as there are any."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for place in range(len(rows)):
            for suffix, member in _tar_members(rows, place, schema):
                header = tarfile.TarInfo(f"{rows.first_index + place:09d}.{suffix}")
                header.size, header.mode = len(member), 0o644
                tar.addfile(header, io.BytesIO(member))
    return file.getvalue()


def _tar_members(rows: ShardRows, row: int, schema: ShardSchema) -> Iterator[tuple[str, bytes]]:
    """What there is of one row, by suffix."""
    about: dict[str, Any] = {"index": rows.first_index + row}
    if rows.files is not None:
        yield schema.suffix, rows.files[row]
    if rows.labels is not None:
        number = rows.labels[row]
        about |= {"label": number, "name": (schema.label_names or ())[number]}
        yield "cls", str(number).encode()
    if rows.codes is not None:
        codes = io.BytesIO()
        np.save(codes, rows.codes[row], allow_pickle=False)
        yield "codes.npy", codes.getvalue()
    yield "json", json.dumps(about).encode()


SHARD_ENCODERS: dict[ShardFormat, Callable[[ShardRows, ShardSchema], bytes]] = {
    "parquet": parquet_bytes,
    "webdataset": tar_bytes,
}
