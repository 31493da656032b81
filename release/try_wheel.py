"""Install a wheel where nothing can be compiled or written, and sample: `make try-wheel`.

    python release/try_wheel.py dist/anytime_ar-0.2.0-py3-none-any.whl

The new environment has what `pip install anytime-ar` installs, without any extra. Its packages are
links to those of this environment, except anytime-ar, which comes from the wheel. A source
distribution is built as well, and a wheel from that, which has no prebuilt kernels.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).parent.parent
"""Root folder of the repository."""
PROGRAM = """
import sys
from pathlib import Path
import anytime_ar as aar
from anytime_ar.kernel import load_kernel
assert Path(aar.__file__).is_relative_to(sys.prefix), f"not from the wheel: {aar.__file__}"
model = aar.load("mnist", backend="native")
samples = model.sample(4, codes=4, seed=0)
assert samples.shape == (4, 1, 28, 28)
assert model.decode(model.encode(samples)).shape == samples.shape
loaded = load_kernel()
assert loaded.origin == "prebuilt", loaded
print(f"drawn with the {loaded.origin} kernel for {loaded.instruction_set}")
"""
"""Script that samples with the installed wheel."""
SDIST = "import sys, setuptools.build_meta as build; build.build_sdist(sys.argv[1])"
"""Script that builds a source distribution into a folder."""


def try_wheel(wheel: Path, folder: Path) -> None:
    """Install a wheel into a new environment in `folder`, and sample there with its best kernel."""
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    find = "import sysconfig; print(sysconfig.get_path('purelib'))"
    done = subprocess.run([python, "-c", find], check=True, capture_output=True, text=True)
    link_core(Path(done.stdout.strip()))
    install = ["--no-deps", "--no-index", "--ignore-installed", "--quiet"]
    pip = [sys.executable, "-m", "pip", "--python", python, "install"]
    subprocess.run([*pip, *install, wheel], check=True)
    # Not even root can write below a file, and this path has no programs.
    bare = {"HOME": "/dev/null/home", "PATH": "/dev/null"}
    subprocess.run([python, "-c", PROGRAM], check=True, env=bare, cwd=folder)
    anytime = [python, "-m", "anytime_ar"]
    subprocess.run([*anytime, "doctor"], check=True, env=bare, cwd=folder)
    missing = {
        ("evaluate", "mnist", "--feature-extractor", "none"): "anytime train-classifier",
        ("evaluate", "mnist"): "pip install",
        ("train", "digits"): "pip install",
        ("sample", "fsdd", "-n", "1"): "pip install",
        ("bench", "mnist"): "in a clone of the anytime-ar repository",
        ("sample", "owner/name", "-n", "1"): "pip install",
        ("serve", "mnist"): "pip install",
    }
    for command, hint in missing.items():
        done = subprocess.run(
            [*anytime, *command], env=bare, cwd=folder, capture_output=True, text=True
        )
        said = done.stderr.splitlines()[-1]
        assert done.returncode == 2, (command, done)
        assert said.startswith("anytime: "), (command, done.stderr)
        assert hint in said, (command, said)


def link_core(site: Path) -> None:
    """Link the core dependencies, as locked, into a folder of packages."""
    here = Path(sysconfig.get_path("purelib"))
    for line in (ROOT / "requirements/core.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            files = distribution(re.split("[=; ]", line)[0]).files or []
            for name in {file.parts[0] for file in files} - {"..", "__pycache__"}:
                if not (site / name).exists():
                    (site / name).symlink_to(here / name)


def try_sdist(folder: Path) -> None:
    """Build a source distribution and a wheel from it, neither with prebuilt kernels."""
    subprocess.run([sys.executable, "-c", SDIST, folder], check=True, cwd=ROOT, capture_output=True)
    (archive,) = folder.glob("*.tar.gz")
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--wheel-dir", folder]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, archive], check=True)
    (wheel,) = folder.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "anytime_ar/kernel/prior_step.cpp" in names
    assert not [name for name in names if name.startswith("anytime_ar/kernel/prebuilt/")]
    print(f"{archive.name}: builds, without prebuilt kernels")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        try_wheel(Path(sys.argv[1]).resolve(), Path(temporary))
        try_sdist(Path(temporary))
