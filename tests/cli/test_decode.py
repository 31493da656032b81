"""`anytime decode`: windows of a sound as a picture."""

from __future__ import annotations

from PIL import Image

from anytime_ar.cli import main
from cli.command_line import beep


def test_windows_of_a_long_sound_as_a_picture(sounds, tmp_path, capsys):
    codes, out = tmp_path / "a.npz", tmp_path / "a.png"
    main(["encode", sounds, str(beep(tmp_path / "a.wav", 0.1)), "-o", str(codes)])
    capsys.readouterr()
    main(["decode", sounds, str(codes), "--columns", "4", "--out", str(out)])
    assert "a.png: 4 windows from 4 of 4 codes" in capsys.readouterr().out
    with Image.open(out) as picture:
        assert picture.size == (4 * 162 - 2, 96)
