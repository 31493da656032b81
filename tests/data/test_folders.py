"""Folders of classes and splits: every sample is read as what it is, refused, or told."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from anytime_ar.data import DataConfig, DataSplits, load_data
from anytime_ar.data.sources import ShardName, canonical_split, parse_shard_name
from anytime_ar.errors import DataError
from anytime_ar.media.formats import READABLE_IMAGE_SUFFIXES

# Besides: what Pillow names but leaves to other programs or to nobody, or what are films.
NOT_READ = {
    f".{name}" for name in ("bufr", "emf", "eps", "grib", "h5", "hdf", "iim", "mpeg", "mpg", "ps")
} | {".wmf"}


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """Writes a picture at each path below a new folder, 4 at a path that ends in a slash."""

    def make(*paths: str) -> Path:
        root = tmp_path / "set"
        for path in paths:
            names = [path + f"{i}.png" for i in range(4)] if path.endswith("/") else [path]
            for name in names:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (4, 4), 90).save(root / name, "PNG")
        return root

    return make


def load(root: Path, **options: object) -> DataSplits:
    return load_data(DataConfig(name=str(root), validation_fraction=0.3, **options))


def read(root: Path, **options: object) -> int:
    data = load(root, **options)
    return data.train.size + data.validation.size + data.test.size


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Train", "train"),
        ("val", "validation"),
        ("TEST", "test"),
        ("trainval", None),
        ("validated", None),
        ("testing-ground", None),
        ("train-00000", None),
    ],
)
def test_whole_names_are_splits(name: str, split: str | None) -> None:
    assert canonical_split(name) == split


@pytest.mark.parametrize(
    ("stem", "shard"),
    [
        ("train", ShardName("train", "train", None, None)),
        ("train-00003-of-00010", ShardName("train", "train", 3, 10)),
        ("valid_0001", ShardName("validation", "valid", 1, None)),
        ("test.7", ShardName("test", "test", 7, None)),
        ("train-00000-of-00001-a09b74b3ef9c3b56", ShardName("train", "train", 0, 1)),
        ("trainval", None),
        ("validated", None),
        ("train2017", None),
        ("train-old", None),
        ("my-train", None),
    ],
)
def test_files_are_shards_by_their_pattern(stem: str, shard: ShardName | None) -> None:
    assert parse_shard_name(stem) == shard


@pytest.mark.parametrize("name", ["train", "test", "valid"])
def test_a_class_that_is_called_as_a_split(tree, name: str) -> None:
    root = tree(f"{name}/", "bus/", "car/")
    with pytest.raises(DataError, match=rf"{name} may be splits or classes, beside bus, car; set"):
        load(root)
    data = load(root, layout="classes")
    assert data.label_names == tuple(sorted(("bus", "car", name)))
    assert read(root, layout="classes") == 12


def test_splits_that_are_named_as_such_beside_others(tree) -> None:
    root = tree("train/a/", "train/b/", "test/a/", "extra/a/", "loose.png")
    with pytest.warns(UserWarning, match="left out 5 samples that lie beside the folders"):
        data = load(root, layout="splits")
    assert data.label_names == ("a", "b")
    assert (data.train.size + data.validation.size, data.test.size) == (8, 4)


def test_splits_that_cannot_be_told(tree) -> None:
    with pytest.raises(DataError, match=r"no folder called train, only test; rename one"):
        load(tree("test/a/"))
    with pytest.raises(DataError, match=r"train, training are both the train split; join"):
        load(tree("train/a/", "training/a/"))


def test_folders_in_classes_belong_to_them(tree) -> None:
    root = tree("a/", "b/2023/", "b/2024/may/", "c/x.png")
    data = load(root)
    assert data.label_names == ("a", "b", "c")
    assert read(root) == 13


def test_layouts_one_level_down_are_refused(tree) -> None:
    root = tree("photos/a/", "photos/b/")
    with pytest.raises(DataError, match=r"photos would be the only class, and holds a, b; pass"):
        load(root)
    assert load(root, layout="classes").label_names == ("photos",)
    tree("films/train/")
    with pytest.raises(DataError, match=r"films/train: is named as a split and lies in .*films"):
        load(root)


def test_a_test_split_without_class_folders_has_no_labels(tree) -> None:
    data = load(tree("train/a/", "train/b/", "test/"))
    assert data.label_names == ("a", "b")
    assert next(data.train.batches(2)).labels is not None
    assert next(data.test.batches(2)).labels is None
    assert data.test.size == 4


@pytest.mark.parametrize("suffix", ["tif", "TIFF", "jfif", "gif", "JPG", "ppm", "tga", "jp2"])
def test_suffixes_in_any_case(tmp_path: Path, suffix: str) -> None:
    for i in range(9):
        path = tmp_path / f"{i}.{suffix}"
        kind = {"jfif": "JPEG"}.get(suffix) or Image.registered_extensions()["." + suffix.lower()]
        Image.new("L", (16, 16), 90).save(path, kind)
    assert read(tmp_path, channels=1) == 9


def test_every_suffix_of_pillow_is_read_or_known_not_to_be() -> None:
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    assert known - READABLE_IMAGE_SUFFIXES <= NOT_READ
    assert not READABLE_IMAGE_SUFFIXES & NOT_READ


def test_files_that_are_left_out_are_counted_once(tree) -> None:
    root = tree("a/", "b/", "b/.hidden.png")
    for name in ("a/x.heic", "a/y.HEIC", "b/notes.txt", "LICENSE"):
        (root / name).write_bytes(b"x")
    (root / "empty").mkdir()
    with pytest.warns(UserWarning, match="left out") as told:
        data = load(root)
    assert data.notes[0] == "left out 1 folders without samples: empty"
    assert data.notes[1].startswith("left out 5 files that are no samples: 2 x .heic, 1 x ")
    assert [str(each.message).split(": ", 1)[1] for each in told] == list(data.notes)


def test_files_of_the_system_are_ignored(tree) -> None:
    root = tree("a/", "b/", "a/._0.png", "__MACOSX/a/", ".ipynb_checkpoints/", "b/.thumbnails/")
    for name in (".DS_Store", "a/Thumbs.db", "b/desktop.ini", ".gitkeep"):
        (root / name).write_bytes(b"x")
    data = load(root)  # warnings are errors here
    assert data.label_names == ("a", "b")
    assert read(root) == 8
    assert data.notes == ()


def test_a_folder_of_nothing_that_is_read_says_what_there_is(tree) -> None:
    root = tree()
    root.mkdir()
    (root / "x.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"no images or sounds in this folder; it holds 1 x \.heic"):
        load(root)


def test_links_are_followed_and_never_for_ever(tree, tmp_path: Path) -> None:
    root = tree("a/")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.new("L", (4, 4)).save(elsewhere / "0.png")
    (root / "b").symlink_to(elsewhere)
    (root / "a/link.png").symlink_to(elsewhere / "0.png")
    assert read(root) == 6
    (elsewhere / "up").symlink_to(root)
    with pytest.raises(DataError, match=r"up: is a link back to a folder above it"):
        load(root)


def test_links_to_nowhere(tree, tmp_path: Path) -> None:
    root = tree("a/")
    (root / "b").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"b: is a link to .*gone, which is not there; restore"):
        load(root)
    (root / "b").rename(root / "a/gone.png")
    (root / "a/self.png").symlink_to(root / "a/self.png")
    with pytest.raises(
        DataError, match=r"2 samples .*a/gone\.png: is not there, or leads nowhere; restore"
    ):
        load(root)


def test_a_pipe_is_no_sample(tree) -> None:
    root = tree("a/")
    os.mkfifo(root / "a/pipe.png")
    with pytest.warns(UserWarning, match=r"left out 1 files that are no samples: 1 x \.png"):
        assert read(root) == 4


def test_a_folder_that_cannot_be_listed(tree, monkeypatch) -> None:
    root = tree("a/", "b/")
    listed = os.scandir

    def scandir(path: Path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"b: cannot be listed \(Permission denied\); change"):
        load(root)


def test_folders_in_folders_end(tree) -> None:
    with pytest.raises(DataError, match=r"lies more than 32 folders deep; pass a folder below"):
        load(tree("a/" * 40))


def test_one_class_in_two_spellings(tree) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    root = tree(f"train/{composed}/", f"test/{decomposed}/", f"train/{decomposed}/x.png")
    data = load(root)
    assert data.label_names == (composed,)
    assert (data.train.size + data.validation.size, data.test.size) == (5, 4)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    for name in (b"a", b"b\xff"):
        folder = os.path.join(os.fsencode(tmp_path), name)  # noqa: PTH118
        os.mkdir(folder)  # noqa: PTH102
        for i in range(4):
            Image.new("L", (4, 4)).save(os.path.join(folder, b"%d.png" % i))  # noqa: PTH118
    assert load(tmp_path).label_names == ("a", r"b\xff")


@pytest.mark.parametrize("streaming", [False, True])
def test_labels_can_be_left_out(tree, streaming: bool) -> None:
    data = load(tree("a/", "b/"), labels=False, streaming=streaming)
    assert data.label_names is None
    assert next(data.train.batches(2)).labels is None


def test_a_literal_path_comes_before_the_home_folder(tree, monkeypatch) -> None:
    root = tree("~nobody-is-called-so/")
    monkeypatch.chdir(root)
    assert read(Path("~nobody-is-called-so")) == 4
    with pytest.raises(DataError, match="'~nobody-else' does not exist"):
        load(Path("~nobody-else"))


def test_a_sub_folder_of_pictures(tree) -> None:
    root = tree("a/x/", "b/x/")
    assert load(root, subset="a", layout="classes").label_names == ("x",)
    with pytest.raises(DataError, match=r"c: no such folder; check data.subset"):
        load(root, subset="c")
