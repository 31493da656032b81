"""Cache folders for tests."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from anytime_ar.kernel import BuildError, load_kernel
from anytime_ar.runtime.files import cache_folder


def make_cache_with_kernel(folder: Path) -> Path:
    """A folder for `XDG_CACHE_HOME` that has only the compiled kernel, which takes long to make.

    What is compiled there goes to the cache of whoever runs the tests: it depends on nothing that
    a test could change. Measured times do not.
    """
    with suppress(BuildError):
        load_kernel()  # a command that compiles says so, which is not what tests look for
    shared = cache_folder() / "native"
    shared.mkdir(parents=True, exist_ok=True)
    ours = folder / cache_folder().name
    ours.mkdir(parents=True, exist_ok=True)
    link = ours / "native"
    if not link.exists():
        link.symlink_to(shared.resolve(), target_is_directory=True)
    return folder
