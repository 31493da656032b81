"""A model on disk comes back as it was, or is refused with the reason."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from anytime_ar.bundle import format as files
from anytime_ar.bundle.card import Card
from anytime_ar.bundle.format import Bundle, build_bundle, load_bundle, save_bundle
from anytime_ar.errors import BundleError, InputError
from anytime_ar.runtime.files import write_json

FILES = [
    "autoencoder.safetensors",
    "config.json",
    "curve.json",
    "manifest.json",
    "prior.safetensors",
]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def x(bundle: Bundle) -> torch.Tensor:
    shape = bundle.autoencoder.sample_shape
    return torch.rand(16, *shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def logits(bundle: Bundle, codes: torch.Tensor) -> torch.Tensor:
    assert bundle.prior is not None
    with torch.no_grad():
        result: torch.Tensor = bundle.prior(codes, torch.arange(len(codes)) % 3)
    return result


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def sign(folder: Path) -> None:
    """Make the manifest fit, as if the bundle had been made like this."""
    manifest = {name: files.sha256(folder / name) for name in names(folder) if name in FILES}
    manifest.pop("manifest.json")
    write_json(folder / "manifest.json", manifest)


def test_a_bundle_comes_back_as_it_was(bundle: Bundle, saved: Path) -> None:
    assert names(saved) == FILES
    assert names(saved.parent) == ["tiny"]
    loaded = load_bundle(saved)
    assert loaded.card == bundle.card
    assert loaded.curve == bundle.curve
    codes = bundle.autoencoder.encode(x(bundle))
    assert len(codes.unique(dim=0)) > 3, "the case does not test what it should"
    assert torch.equal(loaded.autoencoder.encode(x(bundle)), codes)
    for kept in (1, 3):
        decoded = bundle.autoencoder.decode(codes[:, :kept])
        assert torch.equal(loaded.autoencoder.decode(codes[:, :kept]), decoded)
    assert torch.equal(logits(loaded, codes), logits(bundle, codes))


def test_loading_draws_no_random_weights(saved: Path) -> None:
    before = torch.random.get_rng_state()
    load_bundle(saved)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_all_files_may_be_read_by_whom_the_umask_lets(tmp_path: Path, bundle: Bundle) -> None:
    before = os.umask(0o027)
    try:
        save_bundle(bundle, tmp_path / "shared")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "shared").iterdir()}
    assert modes == dict.fromkeys(modes, 0o640)


def test_what_only_training_needs_is_not_stored(bundle: Bundle, saved: Path) -> None:
    stored = {path.stem: load_file(path) for path in saved.glob("*.safetensors")}
    names = {key.rsplit(".", 1)[-1] for state in stored.values() for key in state}
    assert "codebooks" in names
    assert not names & {"cluster_size", "embed_avg", "codebook_features"}
    state = load_bundle(saved).autoencoder.state_dict()
    assert state.keys() == bundle.autoencoder.state_dict().keys()
    for key in state:
        if key.endswith("totals"):
            assert torch.equal(state[key], state[key.replace("totals", "codebooks")])
    del stored["autoencoder"]["fill"]  # while a weight may not be missing
    save_file(stored["autoencoder"], saved / "autoencoder.safetensors")
    sign(saved)
    with pytest.raises(BundleError, match=r"does not fit its config\.json"):
        load_bundle(saved)


def test_half_precision_halves_the_files_and_rounds(
    tmp_path: Path, bundle: Bundle, saved: Path
) -> None:
    half = replace(bundle, card=bundle.card.model_copy(update={"weights_dtype": "float16"}))
    save_bundle(half, tmp_path / "half")
    loaded = load_bundle(tmp_path / "half")
    for name, network in (("autoencoder", loaded.autoencoder), ("prior", loaded.prior)):
        assert network is not None
        original = getattr(bundle, name).state_dict()
        stored = load_file(tmp_path / "half" / f"{name}.safetensors")
        for key in stored:
            value = network.state_dict()[key]
            assert value.dtype == original[key].dtype
            expected = original[key].half().float() if value.is_floating_point() else original[key]
            assert torch.equal(value, expected)
        full = load_file(saved / f"{name}.safetensors")
        assert all(stored[key].nbytes * 2 == full[key].nbytes for key in full)
    codes = bundle.autoencoder.encode(x(bundle))
    torch.testing.assert_close(
        loaded.autoencoder.decode(codes), bundle.autoencoder.decode(codes), atol=5e-3, rtol=0
    )
    torch.testing.assert_close(logits(loaded, codes), logits(bundle, codes), atol=2e-2, rtol=0)
    # What was rounded once stays: saving again changes no byte.
    save_bundle(loaded, tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "half" / name).read_bytes()


def test_an_autoencoder_alone_and_no_curve(tmp_path: Path, bundle: Bundle) -> None:
    card = bundle.card.model_copy(update={"prior": None})
    save_bundle(Bundle(card, bundle.autoencoder), tmp_path / "alone")
    assert names(tmp_path / "alone") == [FILES[0], FILES[1], FILES[3]]
    loaded = load_bundle(tmp_path / "alone")
    assert loaded.prior is None
    assert loaded.curve is None


def test_a_loaded_bundle_neither_drops_out_nor_learns(saved: Path) -> None:
    loaded = load_bundle(saved)
    assert loaded.prior is not None
    assert not loaded.prior.training
    assert not loaded.autoencoder.quantizer.training


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("autoencoder.safetensors", r"autoencoder\.safetensors is missing; get the bundle again"),
        ("prior.safetensors", r"prior\.safetensors is missing; get the bundle again"),
        ("curve.json", r"curve\.json is missing; get the bundle again"),
        ("config.json", r"config\.json is missing, so \S+tiny is no complete bundle"),
        ("manifest.json", r"manifest\.json is missing, so \S+tiny is no complete bundle"),
    ],
)
def test_a_missing_file_is_named(saved: Path, name: str, message: str) -> None:
    (saved / name).unlink()
    with pytest.raises(BundleError, match=message):
        load_bundle(saved)


@pytest.mark.parametrize("name", [n for n in FILES if n != "manifest.json"])
def test_a_file_that_the_manifest_does_not_list_is_refused(saved: Path, name: str) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    del manifest[name]
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=rf"manifest\.json does not list {name}; get the bundle"):
        load_bundle(saved)


def test_weights_that_were_never_there_are_missed(saved: Path) -> None:
    (saved / "prior.safetensors").unlink()
    sign(saved)
    with pytest.raises(BundleError, match=r"prior\.safetensors is missing; get the bundle again"):
        load_bundle(saved)


@pytest.mark.parametrize("path", ["../secret", "sub/file", "/etc/hostname"])
def test_a_manifest_that_points_elsewhere_is_refused(saved: Path, path: str) -> None:
    (saved.parent / "secret").write_text("mine")
    edit_json(saved / "manifest.json", **{path: "0" * 64})
    with pytest.raises(BundleError, match=rf"lists '{path}', which is no file of a bundle; refu"):
        load_bundle(saved)


@pytest.mark.parametrize("version", [3, 0, "1", None])
def test_an_unknown_version_is_refused(saved: Path, version: object) -> None:
    edit_json(saved / "config.json", format_version=version)
    sign(saved)
    with pytest.raises(
        BundleError, match=rf"has format version {version!r}, this release reads 2; update anytime"
    ):
        load_bundle(saved)


def test_what_is_no_bundle_is_refused(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(BundleError, match="nowhere is not a folder; pass the folder that `anytime"):
        load_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"config\.json is not a folder"):
        load_bundle(saved / "config.json")
    with pytest.raises(BundleError, match=r"config\.json is missing, so \S+ is no complete bundle"):
        load_bundle(tmp_path)
    (saved / "config.json").write_text("[1, 2]")
    with pytest.raises(BundleError, match=r"config\.json holds a list, expected an object"):
        load_bundle(saved)
    (saved / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(BundleError, match=r"config\.json is not JSON"):
        load_bundle(saved)


def test_an_unknown_setting_is_refused(saved: Path) -> None:
    edit_json(saved / "config.json", colour="red")
    sign(saved)
    with pytest.raises(BundleError, match=r"config\.json: colour: extra inputs are not permitted"):
        load_bundle(saved)


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin", "WEIGHTS.PKL", "last.ckpt"])
def test_pickles_are_refused_unread(tmp_path: Path, saved: Path, name: str) -> None:
    marker = tmp_path / "executed"
    torch.save({"weights": Trap(marker)}, saved / name)
    with pytest.raises(
        BundleError, match=rf"holds {name}: pickled weights can run code and are no"
    ):
        load_bundle(saved)
    assert not marker.exists()
    torch.load(saved / name, weights_only=False)
    assert marker.exists(), "the trap works, had anyone read it"


def test_a_pickle_by_another_name_is_not_unpickled(tmp_path: Path, saved: Path) -> None:
    marker = tmp_path / "executed"
    (saved / "prior.safetensors").write_bytes(pickle.dumps(Trap(marker)))
    sign(saved)
    with pytest.raises(BundleError, match=r"prior\.safetensors does not fit its config\.json"):
        load_bundle(saved)
    assert not marker.exists()


def test_weights_of_another_size_are_refused(saved: Path) -> None:
    values = json.loads((saved / "config.json").read_text())
    values["prior"]["width"] = 16
    (saved / "config.json").write_text(json.dumps(values))
    sign(saved)
    with pytest.raises(
        BundleError, match=r"prior\.safetensors does not fit its config\.json: .*size mismatch"
    ) as caught:
        load_bundle(saved)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_a_weight_too_few_is_refused(saved: Path) -> None:
    weights = load_file(saved / "autoencoder.safetensors")
    del weights["fill"]
    save_file(weights, saved / "autoencoder.safetensors")
    sign(saved)
    with pytest.raises(BundleError, match=r'does not fit its config\.json: .*Missing key.*"fill"'):
        load_bundle(saved)


def test_saving_replaces_a_bundle(bundle: Bundle, saved: Path) -> None:
    renamed = replace(bundle, card=bundle.card.model_copy(update={"name": "new"}), curve=None)
    save_bundle(renamed, saved)
    assert load_bundle(saved).card.name == "new"
    assert names(saved) == [name for name in FILES if name != "curve.json"]
    assert names(saved.parent) == ["tiny"]


def test_an_empty_folder_and_a_link_are_written_to(tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    save_bundle(bundle, tmp_path / "link")
    save_bundle(bundle, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "empty") == FILES
    assert names(tmp_path) == ["empty", "link"]


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt("stopped")])
@pytest.mark.parametrize("moment", ["weights", "manifest", "first rename", "second rename"])
def test_a_failure_leaves_the_old_bundle_and_nothing_else(
    bundle: Bundle,
    saved: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    failure: BaseException,
) -> None:
    before = {name: (saved / name).read_bytes() for name in FILES}
    calls: list[str] = []

    def failing(call: Callable[..., Any], last: int) -> Callable[..., Any]:
        def stand_in(*arguments: Any) -> Any:
            calls.append(call.__name__)
            if len(calls) == last:
                raise failure
            return call(*arguments)

        return stand_in

    with monkeypatch.context() as patch:
        if moment == "weights":
            patch.setattr(files, "save", failing(save, 2))
        elif moment == "manifest":
            patch.setattr(files, "sha256", failing(files.sha256, 3))
        else:
            last = 1 if moment == "first rename" else 2
            patch.setattr(Path, "rename", failing(Path.rename, last))
        with pytest.raises(type(failure), match=str(failure)):
            save_bundle(replace(bundle, curve=None), saved)
    assert calls
    assert {name: (saved / name).read_bytes() for name in names(saved)} == before
    assert names(saved.parent) == ["tiny"]
    load_bundle(saved)


def test_what_a_killed_process_left_is_swept(bundle: Bundle, saved: Path) -> None:
    for name in (".tiny-0123456789abcdef.new", ".tiny-0123456789abcdef.old", ".tinyer-0.new"):
        shutil.copytree(saved, saved.parent / name)
    save_bundle(bundle, saved)
    assert names(saved.parent) == [".tinyer-0.new", "tiny"]


def test_other_folders_are_not_overwritten(tmp_path: Path, bundle: Bundle, saved: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "config.json").write_text("{}")  # many programs write one
    with pytest.raises(
        InputError, match="photos exists and is not a bundle; choose another folder"
    ):
        save_bundle(bundle, photos)
    with pytest.raises(InputError, match=r"config\.json is a file; choose a folder for the bundle"):
        save_bundle(bundle, photos / "config.json")
    assert names(photos) == ["config.json"]
    (saved / "README.md").write_text("mine")
    with pytest.raises(InputError, match=r"tiny also holds README\.md; choose another folder"):
        save_bundle(bundle, saved)
    assert (saved / "README.md").read_text() == "mine"
    with pytest.raises(
        InputError, match=r"cannot write .*config\.json is a file; choose another folder"
    ):
        save_bundle(bundle, photos / "config.json" / "bundle")
    assert names(tmp_path) == ["models", "photos"]


@pytest.mark.parametrize(("loudness", "normalize"), [("peak", "peak"), ("as_stored", "none")])
def test_a_card_of_0_1_has_the_scaling_of_recordings_in_its_training(
    card: Card, loudness: str, normalize: str
) -> None:
    values = card.model_dump(mode="json", exclude_none=True)
    old = {"training": {"data": {"sound": {"loudness": loudness}}}}
    expected = None if card.data.sample_rate is None else normalize
    assert Card.parse(values | old, origin="test").data.normalize == expected


def test_fresh_networks_follow_the_card(bundle: Bundle) -> None:
    fresh = build_bundle(bundle.card)
    assert fresh.prior is not None
    assert (fresh.prior.code_length, fresh.prior.vocabulary) == (3, 4)
    assert fresh.prior.label_count == 2
    unlabelled = bundle.card.data.model_copy(update={"labels": None})
    card = bundle.card.model_copy(update={"data": unlabelled})
    assert card.label_count == 0
    network = build_bundle(card).prior
    assert network is not None
    assert network.label_count == 0
