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

from anytime_ar.bulk.jobs import Format
from anytime_ar.errors import MissingExtraError, install_command

_INT16_ENTRIES = 2**15


@dataclass(frozen=True)
class Rows:
    """Consecutive samples of a job."""

    first: int
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
class Content:
    """What is the same for all rows of a job."""

    kind: Literal["image", "audio"]
    suffix: Literal["png", "wav"]
    """Of the samples as files."""
    files: Callable[[Tensor], list[bytes]]
    """Turns samples into them."""
    label_names: tuple[str, ...] | None


def packed(codes: Tensor, vocabulary: int) -> npt.NDArray[np.signedinteger[Any]]:
    """Codes int64 [n, k] in the shortest type that parquet readers have in common."""
    dtype = np.int16 if vocabulary <= _INT16_ENTRIES else np.int32
    return codes.cpu().numpy().astype(dtype)


def require_format(name: Format) -> None:
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


def parquet_bytes(rows: Rows, content: Content) -> bytes:
    """A table with `index`, and as far as there are any `label`, `image` or `audio`, `codes`."""
    require_format("parquet")
    import pyarrow as pa
    from pyarrow import parquet

    numbers = np.arange(rows.first, rows.first + len(rows))
    columns: dict[str, Any] = {"index": pa.array(numbers, pa.int64())}
    features: dict[str, Any] = {"index": {"dtype": "int64", "_type": "Value"}}
    if rows.labels is not None:
        columns["label"] = pa.array(rows.labels, pa.int64())
        features["label"] = {"names": list(content.label_names or ()), "_type": "ClassLabel"}
    if rows.files is not None:
        files = pa.array(rows.files, pa.binary())
        names = [f"{number:09d}.{content.suffix}" for number in numbers]
        paths = pa.array(names, pa.string())
        columns[content.kind] = pa.StructArray.from_arrays([files, paths], ["bytes", "path"])
        features[content.kind] = {"_type": content.kind.capitalize()}
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


def tar_bytes(rows: Rows, content: Content) -> bytes:
    """A tar file with, for each row, its sample (`.png` or `.wav`), its label (`.cls`), codes
    (`.codes.npy`) and `.json` with its number and label, as far as there are any."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for place in range(len(rows)):
            for suffix, member in _members(rows, place, content):
                header = tarfile.TarInfo(f"{rows.first + place:09d}.{suffix}")
                header.size, header.mode = len(member), 0o644
                tar.addfile(header, io.BytesIO(member))
    return file.getvalue()


def _members(rows: Rows, place: int, content: Content) -> Iterator[tuple[str, bytes]]:
    """What there is of one row, by suffix."""
    about: dict[str, Any] = {"index": rows.first + place}
    if rows.files is not None:
        yield content.suffix, rows.files[place]
    if rows.labels is not None:
        number = rows.labels[place]
        about |= {"label": number, "name": (content.label_names or ())[number]}
        yield "cls", str(number).encode()
    if rows.codes is not None:
        codes = io.BytesIO()
        np.save(codes, rows.codes[place], allow_pickle=False)
        yield "codes.npy", codes.getvalue()
    yield "json", json.dumps(about).encode()


FORMATS: dict[Format, Callable[[Rows, Content], bytes]] = {
    "parquet": parquet_bytes,
    "webdataset": tar_bytes,
}
