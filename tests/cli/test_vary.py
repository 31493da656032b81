"""`anytime vary`, and codes that commands are given."""

from __future__ import annotations

import json

import pytest
import torch

from anytime_ar.cli import main
from anytime_ar.codes import load_codes
from anytime_ar.sampling import load
from cli.command_line import beep, names, refused


def codes_of(state, run):
    return load(run, device="cpu").load_state(state).codes


def test_images_codes_and_states_are_varied(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = str(folder / "run")
    main(["sample", run, "-n", "1", "--label", "3", "--out", "one.png", "--save-state", "s"])
    given = codes_of("s", run)
    main(["vary", run, "s", "--keep", "2", "-n", "3", "--seed", "5", "--save-state", "varied"])
    assert "variations.png: 3 samples of 4 of 4 codes" in capsys.readouterr().out
    expected = load(run, device="cpu").vary(given, keep=2, n=3, seed=5, label="3").codes
    assert torch.equal(codes_of("varied", run), expected)
    main(["encode", run, "one.png", "-o", "one.npz"])
    encoded = load_codes("one.npz").codes
    for file in ("one.png", "one.npz"):
        main(["vary", run, file, "--keep", "3", "--codes", "4", "--save-state", "varied"])
        varied = codes_of("varied", run)
        assert varied.shape == (8, 4)
        assert torch.equal(varied[:, :3], encoded[:, :3].expand(8, -1))
    assert "keep=5 is outside 0..4" in refused(["vary", run, "one.png", "--keep", "5"], capsys)[-1]
    assert "cannot read none.png" in refused(["vary", run, "none.png", "--keep", "1"], capsys)[-1]
    assert "required: --keep" in refused(["vary", run, "one.png"], capsys)[-1]


def test_sounds_are_varied_if_they_fit_one_sample(sounds, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    beep(tmp_path / "short.wav", 0.03)
    main(["vary", sounds, "short.wav", "--keep", "1", "-n", "2", "--out", "a.wav"])
    assert {"a/0.wav", "a/1.wav"} <= set(names(tmp_path))
    beep(tmp_path / "long.wav", 0.1)
    assert (
        "long.wav is longer than a sample"
        in refused(["vary", sounds, "long.wav", "--keep", "1"], capsys)[-1]
    )


@pytest.mark.parametrize(("option", "rows"), [("[3,-1,5]", 1), ("[[3,-1,5],[1,2,3]]", 2)])
def test_samples_have_the_codes_that_they_are_given(option, rows, folder, tmp_path, capsys):
    run, state = str(folder / "run"), tmp_path / "s"
    command = ["sample", run, "-n", "2", "--seed", "1", "--out", str(tmp_path / "a.png")]
    main([*command, "--fixed-codes", option, "--save-state", str(state)])
    given = torch.tensor(json.loads(option)).view(rows, 3)
    expected = load(run, device="cpu").sample_codes(2, seed=1, fixed_codes=given)
    assert torch.equal(codes_of(state, run), expected)
    wrong = [*command, "--fixed-codes", "[8]"]
    assert "fixed_codes: code 8 at row 0, position 0 is out of range" in refused(wrong, capsys)[-1]
