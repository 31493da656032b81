"""A reader sees the old file or the new one; nothing half-written is left."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from anytime_ar.errors import InputError
from anytime_ar.runtime.files import (
    cache_folder,
    process_temporary_folder,
    remove_temporary_files,
    write_atomically,
    write_json,
)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_creates_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    write_atomically(target, lambda file: file.write(b"one"))
    write_atomically(str(target), lambda file: file.write(b"2"))
    assert target.read_bytes() == b"2"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failed_write_keeps_the_old_file(tmp_path: Path, failure: type[BaseException]) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def write(file: BinaryIO) -> None:
        file.write(b"new, but")
        raise failure("stopped here")

    with pytest.raises(failure, match="stopped here"):
        write_atomically(target, write)
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_the_old_file_is_readable_until_the_end(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    seen: list[object] = []

    def write(file: BinaryIO) -> None:
        file.write(b"new")
        seen.append(target.read_bytes())
        seen.append(len(names(tmp_path)))

    write_atomically(target, write)
    assert seen[0] == b"old"
    assert seen[1] == 2, "the temporary file lies in the same folder"
    assert target.read_bytes() == b"new"


@pytest.mark.skipif(os.name != "posix", reason="needs kill -9 and POSIX file modes")
def test_killed_mid_write_keeps_the_old_file_and_is_swept(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    program = (
        "import os, signal, sys\n"
        "from anytime_ar.runtime.files import write_atomically\n"
        "def write(file):\n"
        "    file.write(b'x' * 100_000)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomically(sys.argv[1], write)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(target)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert target.read_bytes() == b"old"
    assert len(names(tmp_path)) == 2
    (tmp_path / "mine.tmp").write_bytes(b"not ours to remove")
    assert len(remove_temporary_files(tmp_path)) == 1
    assert names(tmp_path) == ["a.bin", "mine.tmp"]


@pytest.mark.skipif(os.name != "posix", reason="needs kill -9 and POSIX file modes")
def test_the_file_mode_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "a.bin", lambda file: file.write(b"x"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == 0o644


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.*No such file.*choose a folder that exists"):
        write_atomically(tmp_path / "nowhere" / "a.bin", lambda file: file.write(b"x"))


def test_a_folder_is_no_target(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is a folder; give the path of a file"):
        write_atomically(tmp_path, lambda file: file.write(b"x"))


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"zweite": [1, 2.5, None], "erste": {"größe": "é"}}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.index("zweite") < text.index("erste")
    assert "größe" in text
    assert text.endswith("}\n")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_what_is_not_finite(tmp_path: Path, number: float) -> None:
    with pytest.raises(InputError, match=rf"value\.points\[1\]\.mse is {number}"):
        write_json(tmp_path / "a.json", {"points": [{"mse": 1.0}, {"mse": number}]})
    assert names(tmp_path) == []


def test_json_refuses_foreign_objects_before_writing(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(tmp_path / "a.json", {"path": tmp_path})
    assert names(tmp_path) == []


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "named"))
    assert cache_folder() == tmp_path / "named" / "anytime-ar"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "anytime-ar"


def test_without_a_home_the_cache_is_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert cache_folder() == process_temporary_folder()
    assert process_temporary_folder().is_dir()


def test_the_folder_of_a_process_goes_with_it() -> None:
    program = (
        "from anytime_ar.runtime.files import process_temporary_folder as folder; print(folder())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert not Path(done.stdout.strip()).exists()
