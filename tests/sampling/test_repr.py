"""What public objects show of themselves: a line with shapes, and pictures and sounds in
notebooks."""

from __future__ import annotations

import base64
import io
import wave
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sampling_models import ONE_KIND, L, V, curve, sample_shape, tiny_bundle

from anytime_ar.codes import CodesFile
from anytime_ar.media.sheets import audio_players_html, image_grid_png
from anytime_ar.prior import SamplingParams
from anytime_ar.sampling import AnytimeModel, DecodeBatch, uniform_noise


def test_a_model_and_its_bundle() -> None:
    bundle = replace(tiny_bundle(), curve=curve({1: 4.0, L: 1.0}))
    shown = repr(AnytimeModel(bundle, device="cpu"))
    assert shown.startswith(
        f"AnytimeModel('tiny', sample_shape={sample_shape()}, code_length={L}, vocabulary={V}, "
        "labels=3, parameters="
    )
    assert shown.endswith(", device='cpu')")
    assert repr(bundle).startswith(f"Bundle('tiny', sample_shape={sample_shape()}, ")
    assert f"curve=Curve(2 budgets, 1 to {L} of {L} codes: mse 1 to" in repr(bundle)
    assert "fd_sample 4 to 1" in str(bundle.curve)
    alone = tiny_bundle(with_prior=False)
    assert "labels=3" in repr(alone)
    assert "no prior" in repr(alone)


def test_results(model: AnytimeModel) -> None:
    result = model.generate(2, seed=5, first=1, codes=3)
    assert repr(result) == (
        f"SampleResult(3 of {L} codes, data=float32 {[2, *sample_shape()]}, "
        f"elapsed_s={result.elapsed_s:.4g}, stop_reason='complete')"
    )
    assert repr(result.state) == f"SamplingState(3 of {L} codes of 2 samples, seed=5, first=1)"
    preview = next(model.stream(2, seed=5))
    assert repr(preview) == (
        f"Preview(1 of {L} codes, data=float32 {[2, *sample_shape()]}, "
        f"elapsed_s={preview.elapsed_s:.4g})"
    )


def test_batches_and_files(model: AnytimeModel) -> None:
    batch = DecodeBatch(model.sampler.decoder, 4)
    batch.add(uniform_noise(0, range(3), L), None, SamplingParams())
    assert repr(batch) == f"DecodeBatch(3 of 4 rows, code_length={L})"
    file = CodesFile(torch.zeros(2, 3, dtype=torch.int64), "tiny", L, V)
    assert repr(file).startswith("CodesFile(codes=int64 [2, 3], model='tiny', ")


def test_notebooks_show_samples(model: AnytimeModel) -> None:
    preview = model.generate(3, seed=0)
    png, html = preview._repr_png_(), preview._repr_html_()
    if model.sample_rate is None:
        assert html is None
        assert png is not None
        assert Image.open(io.BytesIO(png)).size == (98, 98)  # 2 x 2 tiles of 48 and a gap
    else:
        assert png is None
        assert html is not None
        assert html.count("<audio controls") == 3
        content = base64.b64decode(html.split("base64,")[1].split('"')[0])
        with wave.open(io.BytesIO(content)) as sound:
            assert sound.getframerate() == model.sample_rate
            assert sound.getnframes() == sample_shape()[1]


@ONE_KIND
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_what_they_are(channels: int) -> None:
    samples = torch.linspace(-1, 1, 2 * channels * 64 * 64).view(2, channels, 64, 64)
    png = image_grid_png(samples)
    assert png is not None
    shown = torch.tensor(np.array(Image.open(io.BytesIO(png)))).view(64, 130, channels)
    for i, left in enumerate((0, 66)):
        found = shown[:, left : left + 64].permute(2, 0, 1) / 127.5 - 1
        assert (found - samples[i]).abs().max() < 0.005
    assert (shown[:, 64:66] == 255).all()


@ONE_KIND
def test_what_is_no_picture_and_no_sound() -> None:
    assert image_grid_png(torch.zeros(2, 2, 8, 8)) is None
    assert image_grid_png(torch.zeros(2, 1, 400), 8000) is None
    for shown in (torch.zeros(2, 4, 8, 8), torch.zeros(2, 3, 50)):
        assert Image.open(io.BytesIO(image_grid_png(shown))).mode == "RGB"
    assert image_grid_png(torch.zeros(0, 1, 8, 8)) is None
    assert audio_players_html(torch.zeros(2, 1, 8), None) is None


@ONE_KIND
def test_a_curve_is_a_table() -> None:
    found = curve({1: 4.0, L: None})._repr_html_()
    assert found.count("<tr>") == 3
    assert "<td>-</td>" in found
