"""`anytime train`: settings, mistakes, and runs that go on with data that has changed or not."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import yaml
from PIL import Image

from anytime_ar.bundle.format import load_bundle
from anytime_ar.cli import main
from anytime_ar.cli.parser import config_names, config_path
from anytime_ar.cli.train import Experiment
from anytime_ar.runtime.signals import Terminated
from cli.command_line import TINY, add, fails, refused, write_config


def test_resuming_a_finished_run_changes_nothing(folder):
    before = (folder / "run" / "bundle" / "prior.safetensors").read_bytes()
    main(["train", "digits", *TINY, "--out", str(folder / "run"), "--resume"])
    assert (folder / "run" / "bundle" / "prior.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", config_names())
def test_every_shipped_configuration_resolves(name, capsys):
    main_arguments = ["train", name, "--print-config"]
    with pytest.raises(SystemExit) as stopped:
        main(main_arguments)
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert f"name: {name}" in printed
    assert config_path(name).is_file()


def test_there_are_shipped_configurations():
    assert {"digits", "mnist", "cifar10", "celeba64"} <= set(config_names())


def test_mistakes_in_settings(capsys, tmp_path):
    assert "'nope'" in fails(["train", "nope"], capsys)
    assert "--autoencoder.code-length: expected greater than or equal to 1, got -1" in fails(
        ["train", "digits", "--autoencoder.code_length=-1"], capsys
    )
    assert "--autoencoder.kode-length" in fails(
        ["train", "digits", "--autoencoder.kode_length=3"], capsys
    )
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("prior: {layrs: 3}")
    assert "layrs" in fails(["train", str(wrong)], capsys)
    assert "unknown command 'trian'" in fails(["trian"], capsys)
    assert "heads" in fails(["train", "digits", "--prior.heads=5"], capsys)


def test_mistakes_in_data_leave_nothing_behind(capsys, tmp_path):
    out = tmp_path / "run"
    run = ["train", "digits", "--out", str(out), "--data.name"]
    assert "no/such/path" in fails([*run, "no/such/path"], capsys)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no images" in fails([*run, str(empty)], capsys)
    broken = tmp_path / "broken"
    broken.mkdir()
    for i in range(20):
        Image.new("L", (8, 8)).save(broken / f"a{i}.png")
    (broken / "b.png").write_bytes((broken / "a0.png").read_bytes()[:40])
    assert "b.png" in fails([*run, str(broken)], capsys)
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for i in range(20):
        Image.new("L", (8, 8)).save(mixed / f"a{i}.png")
    Image.new("RGB", (8, 8)).save(mixed / "b.png")
    assert "b.png" in fails([*run, str(mixed)], capsys)
    tiny = tmp_path / "tiny"
    tiny.mkdir()
    for index in range(20):
        Image.new("L", (2, 2)).save(tiny / f"{index}.png")
    stride = ["--autoencoder.network.widths=[4,4,4]"]
    assert "stride 4" in fails([*run, str(tiny), *stride], capsys)
    assert not out.exists()


def test_an_existing_run_is_not_overwritten(folder, capsys):
    run = ["train", "digits", *TINY, "--out", str(folder / "run")]
    assert "resume" in fails(run, capsys)
    assert "prior_training.steps was 4, is 5" in fails(
        [*run, "--resume", "--prior_training.steps=5"], capsys, lines=2
    )


def interrupted_run(folder: Path, more: str = "") -> Path:
    """A run that was stopped before its prior, on 20 images of each of two classes."""
    add(folder / "data" / "a", 0, 20)
    add(folder / "data" / "b", 0, 20)
    run = folder / "run"
    main(["train", write_config(folder, more), "--out", str(run), "--device", "cpu"])
    shutil.rmtree(run / "bundle")
    for path in (run / "checkpoints").glob("prior*"):
        path.unlink()
    return run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (Terminated("ended by SIGTERM after step 3"), 143, "ended by SIGTERM after step 3"),
    ],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_an_interrupted_run_says_once_how_to_continue(
    error, code, said, rank, tmp_path, capsys, monkeypatch
):
    run = tmp_path / "run"

    def interrupted(*_args: object, **_options: object) -> None:
        run.mkdir()
        (run / "config.yaml").touch()
        raise error

    monkeypatch.setattr("anytime_ar.cli.train.train", interrupted)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    with pytest.raises(SystemExit, match=str(code)):
        main(["train", "digits", "--out", str(run), "--device", "cpu"])
    told = [line for line in capsys.readouterr().err.splitlines() if said in line]
    assert told == [f"anytime: {said}; continue with `anytime train --resume {run}`"] * (rank == 0)


def test_sigterm_before_the_first_step_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "anytime_ar.cli.train.check_data_path", lambda _: signal.raise_signal(signal.SIGTERM)
    )
    with pytest.raises(SystemExit, match="143"):
        main(["train", "digits", "--out", str(tmp_path / "run"), "--device", "cpu"])
    assert capsys.readouterr().err == "anytime: ended by SIGTERM; nothing was written\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_whole_configuration_is_printed_in_its_order_and_loads_again(tmp_path, capsys):
    printed = []
    for config in ("fsdd", str(tmp_path / "again.yaml")):
        with pytest.raises(SystemExit) as stopped:
            main(["train", config, "--print-config"])
        assert stopped.value.code == 0
        printed.append(capsys.readouterr().out)
        (tmp_path / "again.yaml").write_text(printed[-1])
    assert printed[0] == printed[1]
    keys = [*yaml.safe_load(printed[0])]
    assert keys[: len(Experiment.model_fields)] == [*Experiment.model_fields]


def test_a_run_in_place_of_a_configuration_is_told_of_resume(folder, capsys):
    run = folder / "run"
    assert f"is a run; go on with it by `anytime train --resume {run}`" in fails(
        ["train", str(run)], capsys
    )
    told = fails(["train", "runs/zz"], capsys)
    assert "to go on with a run, pass its folder after --resume" in told


def test_help_shows_the_values_of_the_configuration(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("{name: mine, autoencoder: {quantizer: {kind: fsq}}}")
    for arguments, shown in [
        (["fsdd", "--help"], "default: float16)"),
        (["fsdd", "--help-all"], "with noise; 0: off. (type: int, default: 6)"),
        (["fsdd", "--help-all"], "(type: int, default: 512)"),
        (["fsdd", "--help-all"], "Transformer blocks. (type: int, default: 4)"),
        (["digits", "--help-all"], "Transformer blocks. (type: int, default: 3)"),
        ([str(tmp_path / "mine.yaml"), "--help"], "default: mine)"),
        (["--help-all"], "with noise; 0: off. (type: int, default: 0)"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            main(["train", *arguments])
        assert stopped.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        assert shown in text
        assert ".help" not in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["--autoencoder", "null"],
            "--autoencoder: expected settings, got null; write --autoencod",
        ),
        (["--autoencoder"], "--autoencoder: expected settings, got nothing; write --autoencoder."),
        (["--autoencoder.quantizer", "fsq"], "write --autoencoder.quantizer.kind=fsq"),
        (["--prior", "8"], "--prior: expected settings or null, got 8; write --prior.layers=4"),
        (["--data", "x"], "--data: expected settings, got x; write --data.name=digits"),
        (["--autoencoder.foo"], "unknown setting --autoencoder.foo; see"),
        (["--prior.foo", "8"], "unknown setting --prior.foo; see"),
        (["--autoencoder.vocabulary=8"], "did you mean '--autoencoder.quantizer.vocabulary'?"),
        (["--autoencoder.network.width", "8"], "did you mean '--autoencoder.network.widths'?"),
        (["--autoencoder.network", "{width: 8}"], "did you mean '--autoencoder.network.widths'?"),
        (["--autoencoder.network.widths", "8"], "widths: expected list of int, got 8; see"),
        (["--autoencoder", f"{{fill: {'x' * 300}}}"], "fill: expected zeros or learned, got 'xxx"),
        (["--prior={layers: {a: 3}}"], "unknown setting --prior.layers.a; see"),
        (["--seed.foo=3"], "unknown setting --seed.foo; see"),
        (["--name="], "--name: expected at least 1 character, got nothing"),
        (["--out", ""], "--out: expected a path, got nothing"),
        (["--devices", "x"], "--devices: expected int, got x; see `anytime train --help`"),
        (["--conditional=1"], "expected bool, got 1; see `anytime train --help-all`"),
        (["mnist"], "a configuration comes first, as `anytime train mnist --seed 1`; see"),
        (["--auto", "3"], "ambiguous option: --auto could match --autoencoder-training, "),
        (
            ["--autoencoder.layout=spatial", "--autoencoder.network.kind=linear"],
            "--autoencoder.layout and --autoencoder.network.kind are two names of one setting",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_mistake_in_an_option_is_short_and_names_it(arguments, told, capsys):
    line = fails(["train", "digits", *arguments], capsys)
    assert told in line
    assert len(line) < 350
    assert "anytime train --help" in line or "keep one" in line


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("code_lenght: 4", "unknown setting code_lenght; see `anytime train --help-all`"),
        ("autoencoder: {code_lenght: 4}", "did you mean 'autoencoder.code_length'?"),
        ("code_length: 4", "did you mean 'autoencoder.code_length'?"),
        ("prior: {layers: x}", "prior.layers: expected int, got 'x'"),
        ("prior: [3]", "prior: expected settings or null, got [3]; write prior.layers=4"),
        (
            "autoencoder: linear",
            "autoencoder: expected settings, got 'linear'; write autoencoder.l",
        ),
        (
            "autoencoder: {layout: spatial, network: {kind: linear}}",
            "network.kind is 'linear', and layout is 'spatial': the network of layout linear is",
        ),
    ],
)
def test_a_mistake_in_a_file_names_file_and_setting(text, told, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    line = fails(["train", str(path)], capsys)
    assert line.startswith(f"anytime: {path}: ")
    assert told in line


def test_resume_needs_nothing_but_the_run(tmp_path, capsys):
    run = interrupted_run(tmp_path)
    (tmp_path / "tiny.yaml").unlink()
    (run / ".DS_Store").write_bytes(b"")
    (run / "checkpoints" / "._x").write_bytes(b"")
    main(["train", "--resume", str(run), "--device", "cpu"])
    assert str(run / "bundle") in capsys.readouterr().out
    assert load_bundle(run / "bundle").prior is not None
    before = (run / "bundle" / "prior.safetensors").read_bytes()
    main(["train", f"--resume={run}"])  # once more changes nothing
    assert (run / "bundle" / "prior.safetensors").read_bytes() == before


def test_what_was_left_out_of_the_data_is_in_the_log(tmp_path):
    add(tmp_path / "data" / "a", 0, 20)
    (tmp_path / "data" / "a" / "notes.txt").write_text("no picture")
    run = tmp_path / "run"
    with pytest.warns(UserWarning, match=r"\.txt"):
        main(["train", write_config(tmp_path), "--out", str(run), "--device", "cpu"])
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["data"] for line in lines if "data" in line] == json.loads(
        (run / "data.json").read_text()
    )["left_out"]


def test_other_settings_are_refused_with_a_line_each(tmp_path, capsys):
    run = interrupted_run(tmp_path)
    head, *lines = refused(
        ["train", "--resume", str(run), "--seed", "3", "--prior_training.steps=5"], capsys
    )
    assert "was begun with other settings; go on with those by `anytime train --resume" in head
    assert lines == ["  - prior_training.steps was 4, is 5", "  - seed was 0, is 3"]
    (line,) = refused(["train", "--resume"], capsys)
    assert line == "anytime: --resume: name the run, as in anytime train --resume runs/mnist"
    (line,) = refused(["train", "--resume", str(tmp_path)], capsys)
    assert "no run is there (no config.yaml in this folder)" in line
    (line,) = refused(["train", write_config(tmp_path), "--out", str(run)], capsys)
    assert f"holds a run already; go on with it by `anytime train --resume {run}`" in line


@pytest.mark.parametrize("more", ["", ", streaming: true"])
def test_data_that_changed_is_refused_with_what_changed(more, tmp_path, capsys):
    run = interrupted_run(tmp_path, more)
    (tmp_path / "data" / ".DS_Store").write_bytes(b"")
    add(tmp_path / "data" / "a", 20, 25)
    add(tmp_path / "data" / "c", 0, 20)
    head, *lines = refused(["train", "--resume", str(run)], capsys)
    assert f"data has changed since {run} was begun" in head
    assert "--accept-changed-data" in head
    train = next(line for line in lines if line.startswith("  - train has"))
    assert train.endswith("samples, had 32")
    assert "  - labels are a, b, c; were a, b" in lines
    assert any("there are 65 files" in line for line in lines) == bool(more)
    main(["train", "--resume", str(run), "--accept-changed-data", "--device", "cpu"])
    assert load_bundle(run / "bundle").card.data.labels == ("a", "b", "c")
    log = (run / "log.jsonl").read_text()
    assert "the data has changed: labels are a, b, c; were a, b" in log
    shutil.rmtree(run / "bundle")
    main(["train", "--resume", str(run), "--device", "cpu"])  # accepted once and for all


def test_other_samples_in_the_same_number_are_noticed(tmp_path, capsys):
    run = interrupted_run(tmp_path)
    data = tmp_path / "data" / "a"
    for path in sorted(data.iterdir())[:10]:
        Image.new("L", (8, 8), 3).save(path)
    _, *lines = refused(["train", "--resume", str(run)], capsys)
    assert "  - train has as many samples as before, but others" in lines


def test_a_run_of_an_earlier_release_goes_on(tmp_path):
    run = interrupted_run(tmp_path)
    (run / "data.json").unlink()
    main(["train", "--resume", str(run), "--device", "cpu"])
    assert json.loads((run / "data.json").read_text())["splits"]["train"]["samples"] == 32


def test_data_that_is_not_there_is_told_before_threads_are_timed(tmp_path, monkeypatch, capsys):
    def work(*_, **__):
        raise AssertionError("too late")

    monkeypatch.setattr("anytime_ar.cli.train.tune_threads_from", work)
    monkeypatch.chdir(tmp_path)
    (line,) = refused(["train", "--data.name", "./nowhere"], capsys)
    assert "data path './nowhere' does not exist" in line
