"""Pictures of every mode, with any metadata: the pixels that are there, or one clear error."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageDraw

from anytime_ar.data import DataConfig, load_data
from anytime_ar.errors import DataError
from anytime_ar.media.image import decode_image, open_image, read_image

RAMP = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(content: bytes, **options: Any) -> np.ndarray:
    return decode_image(content, "x", **options)


def drawing(level: int, mode: str = "RGBA") -> Image.Image:
    """A stroke of one level on a transparent canvas of the same."""
    clear, drawn = ((level,) * (len(mode) - 1) + (alpha,) for alpha in (0, 255))
    image = Image.new(mode, (28, 28), clear)
    ImageDraw.Draw(image).line([4, 4, 22, 22], fill=drawn, width=3)
    return image


# Transparency


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize(("level", "canvas"), [(0, 255), (255, 0), (128, 255), (240, 0)])
def test_drawings_on_a_transparent_canvas(mode: str, kind: str, level: int, canvas: int) -> None:
    content = saved(drawing(level, mode), kind, **({"lossless": True} if kind == "WEBP" else {}))
    read = pixels(content, channels=1)
    assert read[0, 0, 0] == canvas
    assert read[0, 13, 13] == level


@pytest.mark.parametrize(("background", "canvas"), [("white", 255), ("black", 0)])
def test_the_background_can_be_chosen(tmp_path: Path, background: Any, canvas: int) -> None:
    for i in range(9):
        drawing(128).save(tmp_path / f"{i}.png")
    config = DataConfig(name=str(tmp_path), background=background, validation_fraction=0.3)
    batch = next(load_data(config).train.batches(1)).data[0]
    expected = torch.tensor(canvas / 127.5 - 1)
    assert batch.shape == (3, 28, 28)
    assert (batch[:, 0, 0] == expected).all()
    alone = read_image(tmp_path / "0.png", background=background)
    assert torch.equal(alone[0], batch)


def test_half_transparent_pixels_are_mixed() -> None:
    image = Image.new("RGBA", (2, 2), (0, 100, 200, 128))
    assert pixels(saved(image))[:, 0, 0].tolist() == [127, 177, 227]


def test_a_palette_with_transparency() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([9, 9, 9, 10, 20, 30])
    image.putpixel((0, 0), 0)
    for kind in ("PNG", "GIF"):
        read = pixels(saved(image, kind, transparency=0))
        assert read[:, 0, 0].tolist() == [255] * 3
        assert read[:, 1, 1].tolist() == [10, 20, 30]
    read = pixels(saved(image, "PNG", transparency=bytes([0, 128])))
    assert read[:, 1, 1].tolist() == [132, 137, 142]


def test_one_level_that_is_declared_clear() -> None:
    ramp = Image.fromarray(RAMP)
    read = pixels(saved(ramp, transparency=int(RAMP[0, 3])))
    assert read.shape == (1, 8, 8)
    assert read[0, 0, 3] == 255
    assert (read[0] != RAMP).sum() == 1
    colour = Image.merge("RGB", [ramp] * 3)
    assert pixels(saved(colour, transparency=(int(RAMP[0, 3]),) * 3))[:, 0, 3].tolist() == [255] * 3
    deep = Image.fromarray(RAMP.astype(np.uint16) * 257)
    assert pixels(saved(deep, transparency=int(RAMP[0, 3]) * 257))[0, 0, 3] == 255


def test_opaque_pictures_are_as_without_alpha() -> None:
    ramp = Image.fromarray(RAMP)
    opaque = Image.new("L", (8, 8), 255)
    assert (pixels(saved(Image.merge("LA", [ramp, opaque])))[0] == RAMP).all()
    assert (pixels(saved(Image.merge("RGBA", [ramp] * 3 + [opaque]))) == RAMP).all()


def test_pictures_that_are_transparent_all_over() -> None:
    clear = Image.new("L", (8, 8), 0)
    hidden = Image.merge("LA", [Image.fromarray(RAMP), clear])
    with pytest.raises(DataError, match="x: is transparent all over, and holds pixels beneath"):
        pixels(saved(hidden))
    assert (pixels(saved(Image.new("RGBA", (4, 4)))) == 255).all()
    assert (pixels(saved(Image.new("RGBA", (4, 4), (10, 20, 30, 0)))) == 255).all()


# Depths and colours


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    deep = Image.fromarray(RAMP.astype(np.uint16) * 257)
    for kind in ("PNG", "TIFF"):
        read = pixels(saved(deep, kind))
        assert (read[0] == RAMP).all()
    wide = b"P5 8 8 65535\n" + (RAMP.astype(int) * 257).astype(">u2").tobytes()
    assert (pixels(wide)[0] == RAMP).all()
    twelve = b"P5 8 8 4095\n" + (RAMP.astype(int) * 16).astype(">u2").tobytes()
    assert np.abs(pixels(twelve)[0].astype(int) - RAMP).max() <= 1
    big_endian = Image.frombytes("I;16B", (8, 8), (RAMP.astype(int) * 257).astype(">u2").tobytes())
    big_endian.save(tmp_path / "x.tif")
    assert (pixels((tmp_path / "x.tif").read_bytes())[0] == RAMP).all()


def test_one_bit_and_palettes() -> None:
    assert pixels(saved(Image.fromarray(RAMP > 99))).tolist() == [((RAMP > 99) * 255).tolist()]
    gray = Image.fromarray(RAMP).quantize(64)
    assert pixels(saved(gray)).shape == (3, 8, 8)
    assert np.abs(pixels(saved(gray), channels=1)[0].astype(int) - RAMP).max() < 9


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "HSV"])
def test_other_colours_are_converted(mode: str) -> None:
    red = Image.new("RGB", (8, 8), (200, 10, 10))
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(red, *profiles, outputMode="LAB")
    else:
        image = red.convert(mode)
    found = pixels(saved(image, "TIFF")) if mode != "HSV" else decode_image(image, "x")
    assert found.shape == (3, 8, 8)
    assert np.abs(found[:, 0, 0].astype(int) - [200, 10, 10]).max() < 12
    assert decode_image(image, "x", channels=1).shape == (1, 8, 8)


def test_cmyk_of_photographs() -> None:
    red = Image.new("RGB", (16, 16), (200, 10, 10)).convert("CMYK")
    found = pixels(saved(red, "JPEG", quality=95))
    assert np.abs(found[:, 8, 8].astype(int) - [200, 10, 10]).max() < 12


def test_colour_profiles_are_ignored() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    ramp = Image.merge("RGB", [Image.fromarray(RAMP)] * 3)
    for stored in (profile, b"no profile"):
        assert (pixels(saved(ramp, icc_profile=stored)) == RAMP).all()


def test_the_first_frame_of_several() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        content = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        assert pixels(content)[0, 0, 0] >= 250
        assert pixels(content)[1, 0, 0] <= 5


# Metadata


def chunk(name: bytes, content: bytes, check: bool = True) -> bytes:
    crc = zlib.crc32(name + content) if check else 0
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)


def png_with(*chunks: bytes) -> bytes:
    """A picture with chunks after its header."""
    plain = saved(Image.fromarray(RAMP))
    return plain[:33] + b"".join(chunks) + plain[33:]


BOMB = zlib.compress(bytes(1 << 21))
PNGS = {
    "EXIF of nothing": png_with(chunk(b"eXIf", b"")),
    "EXIF of noise": png_with(chunk(b"eXIf", b"Exif\0\0MM\0*" + bytes(range(99)))),
    "EXIF whose tags lie outside": png_with(
        chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\xff\xff\xff\xff\xff\xff")
    ),
    "text without end": png_with(chunk(b"tEXt", b"no end")),
    "compressed text of noise": png_with(chunk(b"zTXt", b"a\0\0noise")),
    "text that is a bomb": png_with(chunk(b"zTXt", b"a\0\0" + BOMB)),
    "much text": png_with(*[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 19)))] * 200),
    "profile of noise": png_with(chunk(b"iCCP", b"a\0\0noise")),
    "resolution of two bytes": png_with(chunk(b"pHYs", b"ab")),
    "gamma of one byte": png_with(chunk(b"gAMA", b"a")),
    "chromaticity of one byte": png_with(chunk(b"cHRM", b"a")),
    "a wrong checksum of text": png_with(chunk(b"tEXt", b"a\0b", check=False)),
    "a chunk nobody knows": png_with(chunk(b"abCd", b"xyz")),
    "frames of nothing": png_with(chunk(b"acTL", b"")),
}


@pytest.mark.parametrize("name", PNGS)
def test_metadata_of_png_is_ignored(name: str) -> None:
    assert (pixels(PNGS[name])[0] == RAMP).all()


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def exif(*entries: bytes, order: bytes = b"II*\0\x08\0\0\0") -> bytes:
    return b"Exif\0\0" + order + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


JPEGS = {
    "EXIF of nothing": segment(0xE1, b"Exif\0\0"),
    "EXIF of noise": segment(0xE1, b"Exif\0\0" + bytes(range(200))),
    "a resolution by zero": segment(
        0xE1, exif(struct.pack("<HHII", 0x011A, 5, 1, 26), struct.pack("<HHII", 0x128, 3, 1, 2))
    ),
    "a tag beyond the end": segment(0xE1, exif(struct.pack("<HHII", 0x0112, 5, 9, 1 << 30))),
    "an orientation of text": segment(0xE1, exif(struct.pack("<HHI4s", 0x0112, 2, 4, b"abc\0"))),
    "an orientation of 99": segment(0xE1, exif(struct.pack("<HHIHH", 0x0112, 3, 1, 99, 0))),
    "a loop of directories": segment(0xE1, exif(struct.pack("<HHII", 0x8769, 4, 1, 8))),
    "a profile in no parts": segment(0xE2, b"ICC_PROFILE\0"),
    "pages of noise": segment(0xE2, b"MPF\0" + bytes(range(99))),
    "blocks of Photoshop": segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x03abc"),
    "XMP of noise": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation='a'"),
    "a comment of bytes": segment(0xFE, bytes(range(256))),
}


@pytest.mark.parametrize("name", JPEGS)
def test_metadata_of_jpeg_is_ignored(name: str) -> None:
    plain = saved(Image.fromarray(RAMP), "JPEG", quality=95)
    found = pixels(plain[:2] + JPEGS[name] + plain[2:])
    assert (found == pixels(plain)).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_are_turned_upright(kind: str, turn: int) -> None:
    from PIL import ImageOps

    image = Image.new("L", (8, 8), 0)
    image.paste(255, (0, 0, 4, 4))
    image.paste(128, (4, 0, 8, 4))
    tags = Image.Exif()
    tags[0x0112] = turn
    content = saved(image, kind, exif=tags)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("L"))
    found = pixels(content, channels=1)[0]
    assert np.abs(found.astype(int) - expected).max() <= 2
    straight = pixels(saved(image, kind), channels=1)[0]
    assert (turn == 1) == (np.abs(found.astype(int) - straight).max() < 50)


# Broken and monstrous files


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM"])
def test_cut_files_are_refused(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    content = saved(Image.fromarray(noise), kind)
    for length in (0, 1, 9, len(content) // 3, len(content) // 2):
        with pytest.raises(DataError, match=r"x: (does not decode|is empty)"):
            pixels(content[:length])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PCX", "JPEG2000"])
@pytest.mark.filterwarnings("ignore")
def test_noise_within_files_gives_a_picture_or_one_error(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1 << 20)
    plain = saved(Image.fromarray(RAMP), kind)
    for seed in range(150):
        generator = np.random.default_rng(seed)
        content = bytearray(plain)
        for _ in range(generator.integers(1, 6)):
            content[generator.integers(len(content))] = generator.integers(256)
        with suppress(DataError):
            found = pixels(bytes(content), size=8)
            assert found.shape in ((1, 8, 8), (3, 8, 8))


def header_of(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    )


@pytest.mark.parametrize("side", [10_000, 20_000, 2**31 - 1])
def test_monstrous_pictures_are_refused(side: int) -> None:
    with pytest.raises(DataError, match=r"x: (is too large|\d+ x \d+ are too many pixels)"):
        pixels(header_of(side, side) + chunk(b"IDAT", BOMB) + chunk(b"IEND", b""))


def test_other_programs_are_not_started() -> None:
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) print\n"
    with pytest.raises(DataError, match="x: is EPS, which is not read; convert it to PNG"):
        open_image(script, "x")
