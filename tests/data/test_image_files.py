"""Pictures between files and tensors."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from PIL import Image

from anytime_ar.errors import InputError
from anytime_ar.media.image import read_image, write_image
from anytime_ar.media.sheets import GAP, image_grid


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".png", ".bmp", ".PNG"])
def test_round_trip(tmp_path: Path, channels: int, suffix: str) -> None:
    levels = torch.arange(channels * 16).reshape(channels, 4, 4) * 5
    image = levels / 127.5 - 1
    path = tmp_path / f"picture{suffix}"
    write_image(path, image)
    assert torch.equal(read_image(path), image[None])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_values_beyond_the_range_are_clipped(tmp_path: Path) -> None:
    write_image(tmp_path / "x.png", torch.tensor([[[-3.0, 3.0], [-1.0, 1.0]]]))
    assert read_image(tmp_path / "x.png").flatten().tolist() == [-1, 1, -1, 1]


def test_read_converts(tmp_path: Path, make_picture) -> None:
    make_picture(0, size=(9, 6), mode="RGB").save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png", channels=1, size=3).shape == (1, 1, 3, 3)
    assert read_image(tmp_path / "x.png").shape == (1, 3, 6, 9)
    assert read_image(tmp_path / "x.png", channels=4, size=(4, 2)).shape == (1, 4, 4, 2)


def test_the_central_rectangle_has_the_proportions_of_the_size(tmp_path: Path) -> None:
    levels = torch.arange(9.0).expand(1, 6, 9) / 127.5 - 1
    write_image(tmp_path / "x.png", levels)
    for size, columns in (((6, 3), slice(3, 6)), ((6, 7), slice(1, 8)), ((6, 9), slice(0, 9))):
        found = read_image(tmp_path / "x.png", size=size)
        torch.testing.assert_close(found, levels[None, ..., columns])


def test_transparency_is_kept_and_composited_over_white_only_where_it_must_be(
    tmp_path: Path,
) -> None:
    image = torch.full((4, 2, 2), -1.0)
    image[3] = torch.tensor([[-1.0, 1.0], [0.0, 1.0]])  # black: clear, opaque, half, opaque
    for name, expected in (("x.png", image), ("x.webp", image)):
        write_image(tmp_path / name, image)
        found = read_image(tmp_path / name, channels=4)[0]
        torch.testing.assert_close(found[3], expected[3], atol=0.005, rtol=0)
    write_image(tmp_path / "x.bmp", image)
    shades = read_image(tmp_path / "x.bmp")[0, 0]
    torch.testing.assert_close(shades, torch.tensor([[1.0, -1], [0, -1]]), atol=0.01, rtol=0)
    write_image(tmp_path / "gray.png", torch.zeros(1, 2, 2))
    assert read_image(tmp_path / "gray.png", channels=4)[0, 3].eq(1).all()


def test_reading_turns_photographs_upright(tmp_path: Path) -> None:
    image = Image.new("L", (2, 2))
    image.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    image.save(tmp_path / "x.png", exif=exif)
    assert read_image(tmp_path / "x.png").flatten().tolist() == [-1, -1, -1, 1]


def test_bad_paths(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.png: no such file; pass the path of an image"):
        read_image(tmp_path / "none.png")
    image = torch.zeros(1, 2, 2)
    with pytest.raises(ValueError, match=r"suffix '\.gif'; use one of \.png, \.jpg"):
        write_image(tmp_path / "x.gif", image)
    with pytest.raises(ValueError, match=r"choose a folder that exists"):
        write_image(tmp_path / "no/x.png", image)
    with pytest.raises(ValueError, match=r"tensor of shape \(2, 2, 2\); pass \[1, H, W\]"):
        write_image(tmp_path / "x.png", torch.zeros(2, 2, 2))


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "x.png"
    write_image(path, torch.ones(1, 2, 2))

    def save(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(InputError, match="No space left on device; what was there is as it was"):
        write_image(path, torch.zeros(1, 2, 2))
    assert list(tmp_path.iterdir()) == [path]
    assert read_image(path).min() == 1.0


def test_grid_places_every_picture() -> None:
    images = torch.arange(5.0)[:, None, None, None].expand(5, 1, 3, 4) / 10
    grid = image_grid(images, columns=3)
    assert grid.shape == (1, 2 * (3 + GAP) - GAP, 3 * (4 + GAP) - GAP)
    for i in range(5):
        top = i // 3 * (3 + GAP)
        left = i % 3 * (4 + GAP)
        assert torch.equal(grid[:, top : top + 3, left : left + 4], images[i])
    assert (grid[:, -3 - GAP :, -4 - GAP :] == 1).all()  # the empty cell
    assert torch.equal(image_grid(images[:1], columns=1), images[0])


def test_grid_refuses() -> None:
    with pytest.raises(ValueError, match=r"columns is 0; pass at least 1"):
        image_grid(torch.zeros(1, 1, 2, 2), 0)
    with pytest.raises(ValueError, match=r"shape \(0, 1, 2, 2\); pass \[N, C, H, W\]"):
        image_grid(torch.zeros(0, 1, 2, 2), 2)
