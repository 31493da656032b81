from __future__ import annotations

import io
import json

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from anytime_ar.errors import BundleError, InputError
from anytime_ar.evaluation import (
    BaselinePoint,
    Baselines,
    Curve,
    CurvePoint,
    PCAPoint,
    contact_sheet,
    draw_curve,
    lossless_codes,
    psnr,
    table,
    write_contact_sheet,
    write_report,
)


def point(codes, fd_sample=1.0, mse=0.1, fd_reconstruction=0.5, ms=2.0):
    return CurvePoint(
        codes=codes,
        bits=6.0 * codes,
        mse=mse,
        psnr=psnr(mse),
        fd_reconstruction=fd_reconstruction,
        fd_sample=fd_sample,
        ms=ms,
    )


def baseline(codes, mse=0.3, fd_sample=50.0):
    return BaselinePoint(
        codes=codes, mse=mse, psnr=psnr(mse), fd_reconstruction=9.0, fd_sample=fd_sample
    )


def curve(points, *, floor=0.15, **baselines):
    return Curve(
        code_length=100,
        vocabulary=64,
        points=points,
        lossless_codes=lossless_codes(points),
        floor=floor,
        floor_samples=10_000,
        samples=10_000,
        test_samples=10_000,
        seed=0,
        baselines=Baselines(**baselines),
    )


@pytest.fixture
def full():
    codes = range(1, 13)
    return curve(
        [point(k, fd_sample=30 / k, mse=0.2 / k) for k in codes],
        unordered=[baseline(k, mse=0.6 / k, fd_sample=400 / k) for k in codes],
        pca=[PCAPoint(codes=k, mse=0.4 / k) for k in codes],
    )


@pytest.mark.parametrize(
    ("distances", "fewest"),
    [
        ([9, 4, 2.0, 2.0], 3),
        ([9, 2.04, 2.0], 2),
        ([9, 2.05, 2.0], 3),
        ([9, 2.0, 3.0], 2),
        ([1.0, 0.0], 2),
        ([None, None], None),
    ],
)
def test_lossless_is_the_fewest_codes_within_two_percent_of_the_best(distances, fewest):
    assert lossless_codes([point(k, d) for k, d in enumerate(distances, 1)]) == fewest


def test_psnr_of_a_range_two_wide():
    assert psnr(4.0) == 0
    assert psnr(0.04) == pytest.approx(20)
    assert psnr(0.0) is None


def test_json_round_trip(full, tmp_path):
    write_report(full, tmp_path / "report")
    path = tmp_path / "report" / "curve.json"
    assert Curve.read(path) == full
    values = json.loads(path.read_text())
    assert set(values["points"][0]) == {
        *("codes", "mse", "psnr", "fd_reconstruction", "fd_sample", "ms", "bits")
    }
    assert values["lossless_codes"] == 12
    assert {p.name for p in path.parent.iterdir()} == {"curve.json", "curve.png"}


def test_what_was_not_measured_is_null():
    unmeasured = curve([point(1, None, fd_reconstruction=None, ms=None)], floor=None)
    values = json.loads(unmeasured.to_json())
    assert values["points"][0]["fd_sample"] is values["points"][0]["ms"] is values["floor"] is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_figures_must_be_finite_and_positive(bad):
    with pytest.raises(ValidationError, match="fd_sample"):
        point(1, fd_sample=bad)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist; measure a curve"),
        ("{", "is not JSON"),
        ("[1]", "holds a list"),
        ("{}", "points: field required"),
    ],
)
def test_files_that_are_no_curve(tmp_path, text, message):
    path = tmp_path / "curve.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BundleError, match=message):
        Curve.read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["points"][0].update(mse=float("nan")), "points.0.mse"),
        (lambda v: v.update(lossless_codes=3), "lossless_codes is 3, but the points say 12"),
        (lambda v: v["points"].reverse(), "codes must rise"),
        (lambda v: v.update(code_length=11), "at most 11"),
        (lambda v: v.update(format_version=2), "format_version"),
    ],
)
def test_an_altered_curve_is_refused(full, tmp_path, change, message):
    values = json.loads(full.to_json())
    change(values)
    (tmp_path / "curve.json").write_text(json.dumps(values))
    with pytest.raises(BundleError, match=message):
        Curve.read(tmp_path / "curve.json")


def test_the_table_is_aligned_in_eighty_columns(full):
    lines = table(full).splitlines()
    assert max(map(len, lines)) <= 80
    assert len({len(line) for line in lines[:15]}) == 1
    assert " ".join(lines[1].split()) == (
        "codes bits ordered unord. PCA dB recon. sample unord. batch 1"
    )
    assert " ".join(lines[4].split()) == "2 12 0.1000 0.3000 0.2000 16.0 0.500 15 200 2.0"
    footer = " ".join(lines[15:])
    assert "10,000 samples" in footer
    assert "floor (10,000 training images): 0.150" in footer
    assert "from 12 codes on" in footer


def test_the_table_stays_narrow_with_extreme_figures():
    wild = [point(100, 123456.7, 1e-7, 0.000012, 12345.67)]
    extreme = curve(
        wild,
        floor=99999.9,
        unordered=[baseline(100, 123.456, 99999.9)],
        pca=[PCAPoint(codes=100, mse=1e-7)],
    )
    assert max(map(len, table(extreme).splitlines())) <= 80


def test_the_table_leaves_out_what_was_not_measured():
    bare = table(curve([point(1, None, fd_reconstruction=None, ms=None)], floor=None))
    assert "unord." not in bare
    assert "PCA" not in bare
    assert "sample " not in bare
    assert "not measured" in bare
    assert bare.splitlines()[3].split() == ["1", "6", "0.1000", "16.0", "-"]


def test_the_picture_of_a_curve(full):
    picture = Image.open(io.BytesIO(draw_curve(full)))
    assert picture.format == "PNG"
    assert picture.width > 1000
    bare = curve([point(1, None, fd_reconstruction=None, ms=None)], floor=None)
    assert draw_curve(bare) != draw_curve(full)


def test_a_contact_sheet_has_a_row_per_sample_and_a_column_per_budget(model):
    codes = model.sample_codes(3, seed=5)
    sheet = contact_sheet(model, codes, [1, 2, 6])
    assert sheet.shape == (1, 3 * 50, 3 * 50)
    tile = model.decode(codes[1:2, :6]).clamp(-1, 1)[0]
    shown = sheet[:, 50:98, 100:148]
    assert torch.equal(shown[:, ::6, ::6], tile)
    assert torch.equal(shown[:, 5::6, 5::6], tile)
    assert (sheet[:, 48:50] == 1).all()


def test_a_contact_sheet_is_written_with_captions(model, tmp_path):
    sheet = contact_sheet(model, model.sample_codes(2), [1, 3])
    path = tmp_path / "new" / "samples.png"
    write_contact_sheet(sheet, [1, 3], path)
    with Image.open(path) as image:
        picture = image.convert("L")
    assert picture.width == 2 * 50 + 2
    header = picture.crop((0, 0, picture.width, picture.height - 100))
    assert header.getextrema()[0] < 50
    assert picture.getpixel((2, 18)) == round(float((sheet[0, 0, 0] + 1) * 127.5))
    write_contact_sheet(torch.zeros(3, 50, 50), [1], path)
    with Image.open(path) as image:
        assert image.mode == "RGB"


@pytest.mark.parametrize(("n", "budgets"), [(0, [1]), (1, []), (1, [0]), (1, [7])])
def test_contact_sheets_of_nothing(model, n, budgets):
    with pytest.raises(InputError, match=r"needs samples, and budgets in 1\.\.6"):
        contact_sheet(model, model.sample_codes(1)[:n], budgets)


def test_contact_sheets_need_pictures(model):
    model.sample_shape = (1, 400)
    with pytest.raises(InputError, match=r"samples of shape \(1 or 3, H, W\), got \(1, 400\)"):
        contact_sheet(model, model.sample_codes(1), [1])
