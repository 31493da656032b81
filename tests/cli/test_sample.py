"""`anytime sample`: budgets, Ctrl-C, images and sounds."""

from __future__ import annotations

import json
import re
import signal

import numpy as np
import pytest
from PIL import Image

from anytime_ar.cli import main
from anytime_ar.sampling import DecodeBatch, load
from anytime_ar.sampling.sampler import Sampler
from cli.command_line import fails, names, wave_of


def test_sample_writes_a_grid(folder, tmp_path, capsys):
    out = tmp_path / "grid.png"
    main(
        ["sample", str(folder / "run"), "-n", "6", "--codes", "2", "--seed", "1", "--out", str(out)]
    )
    assert "6 samples of 2 of 4 codes" in capsys.readouterr().out
    with Image.open(out) as picture:
        assert picture.width > picture.height > 8


def test_sample_with_several_budgets_has_a_column_each(folder, tmp_path):
    out = tmp_path / "sheet.png"
    run = str(folder / "run")
    main(["sample", run, "-n", "3", "--codes", "[1,2,4]", "--label", "3", "--out", str(out)])
    with Image.open(out) as picture:
        assert picture.width == 3 * 50 + 2


def test_sample_by_quality_needs_a_measured_model(folder, tmp_path, capsys):
    out = tmp_path / "samples.png"
    assert "quality=0.9 was asked of a model whose quality was not measured" in fails(
        ["sample", str(folder / "run"), "--quality", "0.9", "--out", str(out)], capsys
    )
    assert not out.exists()
    main(["sample", "mnist", "-n", "2", "--quality", "0.9", "--json", "--out", str(out)])
    curve = load("mnist", device="cpu").curve
    assert curve is not None
    found = [(point.codes, point.fd_sample) for point in curve.points if point.fd_sample]
    expected = min(codes for codes, distance in found if found[-1][1] / distance >= 0.9)
    assert json.loads(capsys.readouterr().out)["codes"] == expected
    assert 1 < expected < curve.code_length


def test_sample_by_deadline(folder, tmp_path, capsys):
    out = tmp_path / "samples.png"
    sample = ["sample", str(folder / "run"), "-n", "2", "--json", "--out", str(out)]
    main([*sample, "--deadline-s", "30"])
    figures = json.loads(capsys.readouterr().out)
    assert (figures["codes"], figures["stop_reason"]) == (4, "complete")
    assert (figures["deadline_met"], figures["late_s"]) == (True, 0)
    assert 0 < figures["min_deadline_s"] < 30
    assert "deadline_s=1e-09 is too short: 1 code of 2 samples take" in fails(
        [*sample, "--deadline-s", "1e-9"], capsys
    )
    assert "deadline_s=-1.0 is no time to draw in" in fails([*sample, "--deadline-s=-1"], capsys)


def test_a_missed_deadline_is_told(folder, tmp_path, capsys, monkeypatch):
    real = Sampler.check_deadline
    monkeypatch.setattr(
        Sampler, "check_deadline", lambda self, _deadline, *rest: real(self, 9, *rest)
    )
    sample = ["sample", str(folder / "run"), "-n", "2", "--out", str(tmp_path / "samples.png")]
    sample += ["--deadline-s", "1e-6"]
    main(sample)
    first, second = capsys.readouterr().out.splitlines()
    assert "2 samples of 1 of 4 codes" in first
    assert re.fullmatch(
        r"the deadline was missed by 0\.\d+ s; from 0\.\d+ s on it is met.*", second
    )
    assert len(second) <= 80
    main([*sample, "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert figures["deadline_met"] is False
    assert figures["late_s"] > 0


def test_json_names_what_drew_the_samples(folder, tmp_path, capsys):
    out = ["-n", "1", "--json", "--out", str(tmp_path / "samples.png")]
    main(["sample", str(folder / "run"), *out, "--precision", "bfloat16"])
    figures = json.loads(capsys.readouterr().out)
    assert figures["precision"] == "bfloat16"
    assert figures["backend"] in ("native", "portable")
    assert (figures["kernel"] is None) == (figures["backend"] == "portable")
    assert figures["processor"]
    assert figures["threads"] >= 1


@pytest.fixture
def interrupt_after(monkeypatch):
    """Presses Ctrl-C in the middle of that step, counting from 1."""

    def arm(step: int) -> None:
        real, calls = DecodeBatch.step, []

        def pressing(*arguments):
            calls.append(1)
            if len(calls) == step:
                signal.raise_signal(signal.SIGINT)
            return real(*arguments)

        monkeypatch.setattr(DecodeBatch, "step", pressing)

    return arm


def test_ctrl_c_writes_what_there_is_and_refine_goes_on(folder, tmp_path, capsys, interrupt_after):
    run, out, state = str(folder / "run"), tmp_path / "samples.png", tmp_path / "draw.state"
    main(["sample", run, "-n", "3", "--seed", "5", "--out", str(tmp_path / "whole.png")])
    capsys.readouterr()
    interrupt_after(2)
    sample = ["sample", run, "-n", "3", "--seed", "5", "--save-state", str(state)]
    main([*sample, "--out", str(out)])  # returns: the exit code is 0
    printed = capsys.readouterr().out
    assert "3 samples of 2 of 4 codes" in printed
    assert "interrupted, seed 5" in printed
    assert out.read_bytes() != (tmp_path / "whole.png").read_bytes()
    main(["refine", run, str(state), "--out", str(out)])
    assert "3 samples of 4 of 4 codes" in capsys.readouterr().out
    assert out.read_bytes() == (tmp_path / "whole.png").read_bytes()


def test_a_second_ctrl_c_ends_at_once(folder, tmp_path, capsys, monkeypatch):
    def pressing_twice(*_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(DecodeBatch, "step", pressing_twice)
    with pytest.raises(SystemExit) as stopped:
        main(["sample", str(folder / "run"), "--out", str(tmp_path / "samples.png")])
    assert stopped.value.code == 130
    assert "interrupted" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_sample_prints_json_with_the_seed_that_repeats_it(folder, tmp_path, capsys):
    run, first, second = str(folder / "run"), tmp_path / "1.png", tmp_path / "2.png"
    main(["sample", run, "-n", "4", "--json", "--out", str(first)])
    figures = json.loads(capsys.readouterr().out)
    assert figures["codes"] == figures["code_length"] == 4
    main(["sample", run, "-n", "4", "--seed", str(figures["seed"]), "--out", str(second)])
    assert first.read_bytes() == second.read_bytes()


def test_samples_of_sounds(sounds, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = load(sounds, device="cpu")
    main(["sample", sounds, "-n", "1", "--seed", "3"])
    assert capsys.readouterr().out.startswith("samples.wav: 1 sample of 4 of 4 codes")
    assert names(tmp_path) == ["samples.wav"]
    drawn = model.sample(12, seed=3)
    assert (wave_of(tmp_path / "samples.wav") - drawn[0, 0]).abs().max() < 1e-4
    main(["sample", sounds, "-n", "12", "--seed", "3", "--out", "many.wav"])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("many/ and many.png: 12 samples")
    assert len(line) <= 80
    assert names(tmp_path / "many") == [f"{number:02}.wav" for number in range(12)]
    for number in (0, 11):
        wave = wave_of(tmp_path / "many" / f"{number:02}.wav")
        assert (wave - drawn[number, 0]).abs().max() < 1e-4
    with Image.open(tmp_path / "many.png") as picture:
        assert picture.size == (4 * 162 - 2, 3 * 98 - 2)


def test_samples_of_sounds_with_several_budgets(sounds, tmp_path):
    model = load(sounds, device="cpu")
    sample = ["sample", sounds, "-n", "2", "--seed", "3", "--codes", "[1,4]", "--out"]
    main([*sample, str(tmp_path / "a.flac")])
    files = ["a.png", *(f"a/{number}-k{k}.flac" for number in range(2) for k in (1, 4))]
    assert names(tmp_path) == files
    drawn = model.sample(2, seed=3, codes=1)
    assert (wave_of(tmp_path / "a" / "1-k1.flac") - drawn[1, 0]).abs().max() < 1e-4
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (2 * 162 + 2, 2 * 98 + 18)
    main([*sample, str(tmp_path / "sheet.png")])  # the picture alone
    assert names(tmp_path) == [*files, "sheet.png"]
    assert (tmp_path / "sheet.png").read_bytes() == (tmp_path / "a.png").read_bytes()


def test_mistakes_in_sampling(folder, capsys, tmp_path):
    run, out = str(folder / "run"), tmp_path / "x.png"
    sample = ["sample", run, "--out", str(out)]
    assert "codes=5 is outside 1..4" in fails([*sample, "--codes", "5"], capsys)
    assert "label 'seven' is unknown" in fails([*sample, "--label", "seven"], capsys)
    assert "temperature" in fails([*sample, "--temperature", "-1"], capsys)
    assert "cannot draw 0 samples" in fails([*sample, "-n", "0"], capsys)
    assert "no prior" in fails(["sample", str(folder / "codec"), "--out", str(out)], capsys)
    assert "no model 'nothing'" in fails(["sample", "nothing"], capsys)
    assert "device 'tpu'" in fails([*sample, "--device", "tpu"], capsys)
    assert "code 99 at row 0" in fails(["decode", run, "99", "--out", str(out)], capsys)
    assert "prefix 5 exceeds code length 4" in fails(
        ["decode", run, "1", "1", "1", "1", "1"], capsys
    )
    assert "missing.npz" in fails(["decode", run, str(tmp_path / "missing.npz")], capsys)
    assert "missing.png" in fails(["encode", run, str(tmp_path / "missing.png")], capsys)
    assert not list(tmp_path.iterdir())


def test_samples_as_an_array_are_encoded_again(folder, tmp_path, capsys):
    run, out = str(folder / "run"), tmp_path / "s.npy"
    main(["sample", run, "-n", "3", "--codes", "2", "--seed", "1", "--out", str(out)])
    model = load(run, device="cpu")
    x = np.load(out)
    assert np.array_equal(x, model.sample(3, codes=2, seed=1).numpy())
    main(["sample", run, "-n", "3", "--codes", "[1,2]", "--seed", "1", "--out", str(out)])
    columns = np.load(out)
    assert columns.shape == (3, 2, *model.sample_shape)
    assert np.array_equal(columns[:, 1], x)
    np.save(out, x)
    capsys.readouterr()
    main(["encode", run, str(out), "--json"])
    assert json.loads(capsys.readouterr().out)["codes"] == model.encode(x).tolist()
    np.save(out, 2 * np.ones_like(x))
    assert "has values outside [-1, 1]; scale them" in fails(["encode", run, str(out)], capsys)
    both = ["encode", run, str(out), str(tmp_path / "x.png")]
    assert "s.npy is an array, and other files are not" in fails(both, capsys)
