"""Compiling the kernel where compilers, disks and cached files are not as they should be."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anytime_ar.kernel import BuildError, find_compiler, load_kernel, loading
from anytime_ar.kernel import build as compiling
from anytime_ar.kernel.build import checksummed_path, find_intact
from anytime_ar.kernel.instruction_sets import (
    available_instruction_sets,
    cpu_architecture,
    cpu_features,
)
from anytime_ar.runtime import files
from processes import is_running, wait_for

MakeCompiler = Callable[..., Path]
WORKS = 'while [ "$1" != -o ]; do shift; done\necho compiled > "$2"'


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """No kernel and no compiler is there; return the folder of compiled kernels."""
    for name in ("ANYTIME_KERNEL", "ANYTIME_KERNEL_ISA", "CXX"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "bin").mkdir()
    (tmp_path / "prebuilt").mkdir()
    (tmp_path / "process").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/bin:/usr/bin")
    which = shutil.which

    def ours(name: str) -> str | None:
        found = which(name)
        return found if found and (name not in COMPILERS or str(tmp_path) in found) else None

    monkeypatch.setattr(shutil, "which", ours)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(loading, "PREBUILT", tmp_path / "prebuilt")
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(compiling, "user_temporary_folder", lambda: tmp_path / "process")
    monkeypatch.setattr(loading.ctypes, "CDLL", take_text)
    load_kernel.cache_clear()
    yield tmp_path / "cache" / "anytime-ar" / "native"
    load_kernel.cache_clear()


COMPILERS = ("c++", "g++", "clang++")


def take_text(path: str) -> str:
    """Take a file that says "compiled" for a library."""
    if "compiled" not in Path(path).read_text():
        raise OSError(f"{path}: invalid ELF header")
    return path


@pytest.fixture
def make(tmp_path: Path) -> MakeCompiler:
    """Put a compiler on the path; the file that it keeps its calls in is returned."""

    def make(name: str, body: str = WORKS, shebang: str = "#!/bin/sh") -> Path:
        script, calls = tmp_path / "bin" / name, tmp_path / f"{name} calls"
        told = f'case "$*" in *--version) echo "{name} 1.0"; exit;; esac'
        script.write_text(f'{shebang}\n{told}\necho "$@" >> "{calls}"\n{body}\n')
        script.chmod(0o755)
        return calls

    return make


def count(calls: Path) -> int:
    return len(calls.read_text().splitlines()) if calls.exists() else 0


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:4])


def damage_nothing_left(path: Path) -> None:
    path.write_bytes(b"")


def damage_bit(path: Path) -> None:
    path.write_bytes(b"C" + path.read_bytes()[1:])


def damage_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def damage_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "damage", [damage_cut, damage_nothing_left, damage_bit, damage_folder, damage_pipe]
)
def test_a_damaged_kernel_is_compiled_anew(
    own: Path, make: MakeCompiler, damage: Callable[[Path], None]
) -> None:
    calls = make("c++")
    load_kernel()
    (cached,) = own.iterdir()
    damage(cached)
    load_kernel.cache_clear()
    assert Path(str(load_kernel().library)).read_text() == "compiled\n"
    assert count(calls) == 2


def test_a_kernel_that_cannot_be_read_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checksummed_path(tmp_path / "a.so", b"whole")
    path.write_bytes(b"whole")
    assert find_intact(tmp_path / "a.so") == path

    def refuse(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert find_intact(tmp_path / "a.so") is None


def test_damaged_prebuilt_kernels_are_not_loaded(make: MakeCompiler) -> None:
    isa = available_instruction_sets(cpu_architecture(), cpu_features())[-1]
    path = checksummed_path(loading.prebuilt_path(isa), b"compiled, and longer")
    path.write_bytes(b"compiled")
    assert loading.prebuilt_instruction_sets() == []
    make("c++")
    assert load_kernel().origin == "compiled by c++ 1.0"


@pytest.mark.skipif(
    len(available_instruction_sets(cpu_architecture(), cpu_features())) < 2,
    reason="one instruction set",
)
@pytest.mark.parametrize("only", ["prebuilt", ""])
def test_a_lower_prebuilt_kernel_is_better_than_none(
    monkeypatch: pytest.MonkeyPatch, only: str
) -> None:
    lower, best = available_instruction_sets(cpu_architecture(), cpu_features())[-2:]
    for isa, content in ((lower, b"compiled lower"), (best, b"of another C library")):
        checksummed_path(loading.prebuilt_path(isa), content).write_bytes(content)
    monkeypatch.setenv("ANYTIME_KERNEL", only)
    loaded = load_kernel()
    assert (loaded.instruction_set, loaded.origin) == (lower.name, "prebuilt")
    load_kernel.cache_clear()
    monkeypatch.setenv("ANYTIME_KERNEL_ISA", best.name)
    with pytest.raises(BuildError, match="invalid ELF header" if only else "no C"):
        load_kernel()


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("echo 'step.cpp:1: error: what' >&2; exit 1", r"c\+\+ failed: step.cpp:1: error: what"),
        ("echo 'Fehler: so nicht' >&2; exit 1", r"c\+\+ failed: Fehler: so nicht"),
        ("printf 'Fehler \\374' >&2; exit 1", r"c\+\+ failed: Fehler"),
        ("exit 3", r"c\+\+ failed: exit status 3, without a message"),
        ("true", r"c\+\+ says that all is well, but has written no kernel"),
        (WORKS.replace("compiled", "text"), r"cannot load what .*c\+\+ has made: .*invalid ELF"),
    ],
)
def test_the_next_compiler_is_tried_and_failures_are_kept(
    make: MakeCompiler, body: str, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken = make("c++", body)
    for _ in range(3):
        with pytest.raises(BuildError, match=problem) as told:
            load_kernel()
    assert "noexec" not in str(told.value)
    assert count(broken) == 1
    make("clang++")
    assert load_kernel().origin == "compiled by clang++ 1.0"
    assert count(broken) == 1
    assert re.search(problem, caplog.messages[-1])
    assert caplog.messages[-1].endswith("; used clang++ 1.0")


def test_messages_are_asked_for_in_english(make: MakeCompiler) -> None:
    make("c++", 'echo "error in $LC_ALL"; exit 1')
    with pytest.raises(BuildError, match=r"failed: error in C$"):
        load_kernel()


@pytest.mark.parametrize("named", ["ccache g++", "g++ -m64", "'g++' -m64"])
def test_cxx_is_split_as_a_shell_does(
    monkeypatch: pytest.MonkeyPatch, make: MakeCompiler, named: str
) -> None:
    make("ccache")
    make("g++")
    unused = make("c++")
    monkeypatch.setenv("CXX", named)
    assert load_kernel().origin == f"compiled by {named.split()[0].strip(chr(39))} 1.0"
    assert not unused.exists()


@pytest.mark.parametrize("named", ["not-there", "no shebang", "of-another-machine", "'open"])
def test_a_cxx_that_cannot_be_run(
    monkeypatch: pytest.MonkeyPatch, make: MakeCompiler, tmp_path: Path, named: str
) -> None:
    make("no shebang", shebang="")
    foreign = tmp_path / "bin" / "of-another-machine"
    foreign.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(57))
    foreign.chmod(0o755)
    monkeypatch.setenv("CXX", named)
    assert find_compiler() is None
    with pytest.raises(BuildError, match="cannot be run"):
        load_kernel()
    make("g++")
    found = find_compiler()
    assert found is not None
    assert found.version == "g++ 1.0"
    assert load_kernel().origin == "compiled by g++ 1.0"


def test_where_the_cache_is_full_the_process_has_its_own(
    own: Path, make: MakeCompiler, tmp_path: Path
) -> None:
    full = "echo 'fatal error: error writing to /x.s: No space left on device' >&2; exit 1"
    make("c++", f'case "$TMPDIR" in {tmp_path}/cache/*) {full};; esac\n{WORKS}')
    assert Path(str(load_kernel().library)).is_relative_to(tmp_path / "process")
    assert list(own.iterdir()) == []


def test_where_nothing_in_the_cache_may_be_run(
    monkeypatch: pytest.MonkeyPatch, make: MakeCompiler, tmp_path: Path
) -> None:
    def refuse(path: str, place: str = f"{tmp_path}/cache") -> str:
        if path.startswith(place):
            raise OSError(f"{path}: failed to map segment from shared object")
        return take_text(path)

    monkeypatch.setattr(loading.ctypes, "CDLL", refuse)
    calls = make("c++")
    assert Path(str(load_kernel().library)).is_relative_to(tmp_path / "process")
    assert count(calls) == 1
    load_kernel.cache_clear()
    monkeypatch.setattr(loading.ctypes, "CDLL", lambda path: refuse(path, ""))
    with pytest.raises(BuildError, match=r"failed to map segment .*mounted with noexec"):
        load_kernel()


def test_without_any_place_for_files(monkeypatch: pytest.MonkeyPatch, make: MakeCompiler) -> None:
    def nothing() -> Path:
        raise FileNotFoundError(2, "No usable temporary directory found")

    make("c++")
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    monkeypatch.setattr(compiling, "user_temporary_folder", nothing)
    with pytest.raises(BuildError, match=r"cannot write the kernel: .*No usable temporary"):
        load_kernel()


def test_a_relative_cache_folder_is_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for named in ("cache", "./cache", "~/cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", named)
        assert files.cache_folder() == tmp_path / "home" / ".cache" / "anytime-ar"
    monkeypatch.setenv("HOME", "home")
    assert files.cache_folder() == files.process_temporary_folder()


def test_a_compilation_is_announced_once(
    make: MakeCompiler, caplog: pytest.LogCaptureFixture
) -> None:
    make("c++")
    for _ in range(2):
        load_kernel()
        load_kernel.cache_clear()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("compiling the native kernel")


def test_what_killed_compilations_left_is_removed(own: Path, make: MakeCompiler) -> None:
    old, young = own / "compiling-old", own / "compiling-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "step.cpp").touch()
    os.utime(old, (time.time() - 90000,) * 2)
    make("c++")
    load_kernel()
    assert not old.exists()
    assert young.exists()


SIGNALLED = """
import signal, subprocess, sys, time
from anytime_ar.runtime.signals import exit_on_signal
from anytime_ar.kernel import load_kernel, loading
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
loading.PREBUILT = Path("/dev/null")
if sys.argv[1] == "just started":
    start = subprocess.Popen.__init__
    def slowly(*args, **options):
        start(*args, **options)
        time.sleep(0.5)
    subprocess.Popen.__init__ = slowly
if sys.argv[1] == "served":
    with exit_on_signal(signal.SIGTERM, 0):
        load_kernel()
load_kernel()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no signals")
@pytest.mark.parametrize(
    ("number", "how", "code"),
    [
        (signal.SIGTERM, "alone", 143),
        (signal.SIGTERM, "just started", 143),
        (signal.SIGINT, "just started", -2),
        (signal.SIGTERM, "served", 0),
        (signal.SIGHUP, "alone", 129),
        (signal.SIGINT, "alone", -2),
        (signal.SIGINT, "sample", 130),
        (signal.SIGINT, "serve", 130),
        (signal.SIGTERM, "serve", 0),
    ],
)
def test_a_signal_ends_the_compiler_and_leaves_nothing(
    own: Path, make: MakeCompiler, tmp_path: Path, number: signal.Signals, how: str, code: int
) -> None:
    # The compiler starts a process of its own, as g++ does, and both wait.
    pid = tmp_path / "pid"
    make("fake", f'sleep 60 &\necho $$ $! > "{pid}.new"; mv "{pid}.new" "{pid}"\nwait')
    command = [sys.executable, "-c", SIGNALLED, how]
    if how == "sample":
        out = str(tmp_path / "a.png")
        command = [sys.executable, "-m", "anytime_ar", "sample", "mnist", "-n", "1", "--out", out]
    if how == "serve":
        command = [sys.executable, "-m", "anytime_ar", "serve", "mnist", "--port", "0"]
    env = os.environ | {"CXX": "fake", "ANYTIME_KERNEL": "compiled"}
    with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: pid.exists() or process.poll() is not None, "the compiler")
        assert pid.exists()
        process.send_signal(number)
        assert process.wait(30) == code
    assert list(own.iterdir()) == []
    for each in map(int, pid.read_text().split()):
        wait_for(lambda each=each: not is_running(each), "the compiler to end")
