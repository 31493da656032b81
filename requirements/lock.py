"""Write core.txt, test.txt, dev.txt and docs.txt from what is installed: `make lock`.

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


def closure(extra: str) -> set[str]:
    """Names of all that the project with `extra` ("" for none) needs, directly or not."""
    seen: dict[str, set[str]] = {}
    waiting = [(PROJECT, {extra}), (BUILD, {""})]
    while waiting:
        name, extras = waiting.pop()
        name = canonicalize_name(name)
        if name.startswith(ACCELERATOR) or extras <= seen.get(name, set()):
            continue
        seen[name] = seen.get(name, set()) | extras
        for text in distribution(name).requires or []:
            need = Requirement(text)
            if need.marker is None or any(need.marker.evaluate({"extra": e}) for e in extras):
                waiting.append((need.name, need.extras | {""}))
    return set(seen) - {PROJECT}


def public_version(name: str) -> str:
    return distribution(name).version.partition("+")[0]


def main() -> None:
    locks: dict[str, set[str]] = {}
    layers = (("", None), ("test", "core.txt"), ("dev", "test.txt"), ("docs", "test.txt"))
    for extra, base in layers:
        below = locks[base] if base is not None else set()
        names = closure(extra) | below
        lines = [f"# Written by `make lock`; what the {extra or 'bare'} package needs, exactly."]
        if base is not None:
            lines.append(f"-r {base}")
        lines += [f"{name}=={public_version(name)}" for name in sorted(names - below)]
        lock = f"{extra or 'core'}.txt"
        (FOLDER / lock).write_text("\n".join(lines) + "\n")
        locks[lock] = names


if __name__ == "__main__":
    main()
