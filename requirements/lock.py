"""Write core.txt, demo.txt, test.txt, dev.txt and docs.txt from what is installed: `make lock`.

A lock names exact versions and nothing else: no index, no hash of one platform's wheel, no local
version label (`+cpu`), and none of the accelerator packages that a CUDA build of torch brings.
Run it in an environment where the `dev` and `docs` extras are installed and the tests pass.
"""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).parent
PROJECT = "anytime-ar"
ACCELERATOR = ("nvidia-", "cuda-", "triton")
BUILD = "setuptools"  # the set-up builds without isolation, so that this is pinned as well
LAYERS = {
    "core": ((), None),
    "demo": (("train", "eval"), "core"),
    "test": (("test",), "demo"),
    "dev": (("dev",), "test"),
    "docs": (("docs",), "test"),
}
"""Extras of each lock, and the lock that it adds to."""


def closure(extras: tuple[str, ...]) -> set[str]:
    """Names of all that the project with these extras needs, directly or not."""
    seen: dict[str, set[str]] = {}
    waiting = [(PROJECT, {"", *extras}), (BUILD, {""})]
    while waiting:
        name, wanted = waiting.pop()
        name = canonicalize_name(name)
        if name.startswith(ACCELERATOR) or wanted <= seen.get(name, set()):
            continue
        seen[name] = seen.get(name, set()) | wanted
        for text in distribution(name).requires or []:
            need = Requirement(text)
            if need.marker is None or any(need.marker.evaluate({"extra": e}) for e in wanted):
                waiting.append((need.name, need.extras | {""}))
    return set(seen) - {PROJECT}


def public_version(name: str) -> str:
    return distribution(name).version.partition("+")[0]


def main() -> None:
    locks: dict[str, set[str]] = {}
    for lock, (extras, base) in LAYERS.items():
        below = locks[base] if base is not None else set()
        locks[lock] = closure(extras) | below
        lines = [f"# Written by `make lock`: all packages for {', '.join(extras) or 'the core'}."]
        if base is not None:
            lines.append(f"-r {base}.txt")
        lines += [f"{name}=={public_version(name)}" for name in sorted(locks[lock] - below)]
        (FOLDER / f"{lock}.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
