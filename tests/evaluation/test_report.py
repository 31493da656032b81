from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from evaluation_fakes import LENGTH, FakeCodec
from PIL import Image
from pydantic import ValidationError

from anytime_ar.bundle.curve import (
    Baselines,
    Curve,
    CurvePoint,
    DistributionMetrics,
    PCAPoint,
    QualityPoint,
    near_lossless_codes,
    psnr,
)
from anytime_ar.errors import BundleError, InputError
from anytime_ar.evaluation import curve_table, plot_curve, write_report
from anytime_ar.media.sheets import as_images, contact_sheet, write_contact_sheet, write_sheets

QUALITY = DistributionMetrics(
    fd_stderr=0.1234,
    kd=-1.5e-5,
    kd_stderr=1e-6,
    precision=0.75,
    precision_stderr=0.01,
    recall=0.5,
    recall_stderr=0.01,
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
    return QualityPoint(
        codes=codes, mse=mse, psnr=psnr(mse), fd_reconstruction=9.0, fd_sample=fd_sample
    )


def curve(points, *, floor=0.15, **baselines):
    return Curve(
        code_length=100,
        vocabulary=64,
        points=points,
        near_lossless_codes=near_lossless_codes(points),
        fd_train=floor,
        num_train_samples=10_000,
        num_samples=10_000,
        num_test_samples=10_000,
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
    assert near_lossless_codes([point(k, d) for k, d in enumerate(distances, 1)]) == fewest


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
        *("codes", "mse", "psnr", "fd_reconstruction", "fd_sample", "ms", "bits"),
        *("metrics", "label_accuracy_reconstruction", "label_accuracy_sample"),
        *("reconstruction_metrics", "sample_metrics", "nn_distance_ratio"),
    }
    assert values["near_lossless_codes"] == 12
    assert {p.name for p in path.parent.iterdir()} == {"curve.json", "curve.png"}


def test_what_was_not_measured_is_null():
    unmeasured = curve([point(1, None, fd_reconstruction=None, ms=None)], floor=None)
    values = json.loads(unmeasured.to_json())
    first = values["points"][0]
    assert first["fd_sample"] is first["ms"] is values["fd_train"] is None


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
        (
            lambda v: v.update(near_lossless_codes=3),
            "near_lossless_codes is 3, but the points say 12",
        ),
        (lambda v: v["points"].reverse(), "codes must rise"),
        (lambda v: v.update(code_length=11), "at most 11"),
        (lambda v: v.update(format_version=3), "format_version"),
    ],
)
def test_an_altered_curve_is_refused(full, tmp_path, change, message):
    values = json.loads(full.to_json())
    change(values)
    (tmp_path / "curve.json").write_text(json.dumps(values))
    with pytest.raises(BundleError, match=message):
        Curve.read(tmp_path / "curve.json")


def test_the_table_is_aligned_in_eighty_columns(full):
    lines = curve_table(full).splitlines()
    assert max(map(len, lines)) <= 80
    assert len({len(line) for line in lines[:15]}) == 1
    assert " ".join(lines[1].split()) == (
        "codes bits ordered unord. PCA dB recon. sample unord. batch 1"
    )
    assert " ".join(lines[4].split()) == "2 12 0.1000 0.3000 0.2000 16.0 0.500 15 200 2.0"
    footer = " ".join(lines[15:])
    assert "FD of 10,000 drawn" in footer
    assert "floor (10,000 training samples): 0.150" in footer
    assert "from 12 codes on" in footer


def test_sets_have_a_table_of_their_own(full):
    small = QUALITY.model_copy(update={"fd_stderr": None, "kd": 1234.5})
    points = [
        p.model_copy(
            update={
                "reconstruction_metrics": small,
                "sample_metrics": QUALITY,
                "nn_distance_ratio": 0.987,
            }
        )
        for p in full.points
    ]
    costs = {"nll_train": 1.25, "nll_test": 1.5, "train_metrics": QUALITY}
    told = curve_table(full.model_copy(update={"points": tuple(points)} | costs))
    lines = told.split("\n\n")[1].splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["recon."] * 4 + ["sample"] * 4 + ["NN"]
    assert " ".join(lines[1].split()) == "codes FD +- KD prec. recall FD +- KD prec. recall ratio"
    assert " ".join(lines[3].split()) == ("1 - 1.2e+03 0.750 0.500 0.123 -1.5e-05 0.750 0.500 0.99")
    floor = "Those training samples: FD +- 0.123, KD -1.5e-05, precision 0.750, recall 0.500."
    assert floor in lines
    assert "A code costs the prior 1.250 nats in training samples, 1.500 in test samples." in lines


def test_what_else_was_measured_stands_in_a_table(full):
    figures = {"snr": -12.345, "si_sdr": -123.4, "stft": 1.2345, "mel": 12.3, "stoi": 0.5}
    heard = [
        p.model_copy(
            update={
                "metrics": figures,
                "label_accuracy_reconstruction": 0.75,
                "label_accuracy_sample": 1.0,
            }
        )
        for p in full.points
    ]
    lost = [
        p.model_copy(update={"metrics": figures | {"snr": -45.6}}) for p in full.baselines.unordered
    ]
    sound = full.model_copy(
        update={
            "points": tuple(heard),
            "baselines": Baselines(unordered=tuple(lost)),
            "label_accuracy_test": 0.98,
        }
    )
    first, second = curve_table(sound).split("\n\n")
    assert first.splitlines()[1].split()[0] == "codes"
    lines = second.splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(lines[0].split()) == "SNR unord. SI-SDR STFT mel STOI label acc. label acc."
    assert " ".join(lines[1].split()) == "codes dB dB dB dB recon. sample"
    assert " ".join(lines[3].split()) == (
        "1 -12.35 -45.60 -123.40 1.234 12.30 0.500 75.0 % 100.0 %"
    )
    assert lines[-1] == ("Label accuracy of the classifier on the test split itself: 98.0 %.")


def test_the_table_stays_narrow_with_extreme_figures():
    wild = [point(100, 123456.7, 1e-7, 0.000012, 12345.67)]
    extreme = curve(
        wild,
        floor=99999.9,
        unordered=[baseline(100, 123.456, 99999.9)],
        pca=[PCAPoint(codes=100, mse=1e-7)],
    )
    assert max(map(len, curve_table(extreme).splitlines())) <= 80


def test_the_table_leaves_out_what_was_not_measured():
    bare = curve_table(curve([point(1, None, fd_reconstruction=None, ms=None)], floor=None))
    assert "unord." not in bare
    assert "PCA" not in bare
    assert "sample " not in bare
    assert "not measured" in bare
    assert bare.splitlines()[3].split() == ["1", "6", "0.1000", "16.0", "-"]


def test_the_picture_of_a_curve(full):
    picture = Image.open(io.BytesIO(plot_curve(full)))
    assert picture.format == "PNG"
    assert picture.width > 1000
    bare = curve([point(1, None, fd_reconstruction=None, ms=None)], floor=None)
    assert plot_curve(bare) != plot_curve(full)


def test_the_picture_shows_how_far_distances_are_known(full):
    def with_error(error):
        quality = QUALITY.model_copy(update={"fd_stderr": error})
        points = tuple(
            point.model_copy(update={"sample_metrics": quality}) for point in full.points
        )
        picture = Image.open(io.BytesIO(plot_curve(full.model_copy(update={"points": points}))))
        return np.asarray(picture.convert("RGB"))

    def tinted(picture):  # the light blue of a band
        red, _, blue = (picture[..., channel].astype(int) for channel in range(3))
        return int(((blue - red > 30) & (blue - red < 80)).sum())

    assert tinted(with_error(1.0)) > tinted(with_error(0.1)) + 1000 > tinted(with_error(None))


def test_the_picture_shows_what_else_was_measured(full):
    """In rows of their own, so that nothing is drawn over anything else."""

    def with_figures(**figures):
        points = tuple(p.model_copy(update=figures) for p in full.points)
        return Image.open(io.BytesIO(plot_curve(full.model_copy(update={"points": points}))))

    plain = with_figures()
    read = with_figures(label_accuracy_reconstruction=0.5, label_accuracy_sample=0.25)
    sounds = with_figures(
        metrics={"snr": 3.0, "mel": 2.0, "stoi": 0.5}, label_accuracy_reconstruction=0.5
    )
    assert plain.width == read.width == sounds.width
    assert plain.height < read.height < sounds.height


def test_a_contact_sheet_has_a_row_per_sample_and_a_column_per_budget(model):
    codes = model.sample_codes(3, seed=5)
    sheet = contact_sheet(model, codes, [1, 2, 6])
    assert sheet.shape == (1, 3 * 50, 3 * 50)
    tile = model.decode(codes[1:2, :6]).clamp(-1, 1)[0]
    shown = sheet[:, 50:98, 100:148]
    assert torch.equal(shown[:, ::6, ::6], tile)
    assert torch.equal(shown[:, 5::6, 5::6], tile)
    assert (sheet[:, 48:50] == 1).all()


def test_what_codes_change_is_shown_beside_the_first_sample(model):
    codes = model.sample_codes(3, seed=5)
    sheet = contact_sheet(model, codes, [1, 2, 6], differences=True)
    first, second, last = (model.decode(codes[1:2, :k])[0] for k in (1, 2, 6))
    for column, tile in enumerate((first, (second - first) / 2, (last - second) / 2)):
        shown = sheet[:, 50:98, 50 * column : 50 * column + 48]
        assert torch.equal(shown[:, ::6, ::6], tile.clamp(-1, 1))


def test_sheets_show_what_was_measured_up_to_a_dozen_columns(model, tmp_path):
    codes = model.sample_codes(2)
    for budgets, columns in (([1, 6], 2), (list(range(1, 7)) * 5, 12)):
        assert write_sheets(model, codes, budgets, tmp_path, None) == ["samples.png", "changes.png"]
        for name in ("samples.png", "changes.png"):
            with Image.open(tmp_path / name) as image:
                assert image.width == 50 * columns + 2


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


def test_other_suffixes_of_contact_sheets(model, tmp_path):
    sheet = contact_sheet(model, model.sample_codes(2), [1, 3])
    write_contact_sheet(sheet, [1, 3], tmp_path / "a.JPG")
    with Image.open(tmp_path / "a.JPG") as image:
        assert image.format == "JPEG"
    with pytest.raises(InputError, match=r"suffix '\.wav'; use one of \.png"):
        write_contact_sheet(sheet, [1, 3], tmp_path / "a.wav")


RATE = 8000


def tones(*hertz, level=0.5, rate=RATE):
    """float32 [n, 1, rate / 2], half a second each."""
    times = torch.arange(rate // 2) / rate
    return level * torch.stack([torch.sin(2 * torch.pi * h * times) for h in hertz])[:, None]


def brightness(samples, rate=RATE):
    """float32 [n, 96]: brightest colour of each line of the pictures of sounds, 0..1."""
    return (as_images(samples, rate).mean(dim=1).amax(dim=2) + 1) / 2


def test_spectrograms_have_low_frequencies_at_the_bottom():
    pictures = as_images(tones(200, 1000, 3000), RATE)
    assert pictures.shape == (3, 3, 96, 160)
    assert pictures.abs().max() <= 1
    low, middle, high = brightness(tones(200, 1000, 3000)).argmax(dim=1).tolist()
    assert 95 > low > middle > high > 0
    assert (low, middle, high) == pytest.approx((83, 51, 12), abs=1)  # by the mel scale
    doubled = brightness(tones(400, 2000, 6000, rate=16_000), 16_000).argmax(dim=1)
    assert doubled[1] < middle  # and in Hz, not in shares of the rate


def test_spectrograms_show_levels_alike_in_all_tiles():
    loud, quiet, silent = (brightness(tones(440, level=level)).max() for level in (0.3, 0.03, 0))
    assert loud > quiet > silent
    assert silent < 0.01
    together = as_images(torch.cat([tones(440, level=0.3), tones(440, level=0.03)]), RATE)
    assert torch.equal(together[1:], as_images(tones(440, level=0.03), RATE))


@pytest.mark.parametrize("samples", [1, 1000, 100_000])
def test_spectrograms_of_any_length_have_one_size(samples):
    assert as_images(torch.zeros(2, 1, samples), RATE).shape == (2, 3, 96, 160)


def test_images_are_their_own_pictures():
    images = torch.linspace(-2, 2, 3 * 8 * 8).view(1, 3, 8, 8)
    assert torch.equal(as_images(images), images.clamp(-1, 1))


class Tones(FakeCodec):
    """Sounds: each code more is a tone more."""

    def decode(self, codes):
        made = tones(*(300.0 * (1 + i) for i in range(codes.shape[1])), level=0.1)
        return made.sum(dim=0, keepdim=True).repeat(len(codes), 1, 1)


def test_a_contact_sheet_of_sounds(tmp_path):
    codec = Tones(torch.zeros(64, LENGTH), sample_shape=(1, RATE // 2))
    codes = torch.zeros(2, LENGTH, dtype=torch.int64)
    sheet = contact_sheet(codec, codes, [1, 2, 6], sample_rate=RATE)
    assert sheet.shape == (3, 2 * 98, 3 * 162)
    tile = as_images(codec.decode(codes[1:, :2]), RATE)[0]
    assert torch.equal(sheet[:, 98 : 98 + 96, 162 : 162 + 160], tile)
    assert (sheet[:, 96:98] == 1).all()
    path = tmp_path / "sheet.png"
    write_contact_sheet(sheet, [1, 2, 6], path)
    with Image.open(path) as image:
        assert (image.mode, image.width) == ("RGB", 3 * 162 + 2)


@pytest.mark.parametrize("shape", [(2, 8, 8), (400,), (1, 2, 8, 8)])
def test_what_there_is_no_picture_of(shape):
    with pytest.raises(InputError, match=r"or sounds or series \(C, T\), got \("):
        as_images(torch.zeros(2, *shape), RATE)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 400)])
def test_a_picture_of_no_samples(shape):
    with pytest.raises(InputError, match="a sheet of no samples cannot be made"):
        as_images(torch.zeros(0, *shape), RATE)


def test_a_spectrogram_of_several_channels_is_their_mean():
    tone, silence = tones(440), torch.zeros(1, 1, tones(440).shape[-1])
    assert torch.equal(as_images(tone.expand(1, 2, -1), RATE), as_images(tone, RATE))
    loud, half = (
        as_images(torch.cat([tone, other], dim=1), RATE).mean() for other in (tone, silence)
    )
    assert half < loud


def test_transparent_images_are_shown_over_white():
    image = torch.full((1, 4, 1, 3), -1.0)
    image[0, 3, 0] = torch.tensor([-1.0, 0.0, 1.0])
    assert as_images(image)[0, :, 0].tolist() == [[1.0, 0.0, -1.0]] * 3


def test_a_series_is_a_plot_with_a_colour_for_each_channel():
    series = torch.stack([torch.full((50,), 0.9), torch.linspace(-0.9, -0.5, 50)])[None]
    plot = as_images(series)[0]
    assert plot.shape == (3, 96, 160)
    rows = [
        (plot - colour[:, None, None]).abs().sum(0).lt(0.01).nonzero()
        for colour in (
            torch.tensor([0x00, 0x72, 0xB2]) / 127.5 - 1,
            torch.tensor([0xD5, 0x5E, 0x00]) / 127.5 - 1,
        )
    ]
    assert rows[0][:, 0].unique().tolist() == [5]  # near the top
    assert rows[1][0, 0] < rows[1][-1, 0] <= 90  # rises from the lower edge
    assert {*rows[1][:, 1].tolist()} == {*range(160)}
