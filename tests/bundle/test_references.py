"""Bundles that refer to weights elsewhere: the same model, or one line that says why not."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import anytime_ar as aar
from anytime_ar.autoencoder.neural_codecs import CodecTokenizer
from anytime_ar.bundle.card import Card
from anytime_ar.bundle.format import Bundle, build_bundle, file_digests
from anytime_ar.errors import BundleError, InputError
from anytime_ar.plugins import register
from anytime_ar.prior.huggingface import HuggingFacePrior
from anytime_ar.runtime.files import sha256, write_json
from random_models import encodec_config, llama_config, random_bundle

COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a codec and a Llama, as `save_pretrained` writes them."""
    folder = tmp_path_factory.mktemp("parts")
    values = {
        "name": "tiny",
        "data": {"name": "none", "sample_shape": (1, 48), "sample_rate": 8000},
        "autoencoder": encodec_config(samples=48, frames=3, levels=2, vocabulary=8),
        "prior": llama_config(code_length=6, vocabulary=8, label_count=0),
    }
    bundle = random_bundle(Card.parse(values, origin="test"))
    assert isinstance(bundle.autoencoder, CodecTokenizer)
    assert isinstance(bundle.prior, HuggingFacePrior)
    bundle.autoencoder.model.save_pretrained(folder / "codec")
    bundle.prior.model.save_pretrained(folder / "llama")
    model = aar.AnytimeModel(bundle, device="cpu")
    model.save(folder / "by-value")
    own = {"tokenizer": folder / "codec", "prior": folder / "llama"}
    model.save(folder / "by-reference", references=own)  # type: ignore[arg-type]
    return folder


@pytest.fixture
def references(parts: Path, tmp_path: Path) -> dict[str, str]:
    """Folders that a test may change."""
    found = {"tokenizer": tmp_path / "codec", "prior": tmp_path / "llama"}
    for path in found.values():
        shutil.copytree(parts / path.name, path)
    return {part: str(path) for part, path in found.items()}


@pytest.fixture
def referring(parts: Path, references: dict[str, str], tmp_path: Path) -> Path:
    """A bundle of which both parts are in the folders of `references`."""
    folder = tmp_path / "model"
    shutil.copytree(parts / "by-reference", folder)

    def move(values: dict[str, Any]) -> None:
        for part, path in references.items():
            values["references"][part]["folder"] = path

    change_card(folder, move)
    return folder


def change_card(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change config.json of a bundle, as its author could have."""
    values = json.loads((folder / "config.json").read_text())
    change(values)
    write_json(folder / "config.json", values)
    write_json(folder / "manifest.json", file_digests(folder))


@pytest.mark.parametrize("chosen", [("tokenizer",), ("prior",), ("tokenizer", "prior")])
def test_a_model_by_reference_is_the_model(
    chosen: tuple[Any, ...], parts: Path, references: dict[str, str], tmp_path: Path
) -> None:
    model = aar.load(parts / "by-value", device="cpu")
    folder = tmp_path / "model"
    model.save(folder, references={part: references[part] for part in chosen})
    stored = {"tokenizer": "autoencoder.safetensors", "prior": "prior.safetensors"}
    left = {name for part, name in stored.items() if part not in chosen}
    assert {path.name for path in folder.iterdir()} == left | {"config.json", "manifest.json"}

    loaded = aar.load(folder, device="cpu")
    assert loaded.fingerprint == model.fingerprint
    x = model.sample(3, seed=0)
    assert torch.equal(loaded.sample(3, seed=0), x)
    assert torch.equal(loaded.encode(x), model.encode(x))
    assert torch.equal(loaded.generate(3, seed=0, codes=2).state.refine().data, x)
    assert torch.equal(pickle.loads(pickle.dumps(loaded)).sample(3, seed=0), x)
    for part in chosen:
        assert f"{part}='{references[part]}'" in repr(loaded)
        assert f"{part}='{references[part]}'" in repr(loaded.bundle)
        (file,) = loaded.bundle.card.references[part].files.items()
        path = Path(references[part]) / file[0]
        assert (file[1].sha256, file[1].size) == (sha256(path), path.stat().st_size)

    loaded.save(tmp_path / "same")
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "same" / path.name).read_bytes()
    loaded.save(tmp_path / "value", references={})
    for path in (parts / "by-value").iterdir():
        assert path.read_bytes() == (tmp_path / "value" / path.name).read_bytes()


def test_weights_in_several_files(parts: Path, references: dict[str, str], tmp_path: Path) -> None:
    folder = Path(references["prior"])
    weights = sorted(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    halves = {"model-1.safetensors": weights[::2], "model-2.safetensors": weights[1::2]}
    for name, half in halves.items():
        save_file(dict(half), folder / name, metadata={"format": "pt"})
    index = {"weight_map": {key: name for name, half in halves.items() for key, _ in half}}
    write_json(folder / "model.safetensors.index.json", index)
    model = aar.load(parts / "by-value", device="cpu")
    model.save(tmp_path / "model", references={"prior": folder})
    loaded = aar.load(tmp_path / "model", device="cpu")
    assert loaded.fingerprint == model.fingerprint
    assert loaded.bundle.card.references["prior"].files.keys() == halves.keys()

    write_json(folder / "model.safetensors.index.json", {"weight_map": [1]})
    with pytest.raises(InputError, match=r"index\.json lists no files of weights; get it again"):
        model.save(tmp_path / "other", references={"prior": folder})
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"a": "../a.bin"}})
    with pytest.raises(InputError, match=r"'\.\./a\.bin' is no safetensors file; get it again"):
        model.save(tmp_path / "other", references={"prior": folder})


@register("test_bundle_levels")
class Levels(aar.Tokenizer):
    """Whether an image is bright, in levels that a file holds."""

    def __init__(self) -> None:
        super().__init__()
        self.code_length, self.vocabulary, self.sample_shape = 1, 4, (1, 2, 2)
        self.levels = nn.Parameter(torch.linspace(-1, 1, 4))

    def encode(self, x: Tensor) -> Tensor:
        return (x.mean((1, 2, 3))[:, None, None] - self.levels).abs().argmin(-1)

    def decode(self, codes: Tensor) -> Tensor:
        return self.levels[codes[:, 0]].detach().view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def test_a_class_of_a_user_by_reference(tmp_path: Path) -> None:
    """Its file has the names of its weights."""
    tokenizer = Levels()
    (tmp_path / "levels").mkdir()
    save_file(tokenizer.state_dict(), tmp_path / "levels" / "model.safetensors")
    model = aar.AnytimeModel.from_parts(tokenizer, device="cpu")
    model.save(tmp_path / "model", references={"tokenizer": tmp_path / "levels"})
    assert not (tmp_path / "model" / "autoencoder.safetensors").exists()
    loaded = aar.load(tmp_path / "model", device="cpu")
    assert loaded.fingerprint == model.fingerprint
    with torch.no_grad():
        loaded.autoencoder.levels.mul_(2)  # type: ignore[operator]
    with pytest.raises(InputError, match="the tokenizer has changed since its weights were read f"):
        loaded.save(tmp_path / "model")
    with pytest.raises(InputError, match=r"has other weights than .*levels; store them in the bun"):
        loaded.save(tmp_path / "model", references={"tokenizer": tmp_path / "levels"})
    loaded.save(tmp_path / "model", references={})
    assert aar.load(tmp_path / "model", device="cpu").fingerprint != model.fingerprint


def test_what_cannot_be_referenced(parts: Path, bundle: Bundle, tmp_path: Path) -> None:
    model, out = aar.load(parts / "by-value", device="cpu"), tmp_path / "out"
    (tmp_path / "pickled").mkdir()
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    (tmp_path / "false").mkdir()
    torch.save({}, tmp_path / "false" / "model.safetensors")
    refused = {
        "pickled": r"pickled has no model\.safetensors, and pickled weights can run code and are",
        "false": r"model\.safetensors of the tokenizer is not in the format safetensors",
        str(
            parts / "llama"
        ): r"model\.safetensors does not fit the tokenizer: missing keys: \['decoder",
        "no/such/folder": "which is neither a folder nor a Hub ID; pass a folder that save_pretr",
    }
    for name, message in refused.items():
        with pytest.raises(InputError, match=message):
            model.save(out, references={"tokenizer": tmp_path / name})
    with pytest.raises(InputError, match="references name 'decoder'; expected tokenizer or prior"):
        model.save(out, references={"decoder": "x/y"})  # type: ignore[dict-item]
    ours = aar.AnytimeModel(bundle, device="cpu")
    with pytest.raises(
        InputError, match="the prior cannot be referenced in x/y: it is one of ours"
    ):
        ours.save(out, references={"prior": "x/y"})
    assert not out.exists()


def at(values: dict[str, Any], part: str = "tokenizer") -> dict[str, Any]:
    reference: dict[str, Any] = values["references"][part]
    return reference


def on_hub(repo_id: object, revision: object = COMMIT) -> Callable[[dict[str, Any]], object]:
    """Refer to the Hub in place of a folder."""

    def change(values: dict[str, Any]) -> None:
        at(values).pop("folder")
        at(values).update(repo_id=repo_id, revision=revision)

    return change


def many_files(values: dict[str, Any]) -> None:
    (digest,) = at(values)["files"].values()
    at(values)["files"] = {f"{i}.safetensors": digest for i in range(100_000)}


HUB_ID = "expected the Hub ID of a repository, as owner/name"
HOSTILE: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (on_hub("../../etc"), HUB_ID),
    (on_hub("owner/.."), HUB_ID),
    (on_hub("/etc/passwd"), HUB_ID),
    (on_hub("./codec"), HUB_ID),
    (on_hub("owner/name@main"), HUB_ID),
    (on_hub("o" * 10**6), HUB_ID),
    (on_hub(7), "references.tokenizer.repo_id: input should be a valid string (got 7)"),
    (on_hub("owner/name", "main"), "references.tokenizer.revision: string should match pattern"),
    (on_hub("owner/name", None), "revision is missing, expected the hash of a commit"),
    (on_hub("owner/name", COMMIT[:7]), "references.tokenizer.revision: string should match patt"),
    (lambda values: at(values).update(repo_id="owner/name"), "folder and repo_id are given; give"),
    (lambda values: at(values).update(folder="codec"), "folder is 'codec', expected an absolute p"),
    (lambda values: at(values).update(folder=None), HUB_ID),
    (many_files, "references.tokenizer.files: 100,000 files, expected at most 256"),
    (lambda values: at(values).update(files={}), "dictionary should have at least 1 item"),
    (lambda values: at(values).update(files=["a"]), "files: input should be a valid dictionary"),
    (
        lambda values: at(values).update(files={"model.safetensors": 3}),
        "references.tokenizer.files.model.safetensors: input should be a valid dictionary",
    ),
    (
        lambda values: at(values)["files"]["model.safetensors"].update(sha256="x"),
        "files.model.safetensors.sha256: string should match pattern",
    ),
    (
        lambda values: at(values)["files"]["model.safetensors"].update(size=-1),
        "files.model.safetensors.size: input should be greater than or equal to 0",
    ),
    (lambda values: at(values)["files"].update({"pytorch_model.bin": 1}), "can run code and are n"),
    (lambda values: at(values)["files"].update({"../a.safetensors": 1}), "is no name of a safeten"),
    (lambda values: at(values).update(code="x.py"), "code: extra inputs are not permitted"),
    (lambda values: values.update(references=[]), "references: input should be a valid dictionary"),
    (
        lambda values: values["references"].update(decoder=at(values)),
        "references.decoder.[key]: input should be 'tokenizer' or 'prior'",
    ),
    (
        lambda values: values.update(prior=None),
        "references.prior is for one of another package, and this model has none; drop it",
    ),
    (
        lambda values: values["autoencoder"]["config"]["model"].update(model_type="nothing"),
        "the tokenizer is no codec of the installed transformers",
    ),
    (
        lambda values: values["prior"]["config"]["model"].update(vocab_size=10**9),
        "networks that are much larger than the",
    ),
    (
        lambda values: values["prior"]["config"]["model"].update(hidden_size=32),
        "does not fit its config.json",
    ),
    (lambda values: values["autoencoder"].update(kind="os.system"), "which is no Tokenizer"),
    (
        lambda values: at(values).update(weights_sha256="0" * 64),
        "does not fit its config.json: they give other weights than when it was saved; install",
    ),
]


@pytest.mark.parametrize(("change", "message"), HOSTILE)
def test_cards_that_are_refused(
    change: Callable[[dict[str, Any]], object],
    message: str,
    referring: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fetch(*_: Any, **__: Any) -> None:
        pytest.fail("the Hub was asked")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    change_card(referring, change)
    with pytest.raises(BundleError) as caught:
        aar.load(referring)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


def test_a_reference_of_our_own_networks_is_refused(
    bundle: Bundle, referring: Path, tmp_path: Path
) -> None:
    reference = at(json.loads((referring / "config.json").read_text()))
    aar.AnytimeModel(bundle, device="cpu").save(tmp_path / "ours")
    change_card(tmp_path / "ours", lambda values: values.update(references={"prior": reference}))
    with pytest.raises(
        BundleError, match=r"references\.prior is .* model has one of ours; drop it"
    ):
        aar.load(tmp_path / "ours")


def test_files_that_changed(referring: Path, references: dict[str, str]) -> None:
    path = Path(references["tokenizer"]) / "model.safetensors"
    content, digest = path.read_bytes(), sha256(path)
    altered = content[:-1] + bytes([content[-1] ^ 1])
    path.write_bytes(altered)
    with pytest.raises(BundleError) as caught:
        aar.load(referring)
    assert str(caught.value) == (
        f"{path} of the tokenizer was altered: its SHA-256 is {sha256(path)}, expected {digest}; "
        "put the file back, or get a bundle that holds its weights"
    )
    with path.open("ab") as file:
        file.truncate(2**40)  # of no blocks on the disk; to read it would take an hour
    with pytest.raises(BundleError, match=rf"has {2**40} bytes, expected {len(content)} with SHA"):
        aar.load(referring)
    path.unlink()
    with pytest.raises(BundleError, match=r"is stored in .*, which is no file; put the file back"):
        aar.load(referring)
    path.mkdir()
    with pytest.raises(BundleError, match=r"is stored in .*, which is no file; put the file back"):
        aar.load(referring)
    path.rmdir()
    path.write_bytes(content)
    aar.load(referring)


def test_weights_beside_a_reference_are_not_read(parts: Path, referring: Path) -> None:
    """There is one place of each."""
    shutil.copy(parts / "by-value" / "prior.safetensors", referring)
    change_card(referring, lambda _values: None)
    with pytest.raises(BundleError, match=r"prior\.safetensors is there although config\.json re"):
        aar.load(referring)


def test_a_card_without_references_needs_its_weights(parts: Path, tmp_path: Path) -> None:
    shutil.copytree(parts / "by-value", tmp_path / "model")
    (tmp_path / "model" / "autoencoder.safetensors").unlink()
    change_card(tmp_path / "model", lambda _values: None)
    with pytest.raises(
        BundleError, match=r"autoencoder\.safetensors is missing; get the bundle ag"
    ):
        aar.load(tmp_path / "model")
    card = Card.parse(json.loads((tmp_path / "model" / "config.json").read_text()), origin="test")
    assert build_bundle(card).card.references == {}
