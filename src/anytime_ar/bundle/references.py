"""Weights that a bundle refers to: at a commit of a repository on the Hub, or in a local folder.

A reference names safetensors files by size and SHA-256. Each is checked before it is read, so that
a reference means the same weights for ever. Nothing else of the repository or folder is read: the
configuration of the network is in the card.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from anytime_ar.autoencoder import Tokenizer
from anytime_ar.config import Config, short_repr
from anytime_ar.errors import BundleError, InputError, plural
from anytime_ar.prior import CausalPrior
from anytime_ar.runtime.files import sha256
from anytime_ar.runtime.hub import HubRef, download_file, download_snapshot, parse_hub_ref
from anytime_ar.runtime.tensors import cast_floats, first_names, weights_digest

PartName = Literal["tokenizer", "prior"]
"""The parts of a model whose weights may be elsewhere."""
MAX_FILES = 256
"""Maximum number of files of a reference."""
_FILE_NAME = re.compile(r"\w[\w.-]*\.safetensors")
_SHA256 = r"^[0-9a-f]{64}$"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
"""Names by which `save_pretrained` of transformers writes weights, in one file or in several."""


class FileDigest(Config):
    """Size and SHA-256 of a file."""

    size: int = Field(ge=0)
    """Size in bytes."""
    sha256: str = Field(pattern=_SHA256)
    """SHA-256 in hexadecimal."""


class WeightsReference(Config):
    """The files that hold the weights of a tokenizer or prior, outside of the bundle."""

    repo_id: str | None = None
    """Repository on the Hub, as `owner/name`; None: the files are in `folder`."""
    revision: str | None = Field(None, pattern=r"^[0-9a-f]{40}$")
    """Hash of the commit in the repository."""
    folder: str | None = None
    """Absolute path of a local folder; None: the files are on the Hub."""
    files: dict[str, FileDigest] = Field(min_length=1)
    """Size and SHA-256 of each safetensors file, by name."""
    weights_sha256: str = Field(pattern=_SHA256)
    """SHA-256 of the weights in memory, by their names in the network."""

    @field_validator("files", mode="before")
    @classmethod
    def _check_names(cls, files: Any) -> Any:
        if isinstance(files, dict):
            if len(files) > MAX_FILES:  # before each of them is checked
                raise ValueError(f"{len(files):,} files, expected at most {MAX_FILES}")
            for name in files:
                if not (isinstance(name, str) and _FILE_NAME.fullmatch(name)):
                    raise ValueError(
                        f"{short_repr(name)} is no name of a safetensors file; other weights can "
                        "run code and are not read"
                    )
        return files

    @model_validator(mode="after")
    def _check_place(self) -> Self:
        if self.folder is not None:
            if self.repo_id is not None or self.revision is not None:
                raise ValueError("folder and repo_id are given; give one")
            paths = PurePosixPath(self.folder), PureWindowsPath(self.folder)
            if not any(path.is_absolute() for path in paths):
                raise ValueError(f"folder is {short_repr(self.folder)}, expected an absolute path")
            return self
        ref = None if self.repo_id is None else parse_hub_ref(self.repo_id)
        if ref is None or ref.revision is not None:
            raise ValueError(
                f"repo_id is {short_repr(self.repo_id)}, expected the Hub ID of a repository, as "
                "owner/name"
            )
        if self.revision is None:
            raise ValueError("revision is missing, expected the hash of a commit")
        return self

    def __str__(self) -> str:
        """Return repository and first digits of the commit, or the folder."""
        if self.repo_id is None or self.revision is None:
            return str(self.folder)
        return f"{self.repo_id}@{self.revision[:12]}"


def find_reference(
    source: str | Path, part: PartName, network: Tokenizer | CausalPrior
) -> WeightsReference:
    """Describe the weights of a network where they are stored already.

    Args:
        source: Hub ID, perhaps with `@` and a branch, tag or commit, or a folder that
            `save_pretrained` wrote.
        part: what the network is in the model, for messages.
        network: tokenizer or prior, with these weights.

    Raises:
        BundleError: there is no such repository, or it cannot be reached.
        InputError: there are no weights as safetensors, or they are others.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        folder, place = path.resolve(), {"folder": str(path.resolve())}
    else:
        ref = parse_hub_ref(str(source))
        if ref is None:
            raise InputError(
                f"the {part} is to be referenced in {str(source)!r}, which is neither a folder nor "
                "a Hub ID; pass a folder that save_pretrained wrote, or OWNER/NAME"
            )
        folder = download_snapshot(ref, {_WEIGHTS, _INDEX})
        if not re.fullmatch("[0-9a-f]{40}", folder.name):
            raise InputError(f"{ref} on the Hub has no hash of a commit; pass one after @")
        place = {"repo_id": ref.repo_id, "revision": folder.name}
        ref = HubRef(ref.repo_id, folder.name)
        for name in _weight_names(folder, str(ref)):
            download_file(ref, name, f"the {part}")
    names = _weight_names(folder, str(source))
    files = {
        name: {"sha256": sha256(folder / name), "size": (folder / name).stat().st_size}
        for name in names
    }
    digest = part_digest(network)
    reference = WeightsReference.parse(
        {**place, "files": files, "weights_sha256": digest}, origin=f"reference of the {part}"
    )
    found = read_weights(fetch_files(reference, part), part, network)
    if part_digest(network, found) != digest:
        raise InputError(
            f"the {part} has other weights than {source}; store them in the bundle, without a "
            "reference, or upload them first and refer to that"
        )
    return reference


def _weight_names(folder: Path, source: str) -> list[str]:
    """Return the names of the files that hold the weights in a folder of `save_pretrained`.

    Raises:
        InputError: there are none, or the index of them is damaged.
    """
    if (folder / _WEIGHTS).is_file():
        return [_WEIGHTS]
    if not (folder / _INDEX).is_file():
        raise InputError(
            f"{source} has no {_WEIGHTS}, and pickled weights can run code and are not read; write "
            "them as safetensors by save_pretrained"
        )
    try:
        names = {*map(str, json.loads((folder / _INDEX).read_bytes())["weight_map"].values())}
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise InputError(f"{folder / _INDEX} lists no files of weights; get it again") from error
    for name in names:
        if not _FILE_NAME.fullmatch(name):
            raise InputError(
                f"{folder / _INDEX}: {short_repr(name)} is no safetensors file; get it again"
            )
    return sorted(names)


def fetch_files(reference: WeightsReference, part: PartName) -> list[Path]:
    """Return the paths of the files of a reference, fetched from the Hub if need be and checked.

    Args:
        reference: place, size and SHA-256 of the files.
        part: what they are weights of, for messages.

    Raises:
        BundleError: a file is missing or altered, or cannot be fetched; the message names it.
    """
    paths = []
    for name, expected in reference.files.items():
        if reference.repo_id is not None:
            ref = HubRef(reference.repo_id, reference.revision)
            path = download_file(ref, name, f"the {part}")
            advice = f"delete {path.resolve()}, so that it is fetched again"
        else:
            path = Path(str(reference.folder)) / name
            advice = "put the file back, or get a bundle that holds its weights"
        if not path.is_file():
            raise BundleError(f"the {part} is stored in {path}, which is no file; {advice}")
        size = path.stat().st_size
        if size != expected.size:
            raise BundleError(
                f"{path} of the {part} was altered: it has {plural(size, 'byte')}, expected "
                f"{expected.size} with SHA-256 {expected.sha256}; {advice}"
            )
        found = sha256(path)
        if found != expected.sha256:
            raise BundleError(
                f"{path} of the {part} was altered: its SHA-256 is {found}, expected "
                f"{expected.sha256}; {advice}"
            )
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise BundleError(
                f"{path} of the {part} is not in the format safetensors ({error}); other weights "
                "can run code and are not read"
            ) from error
        paths.append(path)
    return paths


def read_weights(
    paths: Sequence[Path], part: PartName, network: Tokenizer | CausalPrior
) -> dict[str, Tensor]:
    """Return the weights of a network, float32 by name, from checked files.

    Args:
        paths: safetensors files.
        part: what they are weights of, for messages.
        network: tokenizer or prior, with any weights.

    Raises:
        InputError: the files do not have the weights of the network.
    """
    stored = {name: weight for path in paths for name, weight in load_file(path).items()}
    try:
        weights = network.weights_of_checkpoint(stored)
    except InputError as error:
        raise InputError(f"{paths[0]} does not fit the {part}: {error}") from error
    return {name: cast_floats(weight, torch.float32) for name, weight in weights.items()}


def part_digest(network: nn.Module, weights: Mapping[str, Tensor] | None = None) -> str:
    """Return the SHA-256 of the weights of a tokenizer or prior, as references hold it.

    Args:
        network: the tokenizer or prior.
        weights: weights for it, by name; None: those that it has.
    """
    state = inference_state(network)
    names = sorted({*first_names(state).values()})
    weights = state if weights is None else weights
    return weights_digest({name: weights[name] for name in names if name in weights})


def inference_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a network that a bundle stores."""
    if isinstance(network, Tokenizer):
        return network.inference_state()
    return network.state_dict()
