"""From a model's name to its folder."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from anytime_ar.bundle.format import BUNDLE_FILES, find_bundle, load_bundle, shipped_models
from anytime_ar.errors import BundleError, MissingExtraError


@pytest.fixture
def package(tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that ships one bundle, `tiny`."""
    root = tmp_path / "package"
    shutil.copytree(saved, root / "bundles" / "tiny")
    (root / "bundles" / "README.md").write_text("no bundle")
    monkeypatch.setattr("anytime_ar.bundle.format.resources.files", lambda name: root)  # noqa: ARG005
    return root


def never(*_: Any, **__: Any) -> str:
    raise AssertionError("the Hub was asked")


def test_a_shipped_name(package: Path) -> None:
    assert shipped_models() == ["tiny"]
    assert find_bundle("tiny") == package / "bundles" / "tiny"
    assert load_bundle(find_bundle("tiny")).card.name == "tiny"


def test_every_shipped_bundle_loads() -> None:
    for name in shipped_models():
        assert load_bundle(find_bundle(name)).card.name == name


def test_a_package_without_bundles_ships_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anytime_ar.bundle.format.resources.files", lambda name: tmp_path)  # noqa: ARG005
    assert shipped_models() == []


def test_a_bundle_folder_and_a_run(tmp_path: Path, saved: Path) -> None:
    assert find_bundle(saved) == saved
    assert find_bundle(str(saved)) == saved
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("name: tiny")
    with pytest.raises(
        BundleError, match="run is a run without a model yet; finish it with `anytime train --resum"
    ):
        find_bundle(run)
    shutil.copytree(saved, run / "bundle")
    assert find_bundle(run) == run / "bundle"


def test_unknown_names(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert package.is_dir()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", never)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    message = r"no model '{}': neither shipped \(tiny\) nor a folder; check the path, or pass a Hub"
    for name in ("mnits", "./a/b", "/a/b", "a/b/c", "~/model", "runs/dmeo", "a/", "../b"):
        with pytest.raises(BundleError, match=message.format(name)):
            find_bundle(name)


def test_a_hub_name(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None, list[str]]] = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        return str(saved)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_bundle(find_bundle("owner/tiny-1.0")).card.name == "tiny"
    assert load_bundle(find_bundle("owner/tiny@refs/pr/1")).card.name == "tiny"
    # Only what a bundle is made of is fetched: a pickle does not even arrive.
    assert asked == [
        ("owner/tiny-1.0", None, sorted(BUNDLE_FILES)),
        ("owner/tiny", "refs/pr/1", sorted(BUNDLE_FILES)),
    ]


class Timeout(Exception):
    """Of an HTTP library that the Hub's client lets through."""


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (
            LocalEntryNotFoundError("no connection\nand no copy"),
            "it cannot be reached, and the cache has no complete copy; check the network",
        ),
        (HFValidationError("bad name"), "bad name; check the name and the network"),
        (ConnectionError("offline mode"), "offline mode; check the name and the network"),
        (Timeout("took too long"), "took too long; check the name and the network"),
        (OSError(), "OSError; check the name and the network"),
    ],
)
def test_a_hub_failure_is_one_line(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, reason: str
) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(
        BundleError,
        match=rf"^no model 'owner/name': not a folder here, and none from the Hub: {reason}$",
    ):
        find_bundle("owner/name")


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        MissingExtraError,
        match=r"'owner/name' is no folder here; .*-m pip install 'huggingface_hub",
    ):
        find_bundle("owner/name")
