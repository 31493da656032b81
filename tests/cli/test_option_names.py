"""Names of commands and options: with hyphens, and those of version 0.1 with one warning each."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from importlib import import_module

import pytest
import yaml

from anytime_ar import legacy
from anytime_ar.cli import main
from anytime_ar.cli.main import COMMANDS
from anytime_ar.cli.parser import Parser
from anytime_ar.legacy import OPTIONS, upgrade_arguments


@pytest.fixture(autouse=True)
def _no_warnings_yet(monkeypatch):
    monkeypatch.setattr(legacy, "_warned", set())


def option_names(command: str) -> set[str]:
    """All options of a command, with hyphens."""
    module = import_module(f"anytime_ar.cli.{command.split()[0].replace('-', '_')}")
    owner = module.SUBCOMMANDS[command.split()[1]] if " " in command else module
    parser = Parser(prog=command)
    owner.add_arguments(parser)
    return {name.replace("_", "-") for a in parser._actions for name in a.option_strings}


@pytest.mark.parametrize(
    ("command", "old", "new"),
    [(command, old, new) for command, renamed in OPTIONS.items() for old, new in renamed.items()],
)
def test_an_old_option_is_read_with_one_warning(command, old, new):
    words = command.split()
    given = [*words, "x", f"{old}=a_b", old.replace("-", "_").replace("__", "--"), "3"]
    with pytest.warns(FutureWarning, match=f"^{old} is called {new} since version 0.2") as told:
        assert upgrade_arguments(given) == [*words, "x", f"{new}=a_b", new, "3"]
    assert len(told) == 1
    names = option_names(command)
    assert new in names
    assert old not in names


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["features", "digits", "--out=x"], ["train-classifier", "digits", "--out=x"]),
        (
            ["sample", "mnist", "-n", "9", "--engine", "local", "--out", "x"],
            ["bulk", "sample", "mnist", "-n", "9", "--engine", "local", "--out", "x"],
        ),
        (
            ["sample", "mnist", "--engine=ray"],
            ["bulk", "sample", "-n", "16", "mnist", "--engine=ray"],
        ),
        (
            ["encode", "mnist", "--data", "digits", "-o", "x"],
            ["bulk", "encode", "mnist", "--data", "digits", "-o", "x"],
        ),
        (["encode", "m", "--engine", "ray"], ["bulk", "encode", "m", "--engine", "ray"]),
    ],
)
def test_an_old_command_is_read_with_one_warning(old, new):
    with pytest.warns(FutureWarning, match=r"^anytime \S+.* is called anytime \S+") as told:
        assert upgrade_arguments(old) == new
    assert len(told) == 1


def test_options_of_a_bulk_job_of_0_1_are_those_of_the_new_command():
    old = ["sample", "m", "--engine", "local", "--keep", "codes", "--labels_in_turn", "-n5"]
    with pytest.warns(FutureWarning) as told:
        new = upgrade_arguments(old)
    assert new == ["bulk", *old[:4], "--save", "codes", "--class-balanced", "-n5"]
    assert len(told) == 3


def test_what_follows_two_hyphens_and_present_names_are_left_alone():
    for arguments in (
        [],
        ["--help"],
        ["bulk"],
        ["decode", "mnist", "--", "--n", "5"],
        ["evaluate", "mnist", "--", "--samples"],
        ["sample", "mnist", "--", "--engine"],
        ["serve", "mnist", "--engine", "ray"],
    ):
        assert upgrade_arguments(list(arguments)) == arguments


def test_old_names_work_from_command_to_setting(capsys):
    with pytest.warns(FutureWarning) as told, pytest.raises(SystemExit) as stopped:
        main(["features", "digits", "--features.steps=70", "--print_config"])
    assert stopped.value.code == 0
    assert [str(warning.message).partition(" since")[0] for warning in told] == [
        "anytime features is called anytime train-classifier",
        "--features.steps is called --feature-extractor.steps",
    ]
    assert yaml.safe_load(capsys.readouterr().out)["feature_extractor"]["steps"] == 70


def test_an_old_name_is_one_line_for_people():
    command = [sys.executable, "-m", "anytime_ar", "evaluate", "nothing", "--samples", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    first, second = done.stderr.splitlines()
    assert first.startswith("anytime: --samples is called --num-samples since version 0.2")
    assert second.startswith("anytime: no model 'nothing'")
    assert done.returncode == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_options_with_hyphens(command, capsys):
    for option in ("--help", *(["--help-all"] if command.startswith("train") else [])):
        with pytest.raises(SystemExit):
            main([*command.split(), option])
        told = capsys.readouterr().out
        assert "--help" in told
        assert not re.search(r"--[\w.-]*_", told)


def test_bulk_alone_names_its_commands(capsys):
    for arguments in (["bulk"], ["bulk", "--help"]):
        main(arguments)
        told = capsys.readouterr().out
        assert told.startswith("usage: anytime bulk COMMAND ...")
        assert all(f"  {name}  {what}" in told for name, what in COMMANDS.items() if " " in name)


def test_underscores_are_accepted_and_errors_name_hyphens(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        for option, shown in [
            ("--top_k=x", "--top-k: expected int or null, got x"),
            ("--top-k=x", "--top-k: expected int or null, got x"),
            ("--min_kodes=1", "unrecognized arguments: --min-kodes=1, did you mean '--min-codes'?"),
        ]:
            with pytest.raises(SystemExit):
                main(["sample", "mnist", option])
            assert shown in capsys.readouterr().err
        for option in ("--prior_training.batch_size=3", "--prior-training.batch-size=3"):
            with pytest.raises(SystemExit):
                main(["train", "digits", option, "--print-config"])
            assert yaml.safe_load(capsys.readouterr().out)["prior_training"]["batch_size"] == 3
