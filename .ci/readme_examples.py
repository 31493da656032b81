"""Run the examples of pages: their ```bash and ```python blocks in order, in one folder per page.

A later block may use the files of an earlier one. A block marked `no-run` in its info string is
skipped. One with a `title="NAME"`, in any language, is written to the file NAME instead of being
run. One marked `background` is a server: later blocks wait until it is ready at the address
that it prints. At the end of the page it gets SIGTERM. The exit code is not 0 if a block fails or
hangs, or if there is none to run.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 600  # time limit of one block, in seconds

_BLOCK = re.compile(r"^```(?P<language>\w+)(?P<info>[^\n`]*)\n(?P<source>.*?)^```\s*$", re.M | re.S)
_TITLE = re.compile(r'title="([\w.-]+)"')
_ADDRESS = re.compile(r" at http://([^\s/:]+):(\d+)")


@dataclass(frozen=True)
class Example:
    """A block of a page that can be run."""

    line: int
    """Number of the line on which the block begins."""
    language: str
    """Language of the block: `bash` or `python`."""
    source: str
    """Source text of the block."""
    background: bool
    """Whether the block is a server that keeps running."""
    file: str | None = None
    """Name of the file that the block is; None: the block is run."""


class ExampleError(Exception):
    """Error for an example that fails; the message continues "this example"."""


def examples(markdown: str) -> list[Example]:
    """Return the blocks of a page to run, with the line on which each begins."""
    return [
        Example(
            markdown.count("\n", 0, m.start()) + 1,
            m["language"],
            m["source"],
            "background" in m["info"].split(),
            title[1] if (title := _TITLE.search(m["info"])) else None,
        )
        for m in _BLOCK.finditer(markdown)
        if "no-run" not in m["info"].split()
        and (m["language"] in ("bash", "python") or _TITLE.search(m["info"]))
    ]


def _command(example: Example) -> list[str]:
    """Return the command that runs a block."""
    if example.language == "bash":
        return ["bash", "-euo", "pipefail", "-c", example.source]
    return [sys.executable, "-c", example.source]


def _environment() -> dict[str, str]:
    """Return the environment of a block, with this Python first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "MPLBACKEND": "Agg"}


def run(example: Example, folder: Path) -> None:
    """Run one block, with its output on our standard streams.

    Raises:
        ExampleError: the block fails or hangs.
    """
    try:
        done = subprocess.run(
            _command(example),
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise ExampleError(f"is not done after {TIMEOUT_S} s") from error
    if done.returncode != 0:
        raise ExampleError(f"failed with exit code {done.returncode}")


@contextmanager
def running_server(example: Example, folder: Path) -> Iterator[None]:
    """Run a server that prints its address, and end it after the context.

    Raises:
        ExampleError: the server does not start, or ends with an error.
    """
    output = folder / f"output-of-line-{example.line}"
    with output.open("w") as file:
        process = subprocess.Popen(
            _command(example),
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + TIMEOUT_S
        while not _is_ready(output.read_text()):
            if process.poll() is not None or time.monotonic() > until:
                raise ExampleError(f"is not ready: {output.read_text()}")
            time.sleep(0.1)
        yield
        os.killpg(process.pid, signal.SIGTERM)
        if process.wait(TIMEOUT_S) not in (0, -signal.SIGTERM):  # bash may end before its child
            raise ExampleError(f"ended with exit code {process.returncode}: {output.read_text()}")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _is_ready(output: str) -> bool:
    """Return whether the server at the printed address is ready."""
    found = _ADDRESS.search(output)
    if found is None:
        return False
    host = "127.0.0.1" if found[1] == "0.0.0.0" else found[1]
    connection = http.client.HTTPConnection(host, int(found[2]), timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def main(page: Path) -> int:
    """Run the examples of a page and return the exit code."""
    found = examples(page.read_text(encoding="utf-8"))
    if not found:
        print(f"{page}: no examples to run")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        example = found[0]
        try:
            with ExitStack() as servers:
                for example in found:
                    print(
                        f"--- {page}:{example.line} ({example.language})\n{example.source}",
                        flush=True,
                    )
                    start = time.perf_counter()
                    if example.file is not None:
                        (Path(folder) / example.file).write_text(example.source, encoding="utf-8")
                    elif example.background:
                        servers.enter_context(running_server(example, Path(folder)))
                    else:
                        run(example, Path(folder))
                    print(f"--- {time.perf_counter() - start:.1f} s", flush=True)
        except ExampleError as failed:
            print(f"{page}:{example.line}: this example {failed}")
            return 1
    print(f"{page}: {len(found)} examples ran")
    return 0


if __name__ == "__main__":
    sys.exit(max(main(Path(page)) for page in sys.argv[1:]))
