"""The bundle format: a model on disk, as a folder that describes itself.

    config.json                description of the model (`Card`), with `format_version`
    autoencoder.safetensors    weights, unless config.json refers to files elsewhere
    prior.safetensors          the same of the prior, if there is one
    curve.json                 measured quality against codes, once evaluated
    manifest.json              SHA-256 of every other file

No other module knows this format. Neither safetensors nor JSON notices a flipped bit, so every byte
is checked against the manifest before the files are used. Pickles are refused without reading them;
other files in the folder are ignored.
"""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
import secrets
import shutil
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from anytime_ar.autoencoder import CustomConfig, OrderedAutoencoder, Tokenizer
from anytime_ar.bundle.card import Card
from anytime_ar.bundle.curve import Curve
from anytime_ar.bundle.references import (
    PartName,
    WeightsReference,
    fetch_files,
    find_reference,
    inference_state,
    part_digest,
    read_weights,
)
from anytime_ar.codes import as_vocabulary
from anytime_ar.config import Config
from anytime_ar.errors import BundleError, InputError
from anytime_ar.legacy import old_weight_name, upgrade_weights
from anytime_ar.plugins import (
    PartConfig,
    build_part,
    can_be_loaded,
    describe_part,
    find_imported,
    import_paths_in,
    is_built_in,
)
from anytime_ar.prior import CausalPrior, Prior
from anytime_ar.runtime.files import (
    check_output_path,
    json_bytes,
    list_files,
    sha256,
    write_bytes,
    write_json,
)
from anytime_ar.runtime.hub import download_snapshot, parse_hub_ref
from anytime_ar.runtime.size_limits import SkipInit, StoredSize, stored_size
from anytime_ar.runtime.tensors import cast_floats, first_names
from anytime_ar.runtime.torch_modes import default_torch_modes

BUNDLE_FORMAT_VERSION = 2
"""Version of the bundle format that this release reads and writes."""
_WEIGHT_FILES: dict[str, PartName] = {
    "autoencoder.safetensors": "tokenizer",
    "prior.safetensors": "prior",
}
_PICKLE_SUFFIXES = {".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt"}


@dataclass(frozen=True)
class Bundle:
    """A model in memory: card, networks and curve."""

    card: Card
    """Description of the model, the content of config.json."""
    autoencoder: Tokenizer
    """The ordered autoencoder with its codebooks, or another tokenizer."""
    prior: Prior | CausalPrior | None = None
    """The prior over the codes; None for an autoencoder alone."""
    curve: Curve | None = None
    """The measured curve; None if the bundle was not evaluated."""

    def __repr__(self) -> str:
        """Return name, sizes and curve of the model."""
        return f"Bundle({self.card.name!r}, {summarize_bundle(self)}, curve={self.curve!r})"


def describe(part: Tokenizer | Prior | CausalPrior) -> Config:
    """Return the description of a tokenizer or prior, as the card of a model holds it."""
    if isinstance(part, Prior) or type(part) is OrderedAutoencoder:
        return part.config
    return describe_part(part)


@default_torch_modes()
def build_bundle(card: Card, tokenizer: Tokenizer | None = None) -> Bundle:
    """Create the networks of a card, with random weights.

    Args:
        card: description of the model.
        tokenizer: the tokenizer, with its weights; None: create it too.

    Raises:
        InputError: the networks do not fit each other, or the samples.
    """
    autoencoder: Tokenizer
    if tokenizer is not None:
        autoencoder = tokenizer
    elif isinstance(card.autoencoder, PartConfig):
        autoencoder = build_part(card.autoencoder, "tokenizer", Tokenizer)
    else:
        autoencoder = OrderedAutoencoder(card.autoencoder, card.data.sample_shape)
    if card.prior is None:
        return Bundle(card, autoencoder)
    prior: Prior | CausalPrior
    sizes = autoencoder.code_length, autoencoder.vocabulary, card.label_count
    if isinstance(card.prior, PartConfig):
        prior = build_part(card.prior, "prior", CausalPrior)
    else:
        prior = Prior(card.prior, *sizes, card.data.conditions)
    check_sizes(autoencoder, prior, card)
    attach_codebook(autoencoder, prior)
    return Bundle(card, autoencoder, prior)


def check_sizes(tokenizer: Tokenizer, prior: Prior | CausalPrior | None, card: Card) -> None:
    """Check that tokenizer, prior and card fit one another.

    Args:
        tokenizer: tokenizer of the model.
        prior: prior of the model; None: there is none.
        card: description of the model.

    Raises:
        InputError: shape of the samples, code length, vocabulary or number of labels differ.
    """
    shape = tokenizer.sample_shape
    if shape != card.data.sample_shape:
        raise InputError(
            f"the tokenizer's samples have shape {list(shape)}, and the card says "
            f"{list(card.data.sample_shape)}; give both the same"
        )
    if prior is None:
        return
    for what, own, other in (
        ("code_length", prior.code_length, tokenizer.code_length),
        (
            "vocabulary",
            prior.vocabulary,
            as_vocabulary(tokenizer.vocabulary, tokenizer.code_length),
        ),
        ("label_count", prior.label_count, card.label_count),
    ):
        if own != other:
            owner = "the model has labels" if what == "label_count" else "the tokenizer has"
            wanted = reprlib.repr(other)
            raise InputError(
                f"the prior's {what} is {reprlib.repr(own)}, and {owner} {wanted}; give it {wanted}"
            )
    if dict(prior.conditions) != card.data.conditions:
        names = [", ".join(one) or "none" for one in (prior.conditions, card.data.conditions)]
        raise InputError(
            f"the prior's conditions ({names[0]}) are not those of the model ({names[1]}); give "
            "both the same"
        )


def summarize_bundle(bundle: Bundle) -> str:
    """Return shapes, sizes and labels of a model as keyword arguments in Python syntax."""
    networks = _networks_by_file(bundle).values()
    weights = sum(weight.numel() for network in networks for weight in network.parameters())
    return ", ".join(
        [
            f"sample_shape={bundle.autoencoder.sample_shape}",
            f"code_length={bundle.autoencoder.code_length}",
            f"vocabulary={reprlib.repr(bundle.autoencoder.vocabulary)}",
            f"labels={bundle.card.label_count or None}",
            f"parameters={weights:,}",
            *(f"{part}='{reference}'" for part, reference in bundle.card.references.items()),
            *(["no prior"] if bundle.prior is None else []),
        ]
    )


@default_torch_modes()
def refer(bundle: Bundle, references: Mapping[PartName, Path | str]) -> Bundle:
    """Return a model whose bundle refers to stored weights of tokenizer or prior.

    Args:
        bundle: the model.
        references: where the weights are stored, by part: a Hub ID, perhaps with `@` and a branch,
            tag or commit, or a folder that `save_pretrained` wrote. The bundle holds the weights of
            parts that are left out.

    Raises:
        BundleError: there is no such repository, or it cannot be reached.
        InputError: a part is unknown or ours, or there are no such weights as safetensors.
    """
    parts = {"tokenizer": bundle.autoencoder, "prior": bundle.prior}
    if unknown := references.keys() - parts.keys():
        raise InputError(
            f"references name {', '.join(sorted(map(repr, unknown)))}; expected tokenizer or prior"
        )
    found: dict[PartName, WeightsReference] = {}
    for part, source in references.items():
        network = parts[part]
        if network is None or not isinstance(describe(network), PartConfig):
            kind = "the model has none" if network is None else "it is one of ours"
            raise InputError(
                f"the {part} cannot be referenced in {source}: {kind}, and references are for "
                "tokenizers and priors of other packages; leave it out"
            )
        assert isinstance(network, Tokenizer | CausalPrior)
        found[part] = find_reference(source, part, network)
    return replace(bundle, card=bundle.card.model_copy(update={"references": found}))


def attach_codebook(autoencoder: Tokenizer, prior: Prior | CausalPrior) -> None:
    """Give a prior with codebook features the codebook vectors of its autoencoder.

    Raises:
        InputError: the tokenizer has no codebook vectors.
    """
    if isinstance(prior, Prior) and prior.config.codebook_features:
        if not isinstance(autoencoder, OrderedAutoencoder):
            raise InputError(
                f"prior.codebook_features describe the codebooks of an ordered autoencoder, and "
                f"this is a {type(autoencoder).__name__}; set them to 0"
            )
        prior.attach_codebook(autoencoder.codebook_vectors().to(prior.codebook_features.device))


@default_torch_modes()
def check_savable(bundle: Bundle) -> None:
    """Check that a bundle can hold a model and gives it back; training checks this at its start.

    Args:
        bundle: model that is to be written.

    Raises:
        InputError: the class of tokenizer or prior is not registered or does not say how it is
            built, or they compute with values that are not among their weights.
    """
    own = bundle.card.autoencoder
    if isinstance(own, CustomConfig) and None in (own.encoder, own.decoder):
        raise InputError(
            "an ordered autoencoder cannot be saved if its modules were passed as objects; derive "
            "a class from OrderedAutoencoder that builds them, with anytime_ar.register, or name "
            "their classes in CustomConfig"
        )
    what: PartName
    for what, part, described in (
        ("tokenizer", bundle.autoencoder, bundle.card.autoencoder),
        ("prior", bundle.prior, bundle.card.prior),
    ):
        if part is None or not isinstance(described, PartConfig):
            continue
        if isinstance(part, Prior) or not can_be_loaded(part):
            raise InputError(
                f"{type(part).__name__} cannot be saved: no other process could find its class; "
                "move it to the top level of a module, or decorate it with anytime_ar.register"
            )
        part.get_config()  # which refuses parts that do not say how they are built
        reference = bundle.card.references.get(what)
        if reference is not None and part_digest(part) != reference.weights_sha256:
            raise InputError(
                f"the {what} has changed since its weights were read from {reference}; save it "
                "with references={}, which stores them, or refer to new files"
            )
        formats = {w.dtype for w in part.state_dict().values() if w.is_floating_point()}
        if formats - {torch.float32}:
            raise InputError(
                f"{type(part).__name__} cannot be saved: it has weights in "
                f"{', '.join(sorted(map(str, formats - {torch.float32})))}, and bundles give back "
                "float32, with other samples; convert it with .float() first"
            )
    unstored = _unstored_buffers(bundle)
    if not unstored:
        return
    networks = _networks_by_file(bundle).values()
    sizes = [weight.numel() for network in networks for weight in network.state_dict().values()]
    with SkipInit(Path("config.json"), StoredSize(len(sizes), sum(sizes))):
        again = _unstored_buffers(build_bundle(bundle.card))
    for (owner, name), buffer in unstored.items():
        other = again.get((owner, name))
        if other is None or not torch.equal(other.nan_to_num(), buffer.cpu().nan_to_num()):
            raise InputError(
                f"{owner} cannot be saved: its buffer {name} is not among its weights and has "
                "another value when it is built again; register it with persistent=True, or "
                "compute it from the arguments of the constructor"
            )


def _unstored_buffers(bundle: Bundle) -> dict[tuple[str, str], Tensor]:
    """Return the buffers of networks of a user that are not among their weights.

    Returns:
        Buffers by the name of the network's class and their name in it.
    """
    described = bundle.card.autoencoder, bundle.card.prior
    found: dict[tuple[str, str], Tensor] = {}
    for network, config in zip((bundle.autoencoder, bundle.prior), described, strict=True):
        if network is None:
            continue
        is_part = isinstance(config, PartConfig) and not is_built_in(config)
        if is_part or isinstance(config, CustomConfig):
            stored = network.state_dict().keys()
            buffers = dict(network.named_buffers())
            found |= {(type(network).__name__, n): buffers[n] for n in buffers.keys() - stored}
    return found


@default_torch_modes()
def save_bundle(
    bundle: Bundle, folder: Path | str, references: Mapping[PartName, Path | str] | None = None
) -> None:
    """Write a bundle; an existing one is replaced only after the new one is complete.

    Args:
        bundle: model to write.
        folder: folder of the bundle; missing parents are created.
        references: see `refer`; None: as the card says.

    Raises:
        BundleError: a reference cannot be read.
        InputError: the folder holds something other than a bundle, or cannot be written, the
            class of tokenizer or prior is not registered, or weights differ from their reference.
    """
    folder = Path(folder).resolve()  # rename the folder itself, not a link to it
    check_replaceable(folder)
    if references is not None:
        bundle = refer(bundle, references)
    check_savable(bundle)
    suffix = secrets.token_hex(8)
    fresh = folder.with_name(f".{folder.name}-{suffix}.new")
    old = folder.with_name(f".{folder.name}-{suffix}.old")
    try:
        fresh.mkdir(parents=True)
    except OSError as error:
        raise InputError(
            f"cannot write {folder}: {error.strerror}; choose a folder that is writable"
        ) from error
    try:
        write_json(fresh / "config.json", bundle.card.model_dump(mode="json"))
        dtype = getattr(torch, bundle.card.weights_dtype)
        for name, module in _networks_by_file(bundle).items():
            if _WEIGHT_FILES[name] in bundle.card.references:
                continue
            state = inference_state(module)
            stored = set(first_names(state).values())
            weights = {k: cast_floats(v.cpu(), dtype) for k, v in state.items() if k in stored}
            # Not save_file, which ignores the umask and makes files that only the owner can read.
            write_bytes(fresh / name, save({k: v.contiguous() for k, v in weights.items()}))
        if bundle.curve is not None:
            write_json(fresh / "curve.json", bundle.curve.model_dump(mode="json"))
        write_json(fresh / "manifest.json", file_digests(fresh))
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    except BaseException:  # also an interrupt: leave nothing half-written
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    # Delete the old bundle, and remains of a process that was killed while it saved here.
    for path in folder.parent.iterdir():
        if re.fullmatch(rf"\.{re.escape(folder.name)}-[0-9a-f]{{16}}\.(new|old)", path.name):
            shutil.rmtree(path)


def _weight_paths(folder: Path, card: Card) -> dict[str, list[Path]]:
    """Return the paths of the weights, by the name of their file in a bundle.

    Raises:
        BundleError: a file that the card refers to is missing, altered, or cannot be fetched.
    """
    names = [*_WEIGHT_FILES] if card.prior is not None else [*_WEIGHT_FILES][:1]
    references = {name: card.references.get(_WEIGHT_FILES[name]) for name in names}
    for name, reference in references.items():
        if reference is not None and (folder / name).exists():
            raise BundleError(
                f"{folder / name} is there although config.json refers to {reference}; get the "
                "bundle again"
            )
    return {
        name: [folder / name] if found is None else fetch_files(found, _WEIGHT_FILES[name])
        for name, found in references.items()
    }


def check_replaceable(folder: Path) -> None:
    """Raise an error unless a folder is missing, empty or a bundle, apart from system files.

    Args:
        folder: folder that a bundle is to be written to.

    Raises:
        InputError: the folder holds other files, is a file, or its parent cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; choose a folder for the bundle")
    check_output_path(folder.parent, is_folder=True)
    names = {path.name for path in list_files(folder)} if folder.is_dir() else set()
    foreign = sorted(names - BUNDLE_FILES)
    if names and (foreign or not names >= REQUIRED_FILES):
        holds = (
            f"also holds {foreign[0]}" if names >= REQUIRED_FILES else "exists and is not a bundle"
        )
        raise InputError(f"{folder} {holds}; choose another folder, nothing was overwritten")


@default_torch_modes()
def load_bundle(folder: Path | str) -> Bundle:
    """Read a bundle in evaluation mode, after checking every file against the manifest.

    Args:
        folder: folder of the bundle.

    Raises:
        BundleError: the folder is not a bundle, holds pickles, has an unknown version, or a file is
            missing or altered.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BundleError(f"{folder} is not a folder; pass the folder that `anytime train` wrote")
    pickles = [path.name for path in list_files(folder) if path.suffix.lower() in _PICKLE_SUFFIXES]
    if pickles:
        raise BundleError(
            f"{folder} holds {', '.join(pickles)}: pickled weights can run code and are not read; "
            "convert them to safetensors"
        )
    values = read_json_object(folder / "config.json")
    version = values.get("format_version")
    if version not in (1, BUNDLE_FORMAT_VERSION):
        raise BundleError(
            f"{folder / 'config.json'} has format version {version!r}, this release reads "
            f"{BUNDLE_FORMAT_VERSION}; update anytime-ar, or save the bundle again"
        )
    check_manifest(folder)
    try:
        for path in import_paths_in([values.get("autoencoder"), values.get("prior")]):
            find_imported(path, "class in config.json")
        card = Card.parse(values, origin=str(folder / "config.json"))
        paths = _weight_paths(folder, card)
        sizes = stored_size([path for files in paths.values() for path in files])
        with SkipInit(folder / "config.json", sizes):
            bundle = build_bundle(card)
    except InputError as error:
        raise BundleError(str(error)) from error
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise BundleError(
            f"{folder / 'config.json'} describes no network: {textwrap.shorten(str(error), 200)}; "
            "get the bundle again"
        ) from error
    for name, module in _networks_by_file(bundle).items():
        part = _WEIGHT_FILES[name]
        reference = card.references.get(part)
        try:
            if reference is not None:
                assert isinstance(module, Tokenizer | CausalPrior)
                state = read_weights(paths[name], part, module)
            else:
                stored = load_file(folder / name)
                weights = {k: cast_floats(v, torch.float32) for k, v in stored.items()}
                state = upgrade_weights(weights)
            first = first_names(module.state_dict())
            state |= {k: state[v] for k, v in first.items() if k not in state and v in state}
            module.load_state_dict(state)
            if reference is not None and part_digest(module) != reference.weights_sha256:
                raise InputError(
                    "they give other weights than when it was saved; install the releases of its "
                    "packages that saved it, or get a bundle that holds its weights"
                )
        except (InputError, RuntimeError, SafetensorError) as error:
            reason = textwrap.shorten(str(error), 200)  # torch lists every weight
            source = paths[name][0]
            raise BundleError(f"{source} does not fit its config.json: {reason}") from error
        except FileNotFoundError as error:
            raise BundleError(f"{folder / name} is missing; get the bundle again") from error
        module.eval()
    if bundle.prior is not None:
        attach_codebook(bundle.autoencoder, bundle.prior)
    curve_path = folder / "curve.json"
    curve = Curve.read(curve_path) if curve_path.exists() else None
    return Bundle(card, bundle.autoencoder, bundle.prior, curve)


@default_torch_modes()
def fingerprint(bundle: Bundle) -> str:
    """Return the SHA-256 of the stored weights in hexadecimal; codes and times depend on them."""
    digest = hashlib.sha256()
    for file, network in sorted(_networks_by_file(bundle).items()):
        for name, weight in inference_state(network).items():
            digest.update(f"{file} {old_weight_name(name)}".encode())
            numbers = weight.detach().cpu().contiguous().flatten()
            digest.update(numbers.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def shipped_models() -> list[str]:
    """Return the names of the bundles that come with the package."""
    root = resources.files("anytime_ar") / "bundles"
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []


def find_bundle(name: Path | str) -> Path:
    """Return the folder of a model: shipped with the package, local, or downloaded from the Hub.

    Args:
        name: `"mnist"`, a bundle folder, a run folder of `anytime train`, or a Hub ID
            `"owner/name"`. A Hub ID may end with `@` and a branch, tag or commit; otherwise it
            means the newest revision.

    Raises:
        BundleError: nothing is found under that name.
    """
    if str(name) in shipped_models():
        return Path(str(resources.files("anytime_ar") / "bundles" / str(name)))
    path = Path(name)
    if str(name) and path.is_dir():
        run = path / "bundle"
        if (path / "config.yaml").is_file() and not run.is_dir():
            raise BundleError(
                f"{path} is a run without a model yet; finish it with `anytime train --resume "
                f"{path}`"
            )
        return run if run.is_dir() else path
    ref = parse_hub_ref(str(name))
    # "runs/dmeo" beside a folder "runs" is a mistyped path: do not ask the Hub for it.
    if ref is not None and not Path(ref.repo_id).parent.is_dir():
        folder = download_snapshot(ref, BUNDLE_FILES)
        if not (folder / "manifest.json").is_file():
            raise BundleError(f"{ref} on the Hub is no bundle: no manifest.json; check the name")
        return folder
    raise BundleError(
        f"no model {str(name)!r}: neither shipped ({', '.join(shipped_models()) or 'none'}) nor a "
        "folder; check the path, or pass a Hub id such as owner/name"
    )


def _networks_by_file(bundle: Bundle) -> dict[str, nn.Module]:
    """Return the networks of a bundle, by the name of their weights file."""
    networks = (bundle.autoencoder, bundle.prior)
    return {
        name: network
        for name, network in zip(_WEIGHT_FILES, networks, strict=True)
        if network is not None
    }


REQUIRED_FILES = {"config.json", "manifest.json"}
"""Names of the files that every bundle has."""
BUNDLE_FILES = REQUIRED_FILES | {*_WEIGHT_FILES, "curve.json"}
"""Names of all files that a bundle can have."""


def file_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the files of a bundle, by name: the content of its manifest."""
    names = sorted(BUNDLE_FILES - {"manifest.json"})
    return {name: sha256(folder / name) for name in names if (folder / name).is_file()}


def check_manifest(folder: Path) -> None:
    """Compare the files of a bundle with its manifest.

    Args:
        folder: folder of the bundle.

    Raises:
        BundleError: a file is missing, altered or not listed; the message names it.
    """
    path = folder / "manifest.json"
    listed = read_json_object(path)
    found = file_digests(folder)
    for name in sorted(listed.keys() - BUNDLE_FILES | listed.keys() & {"manifest.json"}):
        raise BundleError(f"{path} lists {name!r}, which is no file of a bundle; refused")
    for name in sorted(listed.keys() - found.keys()):
        raise BundleError(f"{folder / name} is missing; get the bundle again")
    for name in sorted((REQUIRED_FILES | found.keys()) - listed.keys() - {"manifest.json"}):
        raise BundleError(f"{path} does not list {name}; get the bundle again")
    for name, digest in found.items():
        if digest != listed[name]:
            raise BundleError(
                f"{folder / name} was altered: its SHA-256 is not that in manifest.json; "
                "get the bundle again"
            )
    if path.read_bytes() != json_bytes(found):  # an extra byte, a line end, a key twice
        raise BundleError(f"{path} was altered: it is not as it was written; get the bundle again")


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: the file to read.

    Raises:
        BundleError: the file is missing, or holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{path} is missing, so {path.parent} is no complete bundle") from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not JSON: {error}; get the bundle again") from error
    if not isinstance(values, dict):
        raise BundleError(f"{path} holds a {type(values).__name__}, expected an object")
    return values
