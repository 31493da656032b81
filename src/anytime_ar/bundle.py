"""A model on disk: a folder that describes itself, and the only module that knows its format.

    config.json                what the model is (`Card`), with `format_version`
    autoencoder.safetensors    weights
    prior.safetensors
    curve.json                 measured quality against codes, once evaluated
    manifest.json              SHA-256 of every other file

Neither safetensors nor JSON notices a flipped bit, so the manifest is checked before anything is
read. Pickles are refused unread.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from anytime_ar.autoencoder import AutoencoderConfig, OrderedAutoencoder
from anytime_ar.config import Config
from anytime_ar.curve import Curve
from anytime_ar.errors import BundleError, InputError, MissingExtraError
from anytime_ar.files import write_json
from anytime_ar.prior import Prior, PriorConfig

FORMAT_VERSION = 1
_PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt"}


class DataCard(Config):
    """What a model's samples are."""

    name: str
    """The data set that it was trained on."""
    sample_shape: tuple[int, int, int]
    """(C, H, W)."""
    value_range: tuple[float, float] = (-1.0, 1.0)
    labels: tuple[str, ...] | None = None
    """Names of the classes; None where there are none."""
    label_frequencies: tuple[float, ...] | None = None
    """Share of each class in the training split."""


class Card(Config):
    """What a bundle holds, as written in its config.json."""

    format_version: Literal[1] = 1
    name: str
    data: DataCard
    autoencoder: AutoencoderConfig
    prior: PriorConfig | None = None
    """None: an autoencoder alone, which encodes and decodes but does not sample."""
    weights: Literal["float32", "float16"] = "float32"
    """Number format of the stored weights; in memory they are float32."""
    training: dict[str, Any] = Field(default_factory=dict)
    """The configuration of the run that made the model, for the record."""

    @property
    def label_count(self) -> int:
        """Classes that the prior is conditioned on; 0: none."""
        return len(self.data.labels or ())


@dataclass(frozen=True)
class Bundle:
    """A model in memory, with what belongs to it."""

    card: Card
    autoencoder: OrderedAutoencoder
    prior: Prior | None = None
    curve: Curve | None = None


def build(card: Card) -> Bundle:
    """Fresh networks for a card, with random weights."""
    autoencoder = OrderedAutoencoder(card.autoencoder, card.data.sample_shape)
    if card.prior is None:
        return Bundle(card, autoencoder)
    prior = Prior(
        card.prior, autoencoder.code_length, autoencoder.vocabulary, label_count=card.label_count
    )
    return Bundle(card, autoencoder, prior)


def save_bundle(bundle: Bundle, folder: Path | str) -> None:
    """Write a bundle; a folder that is there is replaced only once the new one is complete.

    Raises:
        InputError: the folder holds something other than a bundle.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / "config.json").exists():
        raise InputError(f"{folder} exists and is not a bundle; choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    suffix = secrets.token_hex(4)
    fresh = folder.with_name(f".{folder.name}-{suffix}.new")
    fresh.mkdir()
    try:
        write_json(fresh / "config.json", bundle.card.model_dump(mode="json"))
        dtype = getattr(torch, bundle.card.weights)
        for name, module in _networks(bundle).items():
            save_file(_stored(module, dtype), fresh / name)
        if bundle.curve is not None:
            write_json(fresh / "curve.json", bundle.curve.model_dump(mode="json"))
        write_json(
            fresh / "manifest.json", {path.name: _sha256(path) for path in sorted(fresh.iterdir())}
        )
        if folder.exists():
            old = folder.with_name(f".{folder.name}-{suffix}.old")
            folder.rename(old)
            fresh.rename(folder)
            shutil.rmtree(old)
        else:
            fresh.rename(folder)
    except BaseException:  # also an interrupt: leave nothing half-written
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def load_bundle(folder: Path | str) -> Bundle:
    """Read a bundle, checking every file against the manifest first.

    Raises:
        BundleError: it is not a bundle, holds pickles, is of an unknown version, or a file is
            missing or altered.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BundleError(f"{folder} is not a folder; pass the folder that `anytime train` wrote")
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise BundleError(
            f"{folder} holds {', '.join(pickles)}: pickled weights can run code and are not read; "
            "convert them to safetensors"
        )
    values = _read_json(folder / "config.json")
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{folder} has format version {version!r}, this release reads {FORMAT_VERSION}; "
            "update anytime-ar, or save the bundle again"
        )
    _check_manifest(folder)
    try:
        card = Card.parse(values, origin=str(folder / "config.json"))
        bundle = build(card)
    except InputError as error:
        raise BundleError(str(error)) from error
    for name, module in _networks(bundle).items():
        try:
            module.load_state_dict({k: _loaded(v) for k, v in load_file(folder / name).items()})
        except (RuntimeError, SafetensorError) as error:
            raise BundleError(f"{folder / name} does not fit its config.json: {error}") from error
    curve_path = folder / "curve.json"
    curve = Curve.read(curve_path) if curve_path.exists() else None
    return Bundle(card, bundle.autoencoder, bundle.prior, curve)


def shipped() -> list[str]:
    """Names of the bundles that come with the package."""
    root = resources.files("anytime_ar") / "bundles"
    return sorted(entry.name for entry in root.iterdir()) if root.is_dir() else []


def resolve(name: Path | str) -> Path:
    """The folder of a model: shipped with the package, local, or fetched from the Hub.

    Args:
        name: `"mnist"`, a bundle folder, a folder that `anytime train` wrote, or `"owner/name"`.

    Raises:
        BundleError: nothing is found under that name.
    """
    if str(name) in shipped():
        return Path(str(resources.files("anytime_ar") / "bundles" / str(name)))
    path = Path(name)
    if path.is_dir():
        run = path / "bundle"
        return run if run.is_dir() else path
    if str(name).count("/") == 1 and not str(name).startswith((".", "/", "~")):
        return _from_hub(str(name))
    raise BundleError(
        f"no model {str(name)!r}: neither shipped ({', '.join(shipped()) or 'none'}) nor a folder; "
        "check the path, or pass a Hub id such as owner/name"
    )


def _networks(bundle: Bundle) -> dict[str, nn.Module]:
    """The networks of a bundle by the file of their weights."""
    networks: dict[str, nn.Module] = {"autoencoder.safetensors": bundle.autoencoder}
    if bundle.prior is not None:
        networks["prior.safetensors"] = bundle.prior
    return networks


def _from_hub(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ImportError as error:
        raise MissingExtraError(
            f'{name!r} is no folder here; to fetch it from the Hub, pip install "anytime-ar[hub]"'
        ) from error
    try:
        files = ["*.json", "*.safetensors"]
        return Path(snapshot_download(name, allow_patterns=files))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BundleError(
            f"no model {name!r}: not a folder here, and the Hub says: {reason}; "
            "check the name and the network"
        ) from error


def _check_manifest(folder: Path) -> None:
    manifest = _read_json(folder / "manifest.json")
    for name in ("config.json", "autoencoder.safetensors"):
        if name not in manifest:
            raise BundleError(
                f"{folder / 'manifest.json'} does not list {name}; get the bundle again"
            )
    for name, digest in manifest.items():
        path = folder / name
        if Path(name).name != name:
            raise BundleError(
                f"{folder / 'manifest.json'} lists {name!r}, outside the bundle; refused"
            )
        if not path.is_file():
            raise BundleError(f"{path} is missing; get the bundle again")
        if _sha256(path) != digest:
            raise BundleError(
                f"{path} was altered: its SHA-256 is not the manifest's; get the bundle again"
            )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{path} is missing, so {path.parent} is no complete bundle") from error
    except ValueError as error:
        raise BundleError(f"{path} is not JSON: {error}; get the bundle again") from error
    if not isinstance(values, dict):
        raise BundleError(f"{path} holds a {type(values).__name__}, expected an object")
    return values


def _stored(module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights as they go to disk; whole numbers keep their type."""
    return {
        name: value.detach()
        .cpu()
        .to(dtype if value.is_floating_point() else value.dtype)
        .contiguous()
        for name, value in module.state_dict().items()
    }


def _loaded(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
