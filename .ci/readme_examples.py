"""Run the README's examples: its ```bash and ```python blocks, in order, in one temporary folder.

A later block may use the files of an earlier one. A block marked `no-run` in its info string is
skipped. Ends non-zero if a block fails or hangs, or if there is none to run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

SECONDS = 600  # for one block

_BLOCK = re.compile(
    r"^```(?P<language>bash|python)(?P<info>[^\n`]*)\n(?P<source>.*?)^```\s*$", re.M | re.S
)


@dataclass(frozen=True)
class Example:
    line: int
    language: str
    source: str


def examples(markdown: str) -> list[Example]:
    """The blocks to run, with the line on which each begins."""
    return [
        Example(markdown.count("\n", 0, m.start()) + 1, m["language"], m["source"])
        for m in _BLOCK.finditer(markdown)
        if "no-run" not in m["info"].split()
    ]


def run(example: Example, folder: Path) -> int:
    """The exit code of one block; its output goes where ours goes."""
    if example.language == "bash":
        command = ["bash", "-euo", "pipefail", "-c", example.source]
    else:
        command = [sys.executable, "-c", example.source]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "MPLBACKEND": "Agg"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        print(f"not done after {SECONDS} s", flush=True)
        return 1
    return done.returncode


def main(readme: Path) -> int:
    found = examples(readme.read_text(encoding="utf-8"))
    if not found:
        print(f"{readme}: no examples to run")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        for example in found:
            print(f"--- {readme}:{example.line} ({example.language})\n{example.source}", flush=True)
            start = time.perf_counter()
            code = run(example, Path(folder))
            if code != 0:
                print(f"{readme}:{example.line}: this example failed with exit code {code}")
                return 1
            print(f"--- {time.perf_counter() - start:.1f} s", flush=True)
    print(f"{readme}: {len(found)} examples ran")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
