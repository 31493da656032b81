"""`anytime decode`: windows of a sound as a picture, and codes of no sample."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from anytime_ar.cli import main
from anytime_ar.codes import save_codes
from cli.command_line import beep


def test_windows_of_a_long_sound_as_a_picture(sounds, tmp_path, capsys):
    codes, out = tmp_path / "a.npz", tmp_path / "a.png"
    main(["encode", sounds, str(beep(tmp_path / "a.wav", 0.1)), "-o", str(codes)])
    capsys.readouterr()
    main(["decode", sounds, str(codes), "--columns", "4", "--out", str(out)])
    assert "a.png: 4 windows from 4 of 4 codes" in capsys.readouterr().out
    with Image.open(out) as picture:
        assert picture.size == (4 * 162 - 2, 96)


@pytest.mark.parametrize("out", ["a.png", "a.wav"])
def test_codes_of_no_sample(out, sounds, tmp_path, capsys):
    codes = tmp_path / "a.npz"
    none = torch.zeros(0, 3, dtype=torch.int64)
    save_codes(codes, none, model=sounds, code_length=4, vocabulary=8)
    with pytest.raises(SystemExit) as ended:
        main(["decode", sounds, str(codes), "--out", str(tmp_path / out)])
    assert ended.value.code == 2
    expected = f"anytime: {codes} holds codes of no sample; encode at least one\n"
    assert capsys.readouterr().err == expected
    assert [*tmp_path.iterdir()] == [codes]
