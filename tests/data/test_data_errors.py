"""Bad input: each gives one clear error that names the file and the next step."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from anytime_ar.data import DataConfig, load_data
from anytime_ar.data.loading import load_objects
from anytime_ar.errors import DataError, MissingExtraError


def refused(match: str, name: object, **options: object) -> None:
    with pytest.raises(DataError, match=match) as caught:
        load_data(DataConfig(name=str(name), validation_fraction=0.3, **options))
    assert "\n" not in str(caught.value)


@pytest.fixture
def root(make_picture, make_folder) -> Path:
    """Nine good pictures."""
    return make_folder({f"{i}.png": make_picture(i, mode="RGB") for i in range(9)})


def test_missing_path_suggests_a_close_one(root: Path, monkeypatch) -> None:
    monkeypatch.chdir(root)
    close = str(root).removesuffix("s")
    refused(r"'.*picture' does not exist; did you mean .*pictures\?", close)
    refused(r"does not exist; check the spelling; set data.name to", root / "nothing/alike")
    refused(rf"'digitz' does not exist in {root}; did you mean digits\?", "digitz")


def test_mistyped_relative_path_does_not_ask_the_hub(root, monkeypatch) -> None:
    monkeypatch.chdir(root.parent.parent)
    refused(r"does not exist in .*; did you mean", f"{root.parent.name}/picturs")


def test_paths_that_no_file_can_have() -> None:
    refused(r"cannot be looked at \(File name too long\); pass an existing", "x" * 5000)
    refused(r"does not exist in ", "a\0b")


def test_revision_of_a_local_set(root: Path) -> None:
    refused(r"data.revision is 'v1', but .* is not a Hub set; leave", root, revision="v1")


@pytest.mark.parametrize("failure", [ConnectionError("Couldn't reach it"), ValueError("no config")])
def test_unknown_hub_name(monkeypatch, failure: Exception) -> None:
    import datasets

    def load_dataset(*_args: object, **_options: object) -> None:
        raise failure

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    refused(
        rf"'ylecun/mnits': no such path in {Path.cwd()}, and "
        rf"datasets.load_dataset\('ylecun/mnits', None\) "
        rf"failed \({failure}\); check the spelling, data.subset and the network, or pass a local",
        "ylecun/mnits",
    )


def test_missing_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"-m pip install 'datasets"):
        load_data(DataConfig(name="ylecun/mnist"))


def test_empty_folder(tmp_path: Path) -> None:
    refused(rf"{tmp_path}: no images or sounds in this folder; expected", tmp_path)


def test_file_that_is_no_data_set(root: Path) -> None:
    refused(
        r"0\.png: not a parquet file; pass a \.parquet, \.npz or \.npy file, or a folder",
        root / "0.png",
    )


@pytest.mark.parametrize("streaming", [False, True])
def test_truncated_picture(root: Path, streaming: bool) -> None:
    for path in root.iterdir():  # whichever split it is in
        path.write_bytes(path.read_bytes()[:50])
    refused(r"\d\.png: does not decode as an image \(.*\); repair", root, streaming=streaming)


def test_not_a_picture(root: Path) -> None:
    (root / "5.png").write_text("hello")
    refused(r"5\.png: does not decode as an image", root)


def test_picture_in_parquet_that_does_not_decode(tmp_path, make_picture, make_parquet) -> None:
    images = [make_picture(i) for i in range(6)]
    make_parquet(tmp_path / "train-0.parquet", images)
    make_parquet(tmp_path / "train-1.parquet", [*images[:2], b"broken", *images[:3]])
    refused(r"train-1\.parquet row 2: does not decode as an image", tmp_path)


def test_file_that_is_not_parquet(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_text("hello")
    refused(r"train\.parquet: does not read as parquet \(.*\); fetch it again", tmp_path)


def test_parquet_damaged_in_the_middle(tmp_path, make_picture, make_parquet) -> None:
    path = make_parquet(tmp_path / "p.parquet", [make_picture(i) for i in range(9)])
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(content)
    refused(r"p\.parquet row 0: cannot be read from here on \(.*\); the file is damaged", path)


def test_mixed_channels_name_the_first_offender(root, make_picture) -> None:
    for i in range(3, 9):
        make_picture(i).save(root / f"{i}.png")
    refused(r"[3-9]\.png: 1 channels, but .*[0-2]\.png has 3; set data.channels to 1, 3", root)
    assert load_data(DataConfig(name=str(root), channels=1, validation_fraction=0.3)).train.size


def test_mixed_sizes(root, make_picture) -> None:
    for i in range(3, 9):
        make_picture(i, size=(5, 5), mode="RGB").save(root / f"{i}.png")
    refused(r"[3-9]\.png: 5 x 5, but .*[0-2]\.png is 4 x 4; set data.size", root)
    assert load_data(DataConfig(name=str(root), size=4, validation_fraction=0.3)).train.size


def test_oblong_and_too_small_for_the_crop(make_picture, make_folder) -> None:
    root = make_folder({f"{i}.png": make_picture(i, size=(6, 4)) for i in range(9)})
    data = load_data(DataConfig(name=str(root), validation_fraction=0.3))
    assert data.sample_shape == (1, 4, 6)
    refused(r"\.png: 6 x 4 is smaller than data.center_crop=\[4, 7\]", root, center_crop=(4, 7))
    refused(r"\.png: 6 x 4 is smaller than data.center_crop=5; lower", root, center_crop=5)


def test_pixel_formats(make_folder, make_picture) -> None:
    root = make_folder({f"{i}.tif": make_picture(i) for i in range(9)})
    for path in root.iterdir():
        Image.new("F", (4, 4)).save(path)
    refused(r"pixel format F has no agreed black and white; convert it to 8 or 16 bits", root)
    for path in root.iterdir():
        Image.new("I", (4, 4), 300).save(path)
    refused(r"32-bit integers have no agreed white; convert it to 8 or 16 bits", root)


def test_folder_layout(make_folder, make_picture) -> None:
    root = make_folder({"train/a/0.png": make_picture(0), "test/b/0.png": make_picture(1)})
    refused(r"test/b/0\.png: its class is not one of .*train \(a\); use the same class", root)
    make_picture(0).save(root / "train/loose.png")
    refused(r"loose\.png: lies beside class folders \(a\); move it", root)


def test_empty_split(make_folder, make_picture) -> None:
    root = make_folder({"train/a/0.png": make_picture(0)})
    (root / "test").mkdir()
    refused(r"test: no samples in this split; add some, or move it", root)


def test_too_few_images_to_split(make_folder, make_picture) -> None:
    root = make_folder({"0.png": make_picture(0)})
    refused(r"split: no samples, of 1 before train was split; add some or change", root)


def test_columns(tmp_path, make_picture, make_parquet) -> None:
    from datasets import Dataset

    images = [make_picture(i) for i in range(9)]
    path = make_parquet(tmp_path / "p.parquet", images, [0] * 9)
    refused(r"no column 'picture'; set data.image_key to one of image, label", path,
            image_key="picture")  # fmt: skip
    refused(r"no column 'kind'; set data.label_key to one of", path, label_key="kind")
    refused(
        r"column 'image' holds .* not class labels, integers or strings", path, label_key="image"
    )
    Dataset.from_dict({"text": ["a"]}).to_parquet(path)
    refused(r"no image or sound column among text; set data.image_key", path)
    Dataset.from_dict({"left": [b"a"], "right": [b"b"]}).to_parquet(path)
    refused(r"2 columns could be the image \(left, right, .*\); set data.image_key", path)
    Dataset.from_dict({"image": [{"bytes": None, "path": None}] * 9}).to_parquet(path)
    refused(r"row \d: .*", path)


def test_parquet_without_training_split(tmp_path, make_picture, make_parquet) -> None:
    make_parquet(tmp_path / "test.parquet", [make_picture(0)])
    refused(r"no split called train, only test; pass the path of one parquet file", tmp_path)
    refused(r"other: no such folder; check data.subset", tmp_path, subset="other")


def test_every_broken_sample_is_named_at_once_or_left_out(root) -> None:
    for name in ("0", "4", "7"):
        (root / f"{name}.png").write_bytes(b"broken")
    with pytest.raises(
        DataError, match=r"^3 samples cannot be read: .*; set data.skip_broken"
    ) as e:
        load_data(DataConfig(name=str(root), validation_fraction=0.3))
    assert [f"{name}.png: does not decode" in str(e.value) for name in "047"] == [True] * 3
    sizes = []
    for streaming in (False, True):
        with pytest.warns(UserWarning, match=r"left out 3 broken samples: .*0\.png") as told:
            data = load_data(
                DataConfig(
                    name=str(root), validation_fraction=0.3, skip_broken=True, streaming=streaming
                )
            )
        assert len(told) == 1
        assert any("3 broken samples" in note for note in data.notes)
        splits = (data.train, data.validation, data.test)
        sizes.append([split.size for split in splits])
        for split in splits:
            assert sum(len(batch.data) for batch in split.batches(2)) == split.size
        assert len(next(data.train.shuffled(20, seed=0)).data) == 20
    assert sizes[0] == sizes[1]
    assert sum(sizes[0]) == 6


def test_many_broken_samples_are_counted(make_folder, make_picture) -> None:
    root = make_folder({f"{i:02}.png": make_picture(i) for i in range(40)})
    for path in root.iterdir():
        path.write_bytes(b"broken")
    for options in ({}, {"skip_broken": True}, {"skip_broken": True, "streaming": True}):
        refused(r"samples cannot be read: .*; and \d+ more", root, **options)


def test_broken_samples_of_a_stream_are_told_together(root) -> None:
    data = load_data(DataConfig(name=str(root), validation_fraction=0.3, streaming=True))
    for path in root.iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"samples cannot be read: .*0\.png"):
        list(data.train.batches(4))


def test_labels_that_begin_after_the_first_sample_are_not_left_out() -> None:
    x = torch.zeros(40, 1, 8, 8)
    pairs = [(x[0], i % 2) for i in range(40)]
    for given in (
        (x, [-1, *[i % 2 for i in range(39)]]),
        (x, [None, *[i % 2 for i in range(39)]]),
        [x[0], *pairs[1:]],
        [*pairs[:5], x[0], *pairs[6:]],
    ):
        with pytest.raises(DataError, match=r"has no label, and .* of the same split has one"):
            load_objects(given, DataConfig())
        assert load_objects(given, DataConfig(labels=False)).label_names is None
    unlabelled = load_objects({"train": x, "test": (x, [-1] * 40)}, DataConfig())
    assert unlabelled.label_names is None
