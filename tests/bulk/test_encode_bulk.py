"""Codes of data sets in shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bulk_models import LABELS, L
from PIL import Image
from pyarrow import parquet

from anytime_ar.bulk import EncodeJob, ShardingConfig, encode_job, run, sample_job
from anytime_ar.data import DataConfig, load_data
from anytime_ar.data.config import AudioConfig
from anytime_ar.errors import BulkError, InputError

LAYOUT = ShardingConfig(shard_size=60, batch_size=32)


@pytest.fixture
def make(path_of, model_of) -> Callable[..., EncodeJob]:
    def job(kind: str, data: DataConfig, **options: Any) -> EncodeJob:
        return encode_job(path_of(kind), model_of(kind), data, sharding=LAYOUT, **options)

    return job


@pytest.fixture
def drawn(tmp_path, path_of, model_of) -> Callable[..., Path]:
    """A data set: samples of a tiny model."""

    def draw(kind: str, samples: int) -> Path:
        job = sample_job(
            path_of(kind), model_of(kind), samples, seed=0, sharding=ShardingConfig(shard_size=40)
        )
        run(job, str(tmp_path / "set"))
        return tmp_path / "set"

    return draw


def table(folder: Path) -> dict[str, list[Any]]:
    """All columns of all shards."""
    columns: dict[str, list[Any]] = {}
    for path in sorted(folder.glob("data/*")):
        for name, values in parquet.read_table(path).to_pydict().items():
            columns.setdefault(name, []).extend(values)
    return columns


def expected(model: Any, data: DataConfig, split: str) -> dict[str, list[Any]]:
    loaded = getattr(load_data(data), split)
    columns: dict[str, list[Any]] = {"index": list(range(loaded.size)), "label": [], "codes": []}
    for batch in loaded.batches(32):
        columns["label"] += batch.labels.tolist()
        columns["codes"] += model.encode(batch.data).tolist()
    return columns


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_codes_of_each_split_of_the_embedded_set(tmp_path, make, model_of, split) -> None:
    data, out = DataConfig(name="digits"), tmp_path / "out"
    report = run(make("images", data, split=split), str(out))
    assert table(out) == expected(model_of("images"), data, split)
    assert report.new_samples == report.job.samples > 100
    assert report.new_codes == report.new_samples * L
    assert all(path.name.startswith(f"{split}-0") for path in (out / "data").iterdir())


@pytest.mark.parametrize("kind", ["images", "sounds", "codec"])
def test_a_set_in_files_is_read_a_shard_at_a_time(tmp_path, make, model_of, drawn, kind) -> None:
    sound = AudioConfig(seconds=0.008, normalize="none")
    data, out = DataConfig(name=str(drawn(kind, 150)), audio=sound), tmp_path / "out"
    job = make(kind, data)
    assert job.data.streaming
    run(job, str(out))
    found = table(out)
    assert found == expected(model_of(kind), data, "train")
    assert len(found["index"]) > 2 * LAYOUT.shard_size
    schema = parquet.read_schema(next((out / "data").iterdir()))
    assert list(LABELS)[3] in str(schema.metadata)


def test_an_interrupted_job_goes_on(tmp_path, make) -> None:
    data = DataConfig(name="digits")
    run(make("images", data), str(tmp_path / "whole"))
    out = tmp_path / "out"
    run(make("images", data), str(out))
    for path in (out / "records").iterdir():
        if int(path.stem) % 3:
            path.unlink()
    job = run(make("images", data), str(out)).job
    assert (out / "manifest.json").read_bytes() == (tmp_path / "whole/manifest.json").read_bytes()
    with pytest.raises(InputError, match=r"holds another job: data.split_seed is 0 there and 1"):
        run(make("images", DataConfig(name="digits", split_seed=1)), str(out))
    with pytest.raises(InputError, match=r"holds another job: .*kind is encode there and sample"):
        run(sample_job(job.model, *_loaded(job.model)), str(out))


def _loaded(path: str) -> tuple[Any, int]:
    from anytime_ar.sampling import load

    return load(path, device="cpu"), 10


@pytest.mark.filterwarnings("ignore:.*1 of 3 shards of the train split are not there")
def test_sets_that_do_not_fit_or_do_not_last_are_refused(tmp_path, make, drawn) -> None:
    with pytest.raises(
        InputError, match=r"digits: samples of shape \(1, 8, 8\) do not fit .*8000 Hz"
    ):
        make("sounds", DataConfig(name="digits"))
    folder = drawn("images", 90)
    job = make("images", DataConfig(name=str(folder), validation_fraction=0.1))
    next(folder.glob("data/*-00002-*")).unlink()
    with pytest.raises(BulkError, match=r"holds 65 samples, and 73 at the start of this job"):
        run(job, str(tmp_path / "out"))


def test_a_job_does_not_go_on_with_other_content_of_the_same_size(tmp_path, make) -> None:
    folder, out = tmp_path / "set", str(tmp_path / "out")
    folder.mkdir()
    for number in range(12):
        Image.new("L", (8, 8), 20 * number).save(folder / f"{number:02}.bmp")
    data = DataConfig(name=str(folder))
    job = make("images", data)
    run(job, out)
    before = (folder / "00.bmp").stat().st_size
    Image.new("L", (8, 8), 111).save(folder / "00.bmp")
    assert (folder / "00.bmp").stat().st_size == before
    changed = make("images", data)
    with pytest.raises(InputError, match=r"holds another job: data_fingerprint is 12 files of"):
        run(changed, out)
    # A job of an earlier release names files and sizes only, and still goes on.
    assert job.data_fingerprint is not None
    stored = job.model_copy(update={"data_fingerprint": job.data_fingerprint.partition(", con")[0]})
    assert changed.resolve(stored, lambda device: device) == stored
    splits = ("train", "test")
    samples = [make("images", DataConfig(name="digits"), split=split) for split in splits]
    assert samples[0].data_fingerprint != samples[1].data_fingerprint
