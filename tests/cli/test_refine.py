"""`anytime refine`: samples that go on."""

from __future__ import annotations

from anytime_ar.cli import main
from cli.command_line import fails, names


def test_refine_by_codes(folder, tmp_path, capsys):
    run, out, state = str(folder / "run"), tmp_path / "samples.png", tmp_path / "draw.state"
    main(["sample", run, "-n", "2", "--codes", "1", "--save-state", str(state), "--out", str(out)])
    main(["refine", run, str(state), "--codes", "3", "--save-state", str(state), "--out", str(out)])
    assert "2 samples of 3 of 4 codes" in capsys.readouterr().out
    assert "this state has 3 codes, and 2 were asked for" in fails(
        ["refine", run, str(state), "--codes", "2", "--out", str(out)], capsys
    )
    assert "belongs to another model" in fails(["refine", "mnist", str(state)], capsys)


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
