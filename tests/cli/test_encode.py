"""`anytime encode`: codes of images and sounds."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anytime_ar.bundle.format import load_bundle, save_bundle
from anytime_ar.cli import main
from anytime_ar.codes import load_codes
from anytime_ar.sampling import load
from cli.command_line import RATE, WINDOW, beep, fails, names, wave_of


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


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ([(8, 8)], ""),
        ([(80, 80)], "0.png: 80 x 80, resized to 8 x 8 for this model"),
        (
            [(8, 8), (8, 16)],
            "1.png: 8 x 16, cropped to the central 8 x 8 for this model; changed: 1 of 2 images",
        ),
        (
            [(30, 20), (9, 9), (8, 8), (4, 4)],
            "0.png: 30 x 20, cropped to the central 20 x 20 and resized to 8 x 8 for this model; "
            "changed: 3 of 4 images",
        ),
    ],
)
def test_images_of_another_size_are_told_once(folder, tmp_path, capsys, monkeypatch, sizes, told):
    monkeypatch.chdir(tmp_path)
    for i, size in enumerate(sizes):
        Image.new("L", size, 99).save(f"{i}.png")
    files = [f"{i}.png" for i in range(len(sizes))]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        main(["encode", str(folder / "run"), *files])
    assert [str(warning.message) for warning in caught] == ([told] if told else [])
    assert len(capsys.readouterr().out.splitlines()) == len(sizes)


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
    long = beep(tmp_path / "long.wav", (WINDOW + 1) / RATE)
    assert "long.wav: has 257 samples at 8000 Hz, and of several clips each may have 256" in fails(
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
