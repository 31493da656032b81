"""Where the kernel comes from: prebuilt, compiled here, or nowhere."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from anytime_ar.errors import InputError
from anytime_ar.kernel import BuildError, load_kernel, loading, prebuilt_path
from anytime_ar.kernel import build as compiling
from anytime_ar.kernel.build import checksummed_path
from anytime_ar.kernel.instruction_sets import select_instruction_set
from anytime_ar.runtime import files


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No kernel is prebuilt or cached, and variables are as users have them."""
    for name in ("ANYTIME_KERNEL", "ANYTIME_KERNEL_ISA", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(loading, "PREBUILT", tmp_path / "prebuilt")
    (tmp_path / "prebuilt").mkdir()
    monkeypatch.setattr(loading.ctypes, "CDLL", fake_load)
    load_kernel.cache_clear()
    yield
    load_kernel.cache_clear()


def fake_load(path: str) -> str:
    """Take a file for a library unless it is empty."""
    if not Path(path).read_text():
        raise OSError(f"{path}: file too short")
    return path


def put_prebuilt(text: str = "prebuilt") -> Path:
    isa = select_instruction_set()
    assert isa is not None
    path = checksummed_path(prebuilt_path(isa), text.encode())
    path.write_text(text)
    return path


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A compiler that writes "compiled" and keeps its arguments in the file beside it."""
    script = tmp_path / "fake-c++"
    script.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo fake 1.0 && exit\n'
        f'echo "$@" >> {tmp_path}/calls\n'
        'while [ "$1" != -o ]; do shift; done\necho compiled > "$2"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return tmp_path / "calls"


def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda _name: None)


def test_a_prebuilt_kernel_comes_first(compiler: Path) -> None:
    path = put_prebuilt()
    loaded = load_kernel()
    assert (loaded.library, loaded.origin) == (str(path), "prebuilt")
    assert not compiler.exists()


def test_without_one_it_is_compiled_once(compiler: Path) -> None:
    loaded = load_kernel()
    assert loaded.origin == "compiled by fake 1.0"
    isa = select_instruction_set()
    assert isa is not None
    assert loaded.instruction_set == isa.name
    (call,) = compiler.read_text().splitlines()
    assert set(isa.flags) | {"-ffp-contract=off"} <= set(call.split())
    load_kernel.cache_clear()
    assert load_kernel().library == loaded.library
    assert len(compiler.read_text().splitlines()) == 1


@pytest.mark.usefixtures("compiler")
def test_one_of_other_sources_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    put_prebuilt()
    monkeypatch.setattr(loading, "kernel_sources", lambda: {"step.cpp": b"changed"})
    assert load_kernel().origin == "compiled by fake 1.0"


@pytest.mark.usefixtures("compiler")
def test_one_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    put_prebuilt("")
    assert load_kernel().origin == "compiled by fake 1.0"
    load_kernel.cache_clear()
    monkeypatch.setenv("ANYTIME_KERNEL", "prebuilt")
    with pytest.raises(BuildError, match=r"cannot load the prebuilt kernel: .*file too short"):
        load_kernel()


@pytest.mark.usefixtures("compiler")
def test_either_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYTIME_KERNEL", "prebuilt")
    with pytest.raises(BuildError, match=r"no prebuilt kernel for .* is in this installation"):
        load_kernel()
    put_prebuilt()
    assert load_kernel().origin == "prebuilt"
    load_kernel.cache_clear()
    monkeypatch.setenv("ANYTIME_KERNEL", "compiled")
    assert load_kernel().origin == "compiled by fake 1.0"
    load_kernel.cache_clear()
    monkeypatch.setenv("ANYTIME_KERNEL", "downloaded")
    with pytest.raises(InputError, match="ANYTIME_KERNEL=downloaded: expected `prebuilt` or"):
        load_kernel()


def test_without_either(monkeypatch: pytest.MonkeyPatch) -> None:
    no_compiler(monkeypatch)
    with pytest.raises(BuildError, match=r"no C\+\+ compiler is there; install g\+\+"):
        load_kernel()


def test_a_prebuilt_kernel_needs_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    no_compiler(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    put_prebuilt()
    assert load_kernel().origin == "prebuilt"


def test_a_cache_that_cannot_be_written_to(monkeypatch: pytest.MonkeyPatch, compiler: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    library = load_kernel().library
    assert Path(str(library)).is_relative_to(files.user_temporary_folder())
    load_kernel.cache_clear()
    assert load_kernel().library == library, "the next process"
    assert len(compiler.read_text().splitlines()) == 1


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("cache", ["", "/dev/null/cache"])
def test_a_compiled_kernel_needs_no_compiler_later(
    monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    if cache:
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
    library = load_kernel().library
    no_compiler(monkeypatch)
    monkeypatch.delenv("CXX")
    load_kernel.cache_clear()
    loaded = load_kernel()
    assert (loaded.library, loaded.origin) == (library, "compiled earlier")
    load_kernel.cache_clear()
    monkeypatch.setattr(compiling, "kernel_sources", lambda: {"step.cpp": b"changed"})
    with pytest.raises(BuildError, match=r"no C\+\+ compiler"):
        load_kernel()


def test_another_compiler_compiles_anew(monkeypatch: pytest.MonkeyPatch, compiler: Path) -> None:
    first = load_kernel().library
    monkeypatch.setenv("CXX", f"{compiler.with_name('fake-c++')} -m64")
    load_kernel.cache_clear()
    assert load_kernel().library != first


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="temporary folders belong to one user")
@pytest.mark.parametrize("kind", ["open", "link", "file"])
def test_a_temporary_folder_that_others_may_write_to_is_not_used(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / f"anytime-ar-{os.getuid()}"
    if kind == "open":
        folder.mkdir()
        folder.chmod(0o777)
    elif kind == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.touch(mode=0o700)
    assert files.user_temporary_folder() == files.process_temporary_folder()


def test_compiled_alone_says_that_it_excludes_the_prebuilt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_prebuilt()
    no_compiler(monkeypatch)
    monkeypatch.setenv("ANYTIME_KERNEL", "compiled")
    with pytest.raises(BuildError, match=r"no C\+\+ .*=compiled excludes the prebuilt kernels"):
        load_kernel()


def test_zig_is_the_last_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(compiling.metadata, "version", lambda name: f"of {name}")
    found = compiling.find_compiler()
    assert found is not None
    assert found.command == (sys.executable, "-m", "ziglang", "c++")
    assert found.version == "zig c++ of ziglang"
