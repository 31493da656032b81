"""What works without the packages that serving and its clients need, and what is said otherwise."""

from __future__ import annotations

import subprocess
import sys

import pytest

from anytime_ar.errors import install_command

SERVING = ("fastapi", "starlette", "uvicorn", "httptools", "prometheus_client")


def run(code: str, without: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Run a program in which some packages cannot be imported."""
    missing = f"import sys; sys.modules.update(dict.fromkeys({without!r}))\n"
    return subprocess.run(
        [sys.executable, "-c", missing + code], capture_output=True, text=True, check=False
    )


def command(*arguments: str) -> str:
    return f"from anytime_ar.cli.main import main; main({[*arguments]!r})"


def test_help_needs_nothing() -> None:
    told = run(command("serve", "--help"), (*SERVING, "uvloop", "httpx", "ray"))
    assert (told.returncode, told.stderr) == (0, "")
    for option in ("--port", "--api-key-file", "--allowed-hosts"):
        assert option in told.stdout


@pytest.mark.parametrize("without", [SERVING, *((name,) for name in SERVING)], ids="-".join)
def test_a_server_says_what_it_misses(without: tuple[str, ...]) -> None:
    told = run(command("serve", "mnist", "--port", "0"), without)
    assert told.returncode == 2
    assert told.stderr.startswith("anytime: serving needs ")
    assert install_command("serve") in told.stderr
    assert told.stderr.count("\n") == 1


def test_the_client_is_imported_without_httpx_and_says_what_it_misses() -> None:
    code = """
from anytime_ar.client import AsyncClient, Client, RequestFailed
from anytime_ar.errors import MissingExtraError
for kind in (Client, AsyncClient):
    try:
        kind("http://127.0.0.1:8000")
    except MissingExtraError as error:
        print(error)
"""
    told = run(code, ("httpx",))
    assert (told.returncode, told.stderr) == (0, "")
    lines = told.stdout.splitlines()
    assert lines == [f"the client needs httpx; install it: {install_command('client')}"] * 2
