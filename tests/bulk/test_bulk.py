"""Shards of samples: the same bytes however they are made, and nothing made twice or left out."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
import pytest
import soundfile
import torch
from bulk_models import LABELS, RATE, L, save_model
from PIL import Image
from pyarrow import parquet

from anytime_ar.bulk import (
    RayPoolConfig,
    SampleJob,
    ShardingConfig,
    encode_job,
    run,
    sample_job,
)
from anytime_ar.bulk.storage import BulkStorage
from anytime_ar.bulk.workers import ShardWorker
from anytime_ar.data import DataConfig, load_data
from anytime_ar.data.config import AudioConfig
from anytime_ar.errors import BulkError, InputError, MissingExtraError
from anytime_ar.sampling import load

N = 50
SMALL = ShardingConfig(shard_size=12, batch_size=5)


@pytest.fixture
def make(path_of, model_of) -> Callable[..., SampleJob]:
    def job(kind: str = "images", samples: int = N, **options: Any) -> SampleJob:
        options = {"seed": 3, "sharding": SMALL} | options
        return sample_job(path_of(kind), model_of(kind), samples, **options)

    return job


def rows(folder: Path) -> list[dict[str, Any]]:
    """Of all parquet shards, in order."""
    return [
        row
        for path in sorted(folder.glob("data/*"))
        for row in parquet.read_table(path).to_pylist()
    ]


def files(folder: Path) -> dict[str, bytes]:
    """All that a job writes, but for how long it took."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "records"
    }


def pixels(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


@pytest.mark.parametrize("kind", ["images", "llama", "codec"])
def test_samples_are_those_of_the_model(tmp_path, make, model_of, kind) -> None:
    run(make(kind), str(tmp_path / "out"))
    model, found = model_of(kind), rows(tmp_path / "out")
    assert [row["index"] for row in found] == list(range(N))
    plan, _ = model.plan(N, seed=3)
    assert plan.labels is not None
    assert [row["label"] for row in found] == plan.labels.tolist()
    assert len(set(plan.labels.tolist())) > 3
    assert [row["codes"] for row in found] == model.sample_codes(N, seed=3).tolist()
    if kind == "codec":
        return  # its files are those of all sounds
    drawn = ((model.sample(N, seed=3).clamp(-1, 1) + 1) * 127.5).round()
    for row, sample in zip(found, drawn, strict=True):
        assert (pixels(row["image"]["bytes"]) == sample[0].numpy()).all()


@pytest.mark.parametrize(
    "layout",
    [ShardingConfig(shard_size=7, batch_size=3), ShardingConfig(), ShardingConfig(shard_size=1)],
)
@pytest.mark.parametrize("kind", ["images", "llama", "codec"])
def test_how_a_job_is_cut_leaves_codes_as_they_are(tmp_path, make, layout, kind) -> None:
    save = {} if kind == "images" else {"save": "codes"}  # other parts round by the batch
    run(make(kind, **save), str(tmp_path / "one"))
    run(make(kind, sharding=layout, **save), str(tmp_path / "other"))
    assert rows(tmp_path / "one") == rows(tmp_path / "other")


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_equal_jobs_write_equal_files(tmp_path, make, kind) -> None:
    layout = SMALL.model_copy(update={"format": kind})
    for name in ("one", "other"):
        report = run(make(sharding=layout), str(tmp_path / name))
        assert (report.new_samples, report.new_shards, report.new_codes) == (N, 5, N * L)
    assert files(tmp_path / "one") == files(tmp_path / "other")
    assert len(list((tmp_path / "one" / "data").iterdir())) == 5
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    assert manifest["samples"] == N
    assert [shard["rows"] for shard in manifest["shards"]] == [12, 12, 12, 12, 2]


@pytest.mark.parametrize("kind", ["images", "llama", "codec"])
def test_an_interrupted_job_goes_on_where_it_was(tmp_path, make, kind) -> None:
    run(make(kind), str(tmp_path / "whole"))
    seen: list[int] = []

    def interrupt(done: int, total: int, what: str) -> None:
        assert (total, what) == (N, "samples")
        seen.append(done)
        if len(seen) == 2:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt, match=r"2 of 5 shards are complete in .*same command"):
        run(make(kind), str(out), progress=interrupt)
    assert not (out / "manifest.json").exists()
    report = run(make(kind), str(out), progress=lambda done, *_: seen.append(done))
    assert (report.new_samples, seen) == (N - 24, [12, 24, 36, 48, 50])
    assert files(out) == files(tmp_path / "whole")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "spoil", "verify"),
    [
        ("data/train-00001-of-00005.parquet", Path.unlink, False),
        ("data/train-00001-of-00005.parquet", cut, False),
        ("data/train-00001-of-00005.parquet", flip, True),
        ("records/00001.json", Path.unlink, False),
        ("records/00001.json", cut, False),
    ],
)
def test_what_is_missing_or_damaged_is_made_again(tmp_path, make, name, spoil, verify) -> None:
    out = tmp_path / "out"
    run(make(), str(out))
    before = files(out)
    spoil(out / name)
    report = run(make(), str(out), verify=verify)
    assert (report.new_samples, report.new_shards) == (12, 1)
    assert files(out) == before


def test_a_record_under_another_name_counts_for_nothing(tmp_path, make) -> None:
    out = tmp_path / "out"
    run(make(), str(out))
    (out / "records" / "00001.json").rename(out / "records" / "00007.json")
    assert run(make(), str(out)).new_samples == 12


def test_what_killed_writers_left_is_swept(tmp_path, make) -> None:
    out = tmp_path / "out"
    run(make(), str(out))
    before = files(out)
    for folder in (out, out / "data", out / "records"):
        (folder / f".anytime-{'0' * 16}.tmp").write_bytes(b"half")
    assert run(make(), str(out)).new_samples == 0
    assert files(out) == before


def test_a_job_killed_before_its_first_shard_begins_anew(tmp_path, make) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / f".anytime-{'0' * 16}.tmp").write_bytes(b"half")
    assert run(make(), str(out)).new_samples == N


def test_a_complete_job_does_nothing(tmp_path, make) -> None:
    out = tmp_path / "out"
    run(make(), str(out))
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    report = run(make(), str(out))
    assert (report.new_samples, report.new_shards, report.samples_per_worker_s) == (0, 0, 0.0)
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_without_a_seed_a_job_keeps_the_one_it_began_with(tmp_path, make) -> None:
    out = tmp_path / "out"
    first = run(make(seed=None), str(out)).job
    shutil.rmtree(out / "data")
    again = run(make(seed=None), str(out))
    assert again.job == first
    assert again.new_samples == N
    other = run(make(seed=None), str(tmp_path / "other")).job
    assert isinstance(first, SampleJob)
    assert isinstance(other, SampleJob)
    assert first.seed != other.seed


def test_another_job_is_refused_by_its_differences(tmp_path, make) -> None:
    out = tmp_path / "out"
    run(make(), str(out))
    before = files(out)
    other = make(seed=4, temperature=0.5, sharding=SMALL.model_copy(update={"shard_size": 10}))
    with pytest.raises(
        InputError,
        match=r"holds another job: sampling_params.temperature is 1.0 there and 0.5 here; seed is "
        r"3 there and 4 here; sharding.shard_size is 12 there and 10 here; choose another folder",
    ):
        run(other, str(out))
    assert files(out) == before


def test_the_same_model_elsewhere_goes_on_and_another_one_does_not(tmp_path, make) -> None:
    out = tmp_path / "out"
    run(make(), str(out))
    (out / "data" / "train-00001-of-00005.parquet").unlink()
    same = save_model(tmp_path / "same")
    assert run(sample_job(same, load(same), N, seed=3, sharding=SMALL), str(out)).new_samples == 12
    other = save_model(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match=r"holds another job: fingerprint is .* there and "):
        run(sample_job(other, load(other), N, seed=3, sharding=SMALL), str(out))


def test_a_worker_with_other_weights_is_refused(tmp_path, make) -> None:
    job = make().model_copy(update={"model": save_model(tmp_path / "other", seed=1), "seed": 3})
    answer = ShardWorker(job, str(tmp_path / "out"), 1)({"shard": np.array([0])})
    assert answer["record"] == [""]
    assert "has other weights than at the start of this job" in answer["error"][0]
    with pytest.raises(BulkError, match="0 of 5 shards are complete"):
        run(job, str(tmp_path / "out"))


@pytest.mark.parametrize("held", ["notes.txt", "data/train-00000-of-00001.parquet"])
def test_a_folder_of_something_else_is_refused(tmp_path, make, held) -> None:
    (tmp_path / held).parent.mkdir(exist_ok=True)
    (tmp_path / held).write_text("mine")
    with pytest.raises(InputError, match=r"holds .* and no .*; choose a new or an empty"):
        run(make(), str(tmp_path))
    assert files(tmp_path) == {held: b"mine"}


def test_a_job_of_a_later_release_is_refused(tmp_path, make) -> None:
    run(make(), str(tmp_path / "out"))
    path = tmp_path / "out" / "job.json"
    path.write_text(path.read_text().replace('"format_version": 2', '"format_version": 3'))
    with pytest.raises(InputError, match=r"is no job of this release: .*format_version"):
        run(make(), str(tmp_path / "out"))


@pytest.mark.parametrize("name", ["sample", "encode"])
def test_a_job_of_version_0_1_goes_on(tmp_path, make, path_of, model_of, name) -> None:
    out = tmp_path / "out"
    job: Any = make(temperature=0.5, save="codes")
    if name == "encode":
        sharding = ShardingConfig(shard_size=60)
        data = DataConfig(name="digits")
        job = encode_job(
            path_of("images"), model_of("images"), data, split="test", sharding=sharding
        )
    run(job, str(out))
    before = files(out)
    old_names = {
        "sharding": "layout",
        "sampling_params": "choice",
        "save": "keep",
        "split": "part",
        "data_fingerprint": "inputs",
    }
    path = out / "job.json"
    values = json.loads(path.read_text()) | {"format_version": 1}
    old = json.dumps({old_names.get(key, key): value for key, value in values.items()})
    path.write_text(old)
    assert run(job, str(out)).new_samples == 0
    min((out / "data").iterdir()).unlink()
    assert run(job, str(out)).new_shards == 1
    assert files(out) == before | {"job.json": old.encode()}


def test_targets_that_cannot_be_written_are_told(tmp_path, make) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"cannot read .*file: Not a directory; choose a folder"):
        run(make(), str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"deeper: Not a directory; choose a folder that can be"):
        run(make(), str(tmp_path / "file" / "deeper"))
    with pytest.raises(InputError, match=r"cannot write /proc/none: No such file or directory"):
        run(make(), "/proc/none")
    with pytest.raises(InputError, match="Protocol not known: nosuch; pass a folder, or a URL"):
        run(make(), "nosuch://bucket/x")


def test_workers_that_write_elsewhere_are_noticed(tmp_path, make, monkeypatch) -> None:
    real = BulkStorage.write

    def elsewhere(folder: BulkStorage, name: str, content: bytes) -> None:
        real(folder, name.replace("data/", "records/"), content)

    monkeypatch.setattr(BulkStorage, "write", elsewhere)
    with pytest.raises(BulkError, match=r"00000-of-00005.parquet was made, and is not in .*share"):
        run(make(), str(tmp_path / "out"))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_full_disk_ends_a_job_that_then_goes_on(tmp_path, make, monkeypatch) -> None:
    real = BulkStorage.write

    def full(folder: BulkStorage, name: str, content: bytes) -> None:
        with folder._reported_errors("write"):
            if "00002-of" in name:
                raise OSError(28, "No space left on device")
            real(folder, name, content)

    out = str(tmp_path / "out")
    monkeypatch.setattr(BulkStorage, "write", full)
    with pytest.raises(BulkError, match=r"No space left on device; .* 2 of 5 shards are complete"):
        run(make(), out)
    monkeypatch.undo()
    assert run(make(), out).new_samples == N - 24


def test_other_file_systems_hold_the_same_files(tmp_path, make) -> None:
    """In memory: what a file system does that is no local disk."""
    run(make(), f"file://{tmp_path}/out")
    url = "memory://bulk-test/many"
    run(make(), url)
    store = fsspec.filesystem("memory")
    root = "/bulk-test/many/"
    try:
        held = {name.removeprefix(root): store.cat_file(name) for name in store.find(root)}
        kept = {name: content for name, content in held.items() if "records" not in name}
        assert kept == files(tmp_path / "out")
        store.rm_file(f"{root}data/train-00003-of-00005.parquet")
        assert run(make(), url).new_samples == 12
        with pytest.raises(InputError, match="holds another job: seed"):
            run(make(seed=4), url)
    finally:
        store.rm("/bulk-test", recursive=True)


def test_sizes_of_what_a_folder_holds(tmp_path) -> None:
    """Object stores give a folder no size."""
    folder = BulkStorage("memory://bulk-sizes")
    try:
        folder.write("empty", b"")
        folder.write("two", b"ab")
        folder.write("below/one", b"a")
        assert folder.sizes() == {"empty": 0, "two": 2, "below": 0}
        folder._fs.ls = lambda *_args, **_options: [{"name": "/bulk-sizes/below", "size": None}]
        assert folder.sizes() == {"below": 0}
    finally:
        del folder._fs.ls
        fsspec.filesystem("memory").rm("/bulk-sizes", recursive=True)
    assert BulkStorage(str(tmp_path / "nothing")).sizes() == {}


def test_our_own_loader_and_datasets_read_shards(tmp_path, make, model_of) -> None:
    out = tmp_path / "out"
    run(make(), str(out))
    data = load_data(DataConfig(name=str(out), validation_fraction=0.1))
    assert (data.sample_shape, data.label_names) == ((1, 8, 8), LABELS)
    table = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))["train"]
    assert table.num_rows == N
    assert table.features["label"].names == list(LABELS)
    assert table[7]["image"].size == (8, 8)
    assert table[7]["codes"] == model_of("images").sample_codes(1, seed=3, first=7)[0].tolist()


def test_webdataset_shards(tmp_path, make, model_of) -> None:
    layout = SMALL.model_copy(update={"format": "webdataset"})
    run(make(sharding=layout, label=[4, "7"]), str(tmp_path / "out"))
    with tarfile.open(tmp_path / "out" / "data" / "train-00001-of-00005.tar") as tar:
        held = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        assert {member.mtime for member in tar} == {0}
    endings = ("png", "cls", "codes.npy", "json")
    assert list(held) == [f"{i:09d}.{end}" for i in range(12, 24) for end in endings]
    assert json.loads(held["000000013.json"]) == {"index": 13, "label": 7, "name": "7"}
    assert [held[f"{i:09d}.cls"] for i in range(12, 15)] == [b"4", b"7", b"4"]
    codes = model_of("images").sample_codes(2, seed=3, first=13, label=[7, 4])
    assert np.load(io.BytesIO(held["000000013.codes.npy"])).tolist() == codes[0].tolist()
    assert pixels(held["000000013.png"]).shape == (8, 8)


@pytest.mark.parametrize("kind", ["sounds", "codec"])
@pytest.mark.parametrize("file_format", ["parquet", "webdataset"])
def test_sounds(tmp_path, make, model_of, file_format, kind) -> None:
    out, layout = tmp_path / "out", ShardingConfig(format=file_format, shard_size=5)
    run(make(kind, 10, sharding=layout), str(out))
    if file_format == "parquet":
        read = AudioConfig(seconds=0.008, normalize="none")
        data = load_data(DataConfig(name=str(out), audio=read, validation_fraction=0.3))
        assert (data.sample_shape, data.sample_rate) == ((1, 64), RATE)
        content = rows(out)[6]["audio"]["bytes"]
    else:
        with tarfile.open(out / "data" / "train-00001-of-00002.tar") as tar:
            content = tar.extractfile("000000006.wav").read()  # type: ignore[union-attr]
    wave, rate = soundfile.read(io.BytesIO(content), dtype="float32")
    drawn = model_of(kind).sample(1, seed=3, first=6)[0, 0]
    assert rate == RATE
    torch.testing.assert_close(torch.from_numpy(wave), drawn.clamp(-1, 1), atol=1e-4, rtol=0)


def test_labels_in_turn_and_colours(tmp_path, make) -> None:
    run(make("colours", 25, label=range(10)), str(tmp_path))
    found = rows(tmp_path)
    assert [row["label"] for row in found] == [i % 10 for i in range(25)]
    assert pixels(found[0]["image"]["bytes"]).shape == (8, 8, 3)


def test_a_model_without_labels_has_no_label_column(tmp_path, make) -> None:
    run(make("images unlabelled"), str(tmp_path))
    assert list(rows(tmp_path)[0]) == ["index", "image", "codes"]


@pytest.mark.parametrize(("keep", "columns"), [("codes", ["codes"]), ("samples", ["image"])])
def test_what_is_kept(tmp_path, make, keep, columns) -> None:
    run(make(save=keep, codes=2, label="5"), str(tmp_path / "part"))
    run(make(codes=2, label=5), str(tmp_path / "all"))
    part, all_rows = rows(tmp_path / "part"), rows(tmp_path / "all")
    assert list(part[0]) == ["index", "label", *columns]
    assert [row | kept for row, kept in zip(all_rows, part, strict=True)] == all_rows
    assert len(all_rows[0]["codes"]) == 2


def test_jobs_that_no_model_can_do_are_refused(make) -> None:
    for options, message in [
        ({"codes": L + 1}, "codes=7 is outside 1..6"),
        ({"label": "x"}, "label 'x' is unknown"),
        ({"label": []}, "no labels to give in turn"),
        ({"samples": 0}, "samples: input should be greater than 0"),
        ({"top_p": 2.0}, "top_p"),
        ({"quality": 0.9}, "not measured"),
    ]:
        with pytest.raises(InputError, match=message):
            make(**options)
    with pytest.raises(TypeError, match="unknown option tempreature"):
        make(tempreature=1)


def test_workers_are_of_ray(tmp_path, make) -> None:
    with pytest.raises(InputError, match="workers and threads are settings of engine ray"):
        run(make(), str(tmp_path), pool=RayPoolConfig(workers=2))


def test_without_ray_it_says_what_to_install(tmp_path, make, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"-m pip install 'ray\["):
        run(make(), str(tmp_path), engine="ray")
