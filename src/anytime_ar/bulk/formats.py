"""Formats of shards: parquet with Hugging Face metadata, or WebDataset tar files.

Equal rows give equal bytes: shards contain no time, no host name and no order of completion.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from anytime_ar.bulk.jobs import ShardFormat
from anytime_ar.codes import Vocabulary, largest_vocabulary
from anytime_ar.errors import require_extras
from anytime_ar.media.processor import MediaProcessor

_INT16_ENTRIES = 2**15
"""Largest vocabulary whose codes fit in int16."""


@dataclass(frozen=True)
class ShardRows:
    """Consecutive samples of a job, as rows of a shard."""

    first_index: int
    """Index of the first sample within the job."""
    codes: npt.NDArray[np.signedinteger[Any]] | None
    """Codes, int16 or int32 [n, k]; None: the job does not save codes."""
    labels: list[int] | None
    """Class of each sample, n numbers; None: samples have no labels."""
    files: list[bytes] | None
    """Each sample as the bytes of a file; None: the job does not save samples."""

    def __len__(self) -> int:
        """Return the number of rows, n."""
        kept = self.files if self.codes is None else self.codes
        assert kept is not None
        return len(kept)


@dataclass(frozen=True)
class ShardSchema:
    """Properties that all rows of a job share."""

    media: MediaProcessor
    """Converter of the model, whose default format is that of the files."""
    label_names: tuple[str, ...] | None
    """Names of the classes; None: samples have no labels."""

    @property
    def suffix(self) -> str:
        """Return the suffix of the samples' file names: png, wav or npy."""
        return self.media.formats[0]

    def encode_files(self, samples: Tensor) -> list[bytes]:
        """Return samples float32 [n, *sample_shape] as the bytes of n files."""
        return self.media.to_bytes(samples, self.suffix)


def pack_codes(codes: Tensor, vocabulary: Vocabulary) -> npt.NDArray[np.signedinteger[Any]]:
    """Convert codes to the smallest type that all parquet readers support.

    Args:
        codes: Codes, int64 [n, k].
        vocabulary: Number V of values of a code, of all positions or of each.

    Returns:
        Codes, int16 or int32 [n, k].
    """
    dtype = np.int16 if largest_vocabulary(vocabulary) <= _INT16_ENTRIES else np.int32
    return codes.cpu().numpy().astype(dtype)


def require_format(name: ShardFormat) -> None:
    """Check that the packages that a format needs are installed.

    Raises:
        MissingExtraError: The format is parquet, and pyarrow is not installed.
    """
    if name == "parquet":
        require_extras("format parquet, unlike webdataset,", "data", module="pyarrow")


def parquet_bytes(rows: ShardRows, schema: ShardSchema) -> bytes:
    """Return rows as a parquet file.

    Its columns are `index` and, if the rows have them, `label`, `image`, `audio` or
    `series`, and `codes`.

    Raises:
        MissingExtraError: The package pyarrow is not installed.
    """
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
        column = schema.media.modality
        columns[column] = pa.StructArray.from_arrays([files, paths], ["bytes", "path"])
        features[column] = {"_type": column.capitalize()}
        if column == "series":  # lists of numbers, which are read as a data set again
            arrays = [np.load(io.BytesIO(file)).tolist() for file in rows.files]
            columns[column] = pa.array(arrays, pa.list_(pa.list_(pa.float32())))
            values_of = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "List"}
            features[column] = {"feature": values_of, "_type": "List"}
    if rows.codes is not None:
        values = pa.array(rows.codes.reshape(-1))
        ends = np.arange(len(rows) + 1, dtype=np.int32) * rows.codes.shape[1]
        columns["codes"] = pa.ListArray.from_arrays(pa.array(ends), values)
        value = {"dtype": str(rows.codes.dtype), "_type": "Value"}
        features["codes"] = {"feature": value, "_type": "List"}
    # The package `datasets` reads label names and the type of the files from this metadata.
    metadata = json.dumps({"info": {"features": features}})
    table = pa.table(columns).replace_schema_metadata({"huggingface": metadata})
    file = io.BytesIO()
    parquet.write_table(table, file)
    return file.getvalue()


def tar_bytes(rows: ShardRows, schema: ShardSchema) -> bytes:
    """Return rows as a tar file for WebDataset.

    Each row has a file `.json` with its index and label. If the row has them, files with its sample
    (`.png`, `.wav` or `.npy`), its label (`.cls`) and its codes (`.codes.npy`) come before.
    """
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row in range(len(rows)):
            for suffix, member in _tar_members(rows, row, schema):
                header = tarfile.TarInfo(f"{rows.first_index + row:09d}.{suffix}")
                header.size, header.mode = len(member), 0o644
                tar.addfile(header, io.BytesIO(member))
    return file.getvalue()


def _tar_members(rows: ShardRows, row: int, schema: ShardSchema) -> Iterator[tuple[str, bytes]]:
    """Yield suffix and content of each file of one row."""
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
"""Functions that encode rows as a shard, by format."""
