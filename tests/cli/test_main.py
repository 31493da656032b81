"""What all commands share: help, mistakes in words, and paths to the letter."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from anytime_ar.cli import main
from anytime_ar.cli.main import COMMANDS
from cli.command_line import refused


def test_every_command_has_help(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            main([*name.split(), "--help"])
        assert stopped.value.code == 0
        assert f"anytime {name}" in capsys.readouterr().out


def test_the_overview_names_every_command_within_80_columns(capsys):
    main([])
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMMANDS)
    assert max(map(len, printed.splitlines())) <= 80


def test_help_is_short_unless_all_is_asked_for(capsys):
    told = []
    for option in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as stopped:
            main(["train", option])
        assert stopped.value.code == 0
        told.append(capsys.readouterr().out)
    short, whole = told
    assert len(short.splitlines()) < 100
    assert "anytime train --help-all" in short
    assert "--data.size" in whole
    assert "--resume" in short
    for text in told:
        assert not any(word in text for word in ("Annotated", "Literal", "Union", "<class"))


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["trian"], "train"),
        (["train", "minst"], "mnist"),
        (["train", "digits", "--data.sise=3"], "--data.size"),
        (["train", "digits", "--prior.layrs=3"], "--prior.layers"),
        (["sample", "mnist", "--tempereture=3"], "--temperature"),
    ],
)
def test_the_nearest_word_is_named(arguments, meant, capsys):
    (line,) = refused(arguments, capsys)
    assert f", did you mean {meant!r}?" in line


def test_a_wrong_value_is_told_in_words(capsys):
    (line,) = refused(["sample", "mnist", "--top_k=x"], capsys)
    assert line == "anytime: --top-k: expected int or null, got x; see `anytime sample --help`"
    for arguments, told in [
        (["sample", "mnist", "--codes", "x"], "--codes: expected int or list of int or null, got"),
        (["sample", "mnist", "--codes", "[]"], "--codes []: pass numbers of 1 and more"),
        (["sample", "mnist", "--codes", "[1, 0]"], "--codes [1, 0]: pass numbers of 1 and more"),
        (["sample", "mnist", "--bogus"], "unrecognized arguments: --bogus; see"),
        (["sample", "mnist", "--label", ""], "--label: expected a text, got nothing; see"),
        (["sample", ""], "no model '': neither shipped"),
        (["encode", "mnist", "."], ".: is a folder; pass the path of an image"),
        (["evaluate", "mnist", "--num-samples", "0"], "--num-samples 0: pass at least 2"),
    ]:
        (line,) = refused(arguments, capsys)
        assert told in line
    (line,) = refused(["train", "digits", "--log_every=0"], capsys)
    assert "--log-every: expected greater than or equal to 1, got 0" in line


def test_the_installed_command_ends_with_one_line_and_code_2():
    command = [str(Path(sys.executable).parent / "anytime"), "sample", "no-such-model"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("anytime: no model 'no-such-model'")
    assert len(done.stderr.splitlines()) == 1


ODD = "a[1]*?::b%#=1"


@pytest.mark.filterwarnings("ignore:.* cropped to the central")
def test_odd_paths_are_taken_to_the_letter(measured, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path(ODD).mkdir()
    run = f"{ODD}/lr=3"
    shutil.copytree(measured / "run", run)
    main(["sample", run, "-n", "2", "--out", f"{ODD}/{ODD}.png", "--save-state", f"{ODD}/s#"])
    main(["refine", run, f"{ODD}/s#", "--out", "#x.png"])
    main(["encode", run, "#x.png", "-o", f"{ODD}/c%s.npz"])
    main(["decode", run, f"{ODD}/c%s.npz", "--out", "&y.png"])
    main(["decode", run, "1", "--out", "caf\udce9.png"])  # Latin-1 on a disk of UTF-8
    names = {"#x.png", "&y.png", "caf\udce9.png", ODD}
    assert names <= {path.name for path in Path().iterdir()}
    bulk = ["bulk", "sample", run, "-n", "4", "--out", f"{ODD}/shards", "--seed", "1"]
    main(bulk)
    capsys.readouterr()
    main(bulk)
    assert "it was complete" in capsys.readouterr().out
    assert (Path(ODD) / "shards" / "manifest.json").is_file()
    features = ["--feature-extractor", str(measured / "features")]
    figures = [
        "--num-samples",
        "10",
        "--codes",
        "[2,4]",
        "--device",
        "cpu",
        "--out",
        f"{ODD}/curve",
    ]
    main(["evaluate", run, *features, *figures])
    main(["compare", f"x={ODD}/curve", f"y={ODD}/curve/curve.json", "--out", f"{ODD}/compared"])
    assert (Path(ODD) / "compared" / "comparison.json").is_file()
