"""The files of a bundle and the manifest that tells whether they are as they were written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from anytime_ar.errors import BundleError
from anytime_ar.files import json_bytes

REQUIRED_FILES = {"config.json", "manifest.json", "autoencoder.safetensors"}
BUNDLE_FILES = REQUIRED_FILES | {"prior.safetensors", "curve.json"}
"""What a bundle may consist of."""


def file_digests(folder: Path) -> dict[str, str]:
    """Return what belongs into the manifest of the files that are there."""
    names = sorted(BUNDLE_FILES - {"manifest.json"})
    return {name: sha256(folder / name) for name in names if (folder / name).is_file()}


def check_manifest(folder: Path) -> None:
    """Compare the files of a bundle with its manifest.

    Raises:
        BundleError: a file is missing, altered or foreign; it is named.
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
    if path.read_bytes() != json_bytes(found):  # a byte too many, a line end, a key that is twice
        raise BundleError(f"{path} was altered: it is not as it was written; get the bundle again")


def read_json_object(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

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


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Raises:
        BundleError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
