"""Files are no larger in memory than on the disk, whatever sizes they name."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anytime_ar.bundle.format import BUNDLE_FILES, Bundle, file_digests, load_bundle, save_bundle
from anytime_ar.codes import load_codes
from anytime_ar.errors import BundleError, InputError
from anytime_ar.runtime.files import write_json

HUGE = [10**7, 10**10, 10**18, 10**30]
KEYS = [
    ("autoencoder", "code_length"),
    ("autoencoder", "code_width"),
    ("autoencoder", "quantizer", "vocabulary"),
    ("autoencoder", "network", "blocks"),
    ("autoencoder", "network", "hidden"),
    ("autoencoder", "network", "patch"),
    ("prior", "layers"),
    ("prior", "width"),
    ("prior", "mlp_ratio"),
    ("prior", "heads"),
    ("prior", "positions_per_table"),
    ("prior", "embedding_width"),
    ("prior", "codebook_features"),
]
LAYERS = (("autoencoder", "network", "blocks"), ("prior", "layers"))
"""Keys of `KEYS` that say how many layers to build: a loop ends at the same one at any number."""
LOAD = """
import json, resource, sys
from pathlib import Path
from anytime_ar.bundle.format import load_bundle
from anytime_ar.errors import BundleError
load_bundle(sys.argv[1])  # all that is imported once
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, -1))
for folder in sys.argv[2:]:
    try:
        load_bundle(folder)
    except BundleError as error:
        print(error)
"""


def sign(folder: Path) -> None:
    """Make the manifest fit, as if the bundle had been made like this."""
    (folder / "manifest.json").unlink()
    write_json(folder / "manifest.json", file_digests(folder))


def changed(bundle: Bundle, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    save_bundle(bundle, folder)
    values = json.loads((folder / "config.json").read_text())
    change(values)
    (folder / "config.json").write_text(json.dumps(values))
    sign(folder)
    return folder


def set_at(path: tuple[str, ...], value: Any) -> Callable[[dict[str, Any]], object]:
    def change(values: dict[str, Any]) -> None:
        for key in path[:-1]:
            values = values[key]
        values[path[-1]] = value

    return change


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited on Linux")
def test_networks_are_no_larger_than_their_weights(bundle: Bundle, tmp_path: Path) -> None:
    save_bundle(bundle, tmp_path / "good")
    folders = [
        changed(bundle, tmp_path / f"{'.'.join(path)}-{value:.0e}", set_at(path, value))
        for path in KEYS
        for value in (HUGE[::3] if path in LAYERS else HUGE)
    ]
    folders += [
        changed(
            bundle, tmp_path / f"shape-{side}", set_at(("data", "sample_shape"), [1, side, side])
        )
        for side in (10**4, 10**9, 2**40)
    ]
    done = subprocess.run(
        [sys.executable, "-c", LOAD, tmp_path / "good", *folders],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == len(folders), done.stdout


def test_the_refusal_says_what_is_too_large(bundle: Bundle, tmp_path: Path) -> None:
    folder = changed(bundle, tmp_path / "deep", set_at(("prior", "layers"), 10**7))
    message = (
        r"config\.json describes networks that are much larger than the [\d,]+ numbers in \d+ "
        "tensors beside it; get the model again"
    )
    with pytest.raises(BundleError, match=message):
        load_bundle(folder)


def test_what_is_loaded_is_as_it_was(bundle: Bundle, tmp_path: Path) -> None:
    save_bundle(bundle, tmp_path / "good")
    assert set(file_digests(tmp_path / "good")) <= BUNDLE_FILES
    found = load_bundle(tmp_path / "good")
    assert found.card == copy.deepcopy(bundle.card)


def write_claim(path: Path, shape: tuple[int, ...], name: str = "codes.npy") -> Path:
    """An archive of a few bytes whose array says that it has another shape."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with zipfile.ZipFile(path, "w") as archive:
        for entry in ("codes.npy", "header.npy"):
            with archive.open(entry, "w") as file:
                if entry == name:
                    np.lib.format.write_array_header_1_0(file, header)
                else:
                    np.lib.format.write_array(file, np.array("{}"))
    return path


@pytest.mark.parametrize("name", ["codes.npy", "header.npy"])
@pytest.mark.parametrize("shape", [(10**12, 1), (10**5, 10**5), (2**62, 8)])
def test_arrays_are_no_larger_than_their_file(
    tmp_path: Path, shape: tuple[int, ...], name: str
) -> None:
    path = write_claim(tmp_path / "codes.npz", shape, name)
    with pytest.raises(InputError, match=r"is damaged \(an array of .* is larger than the file\)"):
        load_codes(path)


def test_archives_are_no_larger_than_their_file(tmp_path: Path) -> None:
    """A few kilobytes that unpack to a gigabyte."""
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("codes.npy", "w") as file:
            np.lib.format.write_array(file, np.zeros((2**24, 1), np.uint8))
        with archive.open("header.npy", "w") as file:
            np.lib.format.write_array(file, np.array("{}"))
    with pytest.raises(InputError, match=r"codes\.npy of .* is larger than the file"):
        load_codes(tmp_path / "bomb.npz")


DEEP = "[" * 10**5 + "]" * 10**5


@pytest.mark.parametrize("name", ["config.json", "manifest.json", "curve.json"])
def test_json_nested_deeply(bundle: Bundle, tmp_path: Path, name: str) -> None:
    save_bundle(bundle, tmp_path / "deep")
    (tmp_path / "deep" / name).write_text(DEEP)
    if name != "manifest.json":
        sign(tmp_path / "deep")
    with pytest.raises(BundleError, match=rf"{name} is not JSON"):
        load_bundle(tmp_path / "deep")


def test_codes_with_a_header_nested_deeply(tmp_path: Path) -> None:
    np.savez(tmp_path / "deep.npz", codes=np.zeros((1, 1), np.uint8), header=np.array(DEEP))
    with pytest.raises(InputError, match="its header is not JSON"):
        load_codes(tmp_path / "deep.npz")
