"""The command line as a user meets it: every command on a tiny model, one line for mistakes."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from anytime_ar.bundle.card import Card
from anytime_ar.bundle.curve import Curve
from anytime_ar.bundle.format import build_bundle, load_bundle, save_bundle
from anytime_ar.cli import main
from anytime_ar.cli.main import COMMANDS
from anytime_ar.cli.parser import config_names, config_path
from anytime_ar.codes import load_codes
from anytime_ar.sampling import DecodeBatch, load
from caches import make_cache_with_kernel

TINY = [
    "--autoencoder.code_length=4",
    "--autoencoder.quantizer.vocabulary=8",
    "--autoencoder.network.widths=[4,8]",
    "--autoencoder.network.blocks=0",
    "--autoencoder.network.hidden=8",
    "--autoencoder_training.steps=6",
    "--autoencoder_training.batch_size=16",
    "--autoencoder_training.codebook_init_samples=32",
    "--prior.layers=1",
    "--prior.width=8",
    "--prior.heads=2",
    "--prior_training.steps=4",
    "--prior_training.augmented_copies=1",
    "--feature_extractor.steps=10",
    "--feature_extractor.width=4",
    "--feature_extractor.num_features=8",
    "--device=cpu",
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Measured times stay out of the home of whoever runs the tests."""
    monkeypatch.setenv(
        "XDG_CACHE_HOME", str(make_cache_with_kernel(tmp_path_factory.mktemp("cache")))
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny run and its features, trained through the command line."""
    folder = tmp_path_factory.mktemp("cli")
    main(["train", "digits", *TINY, "--out", str(folder / "run")])
    main(["train", "digits", *TINY, "--prior", "null", "--out", str(folder / "codec")])
    main(["train-classifier", "digits", *TINY, "--out", str(folder / "features")])
    return folder


RATE, WINDOW = 8000, 256


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> str:
    """A tiny model of sounds with random weights, as trained on clips of one peak."""
    values = {
        "name": "beeps",
        "data": {
            "name": "none",
            "sample_shape": (1, WINDOW),
            "sample_rate": RATE,
            "normalize": "peak",
        },
        "autoencoder": {
            "code_length": 4,
            "code_width": 2,
            "quantizer": {"vocabulary": 8},
            "network": {"patch": 4, "widths": [4, 8], "blocks": 0, "hidden": 8},
        },
        "prior": {"layers": 1, "width": 8, "heads": 2},
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bundle = build_bundle(Card.parse(values, origin="test"))
        bundle.autoencoder.quantizer.get_buffer("codebooks").normal_()
    folder = tmp_path_factory.mktemp("sounds") / "beeps"
    save_bundle(bundle, folder)
    return str(folder)


def beep(path: Path, seconds: float, *, rate: int = RATE, level: float = 0.2) -> Path:
    """A stereo file whose mean has that peak."""
    wave = level * np.sin(np.arange(round(seconds * rate)) * 3000 / rate)
    soundfile.write(path, np.stack([wave, wave], axis=1), rate, subtype="FLOAT")
    return path


def wave_of(path: Path) -> torch.Tensor:
    """float32 [n]."""
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == RATE
    return torch.from_numpy(samples)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str], lines: int = 1) -> str:
    """The one line that a mistake gives; checks that it is one, and the exit code 2. More lines if
    it has details."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert printed.out == ""
    assert len(printed.err.splitlines()) == lines
    assert printed.err.startswith("anytime: ")
    return printed.err.removesuffix("\n")


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
    assert "deadline_s=1e-09 is too short: 1 code of 2 samples take" in fails(
        [*sample, "--deadline-s", "1e-9"], capsys
    )
    assert "deadline_s=-1.0 is no time to draw in" in fails([*sample, "--deadline-s=-1"], capsys)


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


def test_bench_speed(folder, tmp_path, capsys):
    run, out = str(folder / "run"), tmp_path / "bench"
    main(["bench", run, "--batch-sizes", "[1,2]", "--rounds", "1", "--out", str(out)])
    printed = capsys.readouterr().out
    assert "int8 portable products only" in printed
    assert "1 rows: 4 codes take" in printed
    assert "2 rows: first preview after" in printed
    assert json.loads((out / "speed.json").read_text())["code_length"] == 4
    with Image.open(out / "speed.png") as picture:
        assert picture.width > 100


def test_bench_deadlines_beside_a_neighbour(folder, tmp_path, capsys):
    bench = ["bench", str(folder / "run"), "deadlines", "--draws", "3", "--busy-processes", "1"]
    main([*bench, "--json", "--out", str(tmp_path / "bench")])
    figures = json.loads(capsys.readouterr().out)
    assert figures == json.loads((tmp_path / "bench" / "deadlines.json").read_text())
    assert [row["draws"] for row in figures["deadlines"]] == [3] * 8
    assert multiprocessing.active_children() == []
    assert "choose from" in fails(["bench", str(folder / "run"), "sped"], capsys)


def test_a_neighbour_ends_with_the_benchmark_that_was_killed(tmp_path):
    """What keeps a core busy must not outlive its benchmark."""
    script = (
        "import time\n"
        "from anytime_ar.cli.bench import _busy_processes\n"
        "if __name__ == '__main__':\n"
        "    with _busy_processes(1) as neighbours:\n"
        "        print(neighbours[0].pid, flush=True)\n"
        "        time.sleep(3600)\n"
    )
    (tmp_path / "busy.py").write_text(script)
    command = [sys.executable, str(tmp_path / "busy.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as benchmark:
        assert benchmark.stdout is not None
        neighbour = int(benchmark.stdout.readline())
        assert runs(neighbour)
        benchmark.kill()
    for _ in range(6000):
        if not runs(neighbour):
            return
        time.sleep(0.05)
    os.kill(neighbour, signal.SIGKILL)
    pytest.fail("the neighbour lives on")


def runs(process: int) -> bool:
    """Whether a process runs; one that has ended and was not asked for yet does not."""
    shown = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip()[:1] not in ("", "Z")


def test_refine_by_codes(folder, tmp_path, capsys):
    run, out, state = str(folder / "run"), tmp_path / "samples.png", tmp_path / "draw.state"
    main(["sample", run, "-n", "2", "--codes", "1", "--save-state", str(state), "--out", str(out)])
    main(["refine", run, str(state), "--codes", "3", "--save-state", str(state), "--out", str(out)])
    assert "2 samples of 3 of 4 codes" in capsys.readouterr().out
    assert "this state has 3 codes, and 2 were asked for" in fails(
        ["refine", run, str(state), "--codes", "2", "--out", str(out)], capsys
    )
    assert "belongs to another model" in fails(["refine", "mnist", str(state)], capsys)


def test_sample_prints_json_with_the_seed_that_repeats_it(folder, tmp_path, capsys):
    run, first, second = str(folder / "run"), tmp_path / "1.png", tmp_path / "2.png"
    main(["sample", run, "-n", "4", "--json", "--out", str(first)])
    figures = json.loads(capsys.readouterr().out)
    assert figures["codes"] == figures["code_length"] == 4
    main(["sample", run, "-n", "4", "--seed", str(figures["seed"]), "--out", str(second)])
    assert first.read_bytes() == second.read_bytes()


def test_encode_prints_codes_and_decode_makes_pictures_of_any_prefix(folder, tmp_path, capsys):
    run = str(folder / "run")
    main(["sample", run, "-n", "1", "--seed", "0", "--out", str(tmp_path / "one.png")])
    capsys.readouterr()
    codes_file = tmp_path / "one.npz"
    main(["encode", run, str(tmp_path / "one.png"), "-o", str(codes_file)])
    printed = capsys.readouterr().out.split()
    assert len(printed) == 4
    model = load(run, device="cpu")
    for k in range(1, 5):
        out = tmp_path / f"{k}.png"
        main(["decode", run, str(codes_file), "--codes", str(k), "--out", str(out)])
        main(["decode", run, *printed[:k], "--out", str(tmp_path / "numbers.png")])
        assert out.read_bytes() == (tmp_path / "numbers.png").read_bytes()
        expected = model.decode(torch.tensor([[int(code) for code in printed[:k]]]))[0, 0]
        with Image.open(out) as picture:
            values = torch.from_numpy(np.array(picture.convert("L"), dtype=np.float32))
        assert (values[:8, :8] - (expected + 1) * 127.5).abs().max() <= 0.51


def test_a_long_sound_becomes_codes_and_a_sound_again(sounds, tmp_path, capsys):
    speech = beep(tmp_path / "speech.flac.wav", 0.5, rate=16_000)
    codes, out = tmp_path / "speech.npz", tmp_path / "back.flac"
    main(["encode", sounds, str(speech), "-o", str(codes)])
    printed = capsys.readouterr().out
    assert printed.endswith("0.50 s, 18 windows of 4 codes, 216 bits, 432 bits per second\n")
    file = load_codes(codes)
    assert file.windowed_audio is not None
    assert (file.windowed_audio.samples, file.windowed_audio.overlap, len(file.codes)) == (
        4000,
        32,
        18,
    )
    assert file.windowed_audio.gain == pytest.approx(0.95 / 0.2, rel=0.01)
    model = load(sounds, device="cpu")
    for k in (1, 4):
        main(["decode", sounds, str(codes), "--codes", str(k), "--out", str(out)])
        assert f"back.flac: 0.50 s from {k} of 4 codes" in capsys.readouterr().out
        wave = wave_of(out)
        assert len(wave) == 4000
        expected = model.decode(file.codes[1:2, :k])[0, 0] / file.windowed_audio.gain
        assert expected.abs().max() > 0.01
        assert (wave[224 + 32 : 224 + 224] - expected[32:224]).abs().max() < 1e-4


def test_codes_of_a_sound_as_numbers(sounds, tmp_path, capsys):
    speech = str(beep(tmp_path / "a.wav", 0.06))
    main(["encode", sounds, speech])
    rows = [row.split() for row in capsys.readouterr().out.splitlines()]
    assert [len(row) for row in rows] == [4, 4]
    main(["encode", sounds, speech, "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert [[str(code) for code in row] for row in figures["codes"]] == rows
    assert (figures["windows"], figures["bits"], figures["seconds"]) == (2, 24, 0.06)
    out = tmp_path / "numbers.wav"
    main(["decode", sounds, *rows[0], "--out", str(out)])
    expected = load(sounds, device="cpu").decode(torch.tensor([[int(code) for code in rows[0]]]))
    assert (wave_of(out) - expected[0, 0]).abs().max() < 1e-4


def test_several_short_sounds_are_rows(sounds, tmp_path, capsys):
    first, second = beep(tmp_path / "1.wav", 0.02), beep(tmp_path / "2.wav", 0.032, level=0.1)
    codes, out = tmp_path / "rows.npz", tmp_path / "back.wav"
    main(["encode", sounds, str(first), str(second), "-o", str(codes)])
    assert "rows.npz: 0.06 s, 2 clips of 4 codes, 24 bits" in capsys.readouterr().out
    assert load_codes(codes).windowed_audio is None
    main(["decode", sounds, str(codes), "--codes", "2", "--json", "--out", str(out)])
    figures = json.loads(capsys.readouterr().out)
    folder, sheet = str(tmp_path / "back"), str(tmp_path / "back.png")
    assert (figures["out"], figures["sheet"], figures["clips"]) == (folder, sheet, 2)
    assert names(tmp_path / "back") == ["0.wav", "1.wav"]
    assert len(wave_of(tmp_path / "back" / "1.wav")) == WINDOW
    long = beep(tmp_path / "long.wav", 0.04)
    assert "long.wav: lasts 0.04 s, and of several clips each has to fit into 0.03 s" in fails(
        ["encode", sounds, str(first), str(long)], capsys
    )


def test_loudness_is_left_alone_where_training_left_it(sounds, tmp_path):
    bundle = load_bundle(Path(sounds))
    data = bundle.card.data.model_copy(update={"normalize": "none"})
    card = bundle.card.model_copy(update={"data": data})
    save_bundle(replace(bundle, card=card), tmp_path / "other")
    codes = tmp_path / "a.npz"
    main(["encode", str(tmp_path / "other"), str(beep(tmp_path / "a.wav", 0.1)), "-o", str(codes)])
    sound = load_codes(codes).windowed_audio
    assert sound is not None
    assert sound.gain == 1


def test_samples_of_sounds(sounds, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = load(sounds, device="cpu")
    main(["sample", sounds, "-n", "1", "--seed", "3"])
    assert capsys.readouterr().out.startswith("samples.wav: 1 samples of 4 of 4 codes")
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


def test_refine_and_decode_have_their_default_files(sounds, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["sample", sounds, "-n", "2", "--codes", "1", "--save-state", "s", "--out", "first.png"])
    main(["refine", sounds, "s"])
    assert names(tmp_path) == ["first.png", "s", "samples.png", "samples/0.wav", "samples/1.wav"]
    main(["decode", sounds, "1", "2"])
    assert (tmp_path / "decoded.wav").is_file()
    run = str(folder / "run")
    main(["sample", run, "-n", "2", "--codes", "1", "--save-state", "s", "--out", "second.png"])
    (tmp_path / "samples.png").unlink()
    main(["refine", run, "s"])
    main(["decode", run, "1", "2"])
    assert {"samples.png", "decoded.png"} <= set(names(tmp_path))
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_windows_of_a_long_sound_as_a_picture(sounds, tmp_path, capsys):
    codes, out = tmp_path / "a.npz", tmp_path / "a.png"
    main(["encode", sounds, str(beep(tmp_path / "a.wav", 0.1)), "-o", str(codes)])
    capsys.readouterr()
    main(["decode", sounds, str(codes), "--columns", "4", "--out", str(out)])
    assert "a.png: 4 windows from 4 of 4 codes" in capsys.readouterr().out
    with Image.open(out) as picture:
        assert picture.size == (4 * 162 - 2, 96)


def test_mistakes_with_sounds(sounds, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    missing = ["encode", sounds, "none.wav"]
    assert "none.wav: no such file; pass the path of a sound" in fails(missing, capsys)
    Path("text.wav").write_text("text")
    assert "does not decode as a sound (Format not recognised)" in fails(
        ["encode", sounds, "text.wav"], capsys
    )
    assert "cannot write no/x.npz: there is no folder no; create it first" in fails(
        ["encode", sounds, "text.wav", "-o", "no/x.npz"], capsys
    )
    assert "x.mp3: cannot write clips with suffix '.mp3'; use one of .wav, .flac, .ogg" in fails(
        ["sample", sounds, "--out", "x.mp3"], capsys
    )
    assert "x.wav: cannot write images with suffix '.wav'; use one of .png" in fails(
        ["sample", str(folder / "run"), "--out", "x.wav"], capsys
    )
    Path("taken").write_text("")
    Path("taken.png").write_text("")
    assert "cannot create folder taken: File exists; choose another --out" in fails(
        ["sample", sounds, "-n", "2", "--out", "taken.wav"], capsys
    )
    assert Path("taken.png").read_text() == ""
    beep(tmp_path / "a.wav", 0.1)
    main(["encode", sounds, "a.wav", "-o", "a.npz"])
    capsys.readouterr()
    assert (
        "codes of a sound at 8000 Hz in windows of 256 samples, but this model's samples are "
        "(1, 8, 8); use the model that encoded it"
    ) in fails(["decode", str(folder / "run"), "a.npz"], capsys)
    assert "there is no folder no; create it first" in fails(
        ["decode", sounds, "a.npz", "--out", "no/x.wav"], capsys
    )


def test_evaluate_writes_the_curve_and_attaches_it(folder, tmp_path, capsys):
    arguments = ["evaluate", str(folder / "run"), "--feature-extractor", str(folder / "features")]
    arguments += ["--unordered", str(folder / "codec"), "--num-samples", "200", "--codes", "[1,4]"]
    main([*arguments, "--out", str(tmp_path), "--save-curve", "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert [point["codes"] for point in figures["points"]] == [1, 4]
    assert json.loads((tmp_path / "curve.json").read_text()) == figures
    for picture in ("curve.png", "codes.png", "samples.png", "changes.png"):
        assert (tmp_path / picture).stat().st_size > 1000
    curve = load(folder / "run", device="cpu").curve
    assert curve is not None
    assert curve.model_dump(mode="json") == figures
    main([*arguments, "--out", str(tmp_path)])
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines()[:6])) <= 80
    assert "unord." in table


def test_compare_sets_curves_side_by_side(folder, tmp_path, capsys):
    every, two, out = tmp_path / "every", tmp_path / "two", tmp_path / "compared"
    model = folder / "run" / "bundle"
    for place, codes in ((every, "[1,2,3,4]"), (two, "[1,2]")):
        options = [f"--feature-extractor={folder / 'features'}", f"--out={place}", "--device=cpu"]
        main(["evaluate", str(model), "--num-samples=40", f"--codes={codes}", *options])
    capsys.readouterr()
    models = [f"every={every}", f"two={two / 'curve.json'}"]
    main(["compare", *models, f"--fixed-length=[{two}]", f"--out={out}"])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines()[:-1])) <= 80  # but for the path
    assert names(out) == ["comparison.json", "comparison.md", "comparison.png"]
    main(["compare", *models, f"--fixed-length=[{two}]", f"--out={out}", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((out / "comparison.json").read_text())
    fd = Curve.read(two / "curve.json").points[1].fd_sample
    assert told["matches"] == [{"bits": 6.0, "fixed_length_fd": fd, "fd": fd}]
    # Of a model that has none, and of none at all; a folder of a model is no place for a curve.
    assert "no curve; measure it with" in fails(
        ["compare", f"a={folder / 'codec'}", f"b={two}"], capsys
    )
    assert "holds a model; leave --out" in fails(
        ["evaluate", str(model), *options[:1], f"--out={model}"], capsys
    )
    assert "'runs' is no NAME=PATH" in fails(["compare", "runs", f"b={two}"], capsys)


def test_several_processes_find_what_one_finds(folder, tmp_path, capsys):
    """With labels, a number of samples that is no multiple of anything, and both baselines."""
    arguments = ["evaluate", str(folder / "run"), "--feature-extractor", str(folder / "features")]
    arguments += ["--unordered", str(folder / "codec"), "--num-samples", "333", "--codes", "[1,4]"]
    main([*arguments, "--out", str(tmp_path / "one"), "--json"])
    expected = json.loads(capsys.readouterr().out)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    done = subprocess.run(
        [*launch, "-m", "anytime_ar", *arguments, "--out", str(tmp_path / "two"), "--json"],
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)  # of one of them
    for point in (*expected["points"], *found["points"]):
        assert point.pop("ms") > 0
    assert found == expected
    assert Curve.read(tmp_path / "two" / "curve.json").num_samples == 333


class Pixels(torch.nn.Module):
    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return img.float().flatten(1)[:, :: 7 if return_features else 1]


def test_evaluate_takes_features_of_others(folder, tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Pixels()).save(str(tmp_path / "others.pt"))
    arguments = [
        "evaluate",
        str(folder / "run"),
        "--feature-extractor",
        str(tmp_path / "others.pt"),
    ]
    main([*arguments, "--num-samples", "60", "--codes", "[4]", "--out", str(tmp_path), "--json"])
    (point,) = json.loads(capsys.readouterr().out)["points"]
    assert point["fd_sample"] > 0
    assert 0 <= point["sample_metrics"]["precision"] <= 1
    assert "is no TorchScript file" in fails(
        [
            "evaluate",
            str(folder / "run"),
            "--feature-extractor",
            str(folder / "run" / "config.yaml"),
        ],
        capsys,
    )


def test_attaching_a_curve_keeps_how_codes_were_chosen(folder, tmp_path, capsys):
    run = shutil.copytree(folder / "run", tmp_path / "run")
    plain = load(run, device="cpu").sample_codes(8, seed=0)
    evaluate = [
        "evaluate",
        str(run),
        "--feature-extractor",
        str(folder / "features"),
        "--num-samples",
        "50",
    ]
    chosen = ["--guidance", "[2, 3]", "--temperature", "0.5"]
    main([*evaluate, *chosen, "--codes", "[4]", "--save-curve", "--json"])
    params = json.loads(capsys.readouterr().out)["sampling_params"]
    assert params == {"guidance": [2.0, 3.0], "temperature": 0.5}
    model = load(run, device="cpu")
    codes = model.sample_codes(8, seed=0)
    assert not torch.equal(codes, plain)
    assert torch.equal(codes, model.sample_codes(8, seed=0, guidance=[2.0, 3.0], temperature=0.5))
    assert torch.equal(model.sample_codes(8, seed=0, guidance=1.0, temperature=1.0), plain)
    main(["sample", str(run), "-n", "8", "--seed", "0", "--out", str(tmp_path / "own.png")])
    main(
        ["sample", str(run), "-n", "8", "--seed", "0", *chosen, "--out", str(tmp_path / "same.png")]
    )
    assert (tmp_path / "own.png").read_bytes() == (tmp_path / "same.png").read_bytes()


def test_features_may_tell_other_labels_apart(folder, tmp_path, capsys):
    """As the speaker of a spoken digit; here, whether a digit is odd."""
    digits = load_digits()
    images = []
    for pixels in digits.images[:300]:
        stream = io.BytesIO()
        Image.fromarray((pixels * 15).astype("uint8")).save(stream, "png")
        images.append({"bytes": stream.getvalue(), "path": None})
    names = {"digit": [str(i) for i in range(10)], "parity": ["even", "odd"]}
    columns = {"digit": digits.target[:300].tolist(), "parity": (digits.target[:300] % 2).tolist()}
    types = {key: datasets.ClassLabel(names=names[key]) for key in names}
    made = datasets.Dataset.from_dict(
        {"image": images, **columns}, datasets.Features({"image": datasets.Image(), **types})
    )
    made.to_parquet(tmp_path / "digits.parquet")
    data = [f"--data.name={tmp_path / 'digits.parquet'}", "--data.label_key=parity"]
    main(
        [
            "train-classifier",
            "digits",
            *TINY,
            *data,
            "--feature_extractor.steps=60",
            f"--out={tmp_path / 'odd'}",
        ]
    )
    capsys.readouterr()
    evaluate = [
        "evaluate",
        str(folder / "run"),
        "--feature-extractor",
        str(tmp_path / "odd"),
        "--num-samples",
    ]
    evaluate += ["50", "--data", str(tmp_path / "digits.parquet"), "--codes", "[4]", "--json"]
    evaluate += ["--out", str(tmp_path / "curve")]
    main([*evaluate, "--label-key", "parity"])
    figures = json.loads(capsys.readouterr().out)
    assert figures["label_accuracy_test"] > 0.7
    assert figures["points"][0]["label_accuracy_reconstruction"] is not None
    assert (
        figures["points"][0]["label_accuracy_sample"] is None
    )  # the model was not asked for odd ones
    main([*evaluate, "--label-key", "digit"])  # which these features cannot read
    assert json.loads(capsys.readouterr().out)["label_accuracy_test"] is None
    assert "label_key" in fails([*evaluate, "--label-key", "colour"], capsys)


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
    assert "autoencoder.code_length" in fails(
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


def test_a_curve_is_attached_to_a_folder_only(capsys):
    assert "'mnist' is not a folder" in fails(["evaluate", "mnist", "--save-curve"], capsys)
    coarse = ["evaluate", "mnist", "--save-curve", "--precision", "int8"]
    assert "not those in int8; leave --save-curve or --precision out" in fails(coarse, capsys)


def test_an_existing_run_is_not_overwritten(folder, capsys):
    run = ["train", "digits", *TINY, "--out", str(folder / "run")]
    assert "resume" in fails(run, capsys)
    assert "prior_training.steps was 4, is 5" in fails(
        [*run, "--resume", "--prior_training.steps=5"], capsys, lines=2
    )


def test_the_installed_command_ends_with_one_line_and_code_2():
    command = [str(Path(sys.executable).parent / "anytime"), "sample", "no-such-model"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("anytime: no model 'no-such-model'")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "config", "noun"),
    [([], "digits", "images"), (["--audio"], "sounds", "clips")],
)
def test_demo(tmp_path, monkeypatch, capsys, options, config, noun):
    """The whole of it, with training cut to a few steps."""
    values = yaml.safe_load(config_path(config).read_text(encoding="utf-8"))
    values["autoencoder_training"] |= {"steps": 4, "codebook_init_samples": 128, "batch_size": 16}
    values["prior"] |= {"layers": 1, "width": 8, "heads": 2}
    values["prior_training"] |= {"steps": 4, "augmented_copies": 1}
    values["feature_extractor"] |= {"steps": 10, "width": 4}
    values["data"]["validation_fraction"] = 0.02  # STOI of 180 clips takes a minute
    small = tmp_path / "small.yaml"
    small.write_text(yaml.safe_dump(values))
    asked = []
    monkeypatch.setattr("anytime_ar.cli.demo.config_path", lambda name: asked.append(name) or small)
    monkeypatch.setattr("anytime_ar.cli.demo.NUM_SAMPLES", {config: 50})
    out = tmp_path / "out"
    main(["demo", *options, "--out", str(out), "--device", "cpu"])
    assert asked == [config]
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines()[:-1])) <= 80  # the last names a folder
    assert f"{out}: {noun} as samples and reconstructions" in told
    for name in ("curve.json", "curve.png", "samples.png", "reconstructions.png"):
        assert (out / name).is_file()
    unordered = load(out / "unordered", device="cpu").bundle.card.autoencoder.quantizer
    assert unordered.init == "kmeans"
    if config == "sounds":
        waves = sorted((out / "samples").iterdir())
        assert len(waves) == 8 * 10
        assert waves[0].name == "0-k03.wav"
        assert soundfile.info(waves[0]).duration == pytest.approx(0.512)
