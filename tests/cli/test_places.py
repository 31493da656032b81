"""Files, folders and settings that are not as they should be end in one line and a code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from anytime_ar.cli.main import main
from anytime_ar.codes import save_codes
from anytime_ar.media.image import write_image

posix = pytest.mark.skipif(os.name != "posix", reason="of POSIX")


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -m anytime_ar"
    return subprocess.run(
        ["sh", "-c", script.replace("anytime ", f"{command} ")],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


@posix
@pytest.mark.parametrize(
    "command", ["sample mnist -n 1 --out ../x.png", "doctor", "train digits --out ../run"]
)
def test_a_deleted_folder(tmp_path: Path, command: str) -> None:
    done = shell(f"mkdir here && cd here && rmdir ../here && anytime {command}", tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("anytime: the current folder cannot be used: No such file")
    assert line.endswith("change to one that exists")


@posix
def test_no_room_for_a_file(tmp_path: Path) -> None:
    done = shell("ulimit -f 10; anytime sample mnist -n 400 --seed 0 --out x.png", tmp_path)
    line = done.stderr.splitlines()[-1]
    assert line.startswith("anytime: cannot write x.png: File too large; what was there is as")
    assert done.returncode == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", ["", "x.png/", "here/"])
def test_an_output_that_names_no_file(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    error = error_of(capsys, "sample", "mnist", "-n", "1", "--out", out)
    if out == "here/":
        assert "cannot write images with suffix ''" in error
    elif not out:
        assert "--out: expected a text, got nothing" in error
    else:
        assert f"cannot write {out!r}: it names no file; give the path of a file" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["sample", "mnist", "--save_state"],
        ["decode", "mnist", "codes.npz", "--out"],
        ["encode", "mnist", "image.png", "--out"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("out", ["", "x.png/"])
def test_every_file_that_commands_write(
    arguments: list[str],
    out: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    codes = torch.zeros(1, 2, dtype=torch.int64)
    save_codes("codes.npz", codes, model="mnist", code_length=16, vocabulary=256)
    write_image("image.png", torch.zeros(1, 28, 28))
    before = sorted(tmp_path.iterdir())
    error = error_of(capsys, *arguments, out)
    if out:
        assert f"cannot write {out!r}: it names no file; give the path of a file" in error
    else:
        assert f"{arguments[-1].replace('_', '-')}: expected a text, got nothing" in error
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nname: a\nseed: 2\n", "'seed' twice, in lines 1 and 3; keep one"),
        ("data:\n  size: 8\n  size: 16\n", "'size' twice, in lines 2 and 3; keep one"),
        ("{seed: 1, 'seed': 2}", "'seed' twice, in lines 1 and 1; keep one"),
        ("prior_training:\n  prefix_fractions: [{a: 1, a: 2}]\n", "'a' twice, in lines 2 and 2"),
    ],
)
def test_a_key_twice(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    assert f"{path}: holds {message}" in error_of(capsys, "train", str(path))


@pytest.mark.parametrize("text", ["name: !!python/name:os.system x\n", "name: [\n", "name: !a b"])
def test_errors_in_yaml_name_the_file(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    error = error_of(capsys, "train", str(path))
    assert f"{path} is not YAML: " in error
    assert f'in "{path}", line ' in error
    assert "unicode string" not in error
