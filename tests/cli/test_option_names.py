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


def autoencoder_of(arguments, capsys):
    """The settings of the autoencoder that `anytime train` would use."""
    with pytest.raises(SystemExit) as stopped:
        main(["train", *arguments, "--print-config"])
    assert stopped.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)["autoencoder"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_settings_of_0_1_choose_layouts_and_quantizers(capsys, tmp_path):
    plain = autoencoder_of(
        ["fsdd", "--autoencoder.quantizer.start=kmeans", "--autoencoder.whole-codes", "0"], capsys
    )
    assert plain["layout"] == "lapped_segment"
    assert plain["noise_bands"] == 6
    quantizer = plain["quantizer"]
    assert (quantizer["kind"], quantizer["init"], quantizer["vocabulary"]) == ("vq", "kmeans", 512)
    linear = ["--autoencoder.network.kind", "linear"]
    assert autoencoder_of(["digits", *linear], capsys)["layout"] == "linear"
    convolutional = ["--autoencoder.network.kind=conv", "--autoencoder.network.shrink=2"]
    assert "kind" not in autoencoder_of(["digits", *convolutional], capsys)["network"]
    grid = ["--autoencoder.quantizer.kind=fsq", "--autoencoder.quantizer.levels=[8,5]"]
    assert autoencoder_of(["digits", *grid], capsys)["quantizer"]["levels"] == [8, 5]
    other = ["--autoencoder.layout=vector", "--autoencoder.order=rows"]
    assert autoencoder_of(["cifar10", *other], capsys)["layout"] == "projection"
    old = autoencoder_of(["digits", *linear], capsys) | {"layout": "vector", "order": "rows"}
    old["network"] = {"kind": "conv", "patch": 2}
    (tmp_path / "old.yaml").write_text(yaml.safe_dump({"autoencoder": old}))
    assert autoencoder_of([str(tmp_path / "old.yaml")], capsys)["network"]["patch"] == 2


def test_a_setting_of_another_layout_is_one_line(capsys):
    for arguments, shown in [
        (
            ["digits", "--autoencoder.noise-bands=3"],
            "autoencoder: noise_bands is 3, a setting of layout=lapped_segment, not of projection; "
            "drop it",
        ),
        (
            ["fsdd", "--autoencoder.linear-skip=false", "--autoencoder.noise-bands=3"],
            "autoencoder: noise_bands is 3, a setting of layout=lapped_segment, not of segment; "
            "drop it",
        ),
        (["digits", "--autoencoder.segmnts=3"], "did you mean '--autoencoder.segments'?"),
    ]:
        with pytest.raises(SystemExit):
            main(["train", *arguments, "--out", "nowhere"])
        assert shown in capsys.readouterr().err


def test_another_layout_or_quantizer_replaces_the_settings_of_a_shipped_one(capsys):
    plain = autoencoder_of(["fsdd", "--autoencoder.layout", "projection"], capsys)
    assert plain["layout"] == "projection"
    assert not plain.keys() & {"segments", "noise_bands"}
    assert plain["code_length"] == 896
    quantizer = plain["quantizer"]
    assert (quantizer["kind"], quantizer["vocabulary"], quantizer["ema_decay"]) == ("vq", 512, 0.98)
    linear = autoencoder_of(["fsdd", "--autoencoder.layout=linear"], capsys)
    assert "network" not in linear
    segments = autoencoder_of(["fsdd", "--autoencoder.linear-skip=false"], capsys)
    assert (segments["layout"], segments["global_codes"]) == ("segment", 0)
    grid = ["--autoencoder.quantizer", "{kind: fsq, levels: [8, 5]}"]
    assert autoencoder_of(["mnist-paper", *grid], capsys)["quantizer"] == {
        "kind": "fsq",
        "levels": [8, 5],
        "commitment": 0.25,
    }
    residual = autoencoder_of(["mnist-paper", "--autoencoder.layout=residual_vq"], capsys)
    assert residual["quantizer"]["shared_codebook"] is False
    file = ["--config", "{autoencoder: {layout: channel}}"]
    assert autoencoder_of(["fsdd", *file], capsys)["layout"] == "channel"


def test_help_shows_settings_by_layout(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help-all"])
    told = capsys.readouterr().out
    assert "autoencoder with layout lapped_segment:\n  --autoencoder.noise-bands" in told
    assert "autoencoder.quantizer with kind fsq:\n  --autoencoder.quantizer.levels" in told
    assert told.count("--autoencoder.quantizer.commitment COMMITMENT") == 1


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
