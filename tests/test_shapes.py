"""Samples of every shape: trained, drawn, written, read again, evaluated and sampled in bulk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from pyarrow import parquet

import anytime_ar as aar
from anytime_ar.cli import main
from anytime_ar.data import DataConfig, load_data
from anytime_ar.errors import InputError
from anytime_ar.sampling import AnytimeModel
from caches import make_cache_with_kernel

L, RATE, N = 4, 8000, 60
SHAPES = {"oblong": (1, 8, 16), "rgba": (4, 8, 8), "stereo": (2, 1024), "series": (3, 32)}
ENDINGS = {"oblong": ".png", "rgba": ".png", "stereo": ".wav", "series": ".npy"}
RANGES = ((-40.0, 60.0), (0.0, 1e5), (7.0, 7.0))
"""Of the channels of the series: degrees, pascals, and what never changes."""


class Trained(NamedTuple):
    """A run of one kind, in a folder."""

    kind: str
    run: Path
    model: AnytimeModel


def series(count: int) -> np.ndarray:
    """float64 [count, 3, 32] that reach both ends of `RANGES` in the first and the last."""
    steps = np.linspace(0, 1, 32)
    share = np.stack([(np.sin(6 * steps + i) + 1) / 2 for i in range(count)])
    share[0], share[-1] = steps, 1 - steps
    low, high = np.array(RANGES).T[..., None]
    return low + (high - low) * share[:, None]


def make_data(kind: str, folder: Path) -> dict[str, Any]:
    """Write a labelled data set, and return its settings."""
    random = np.random.default_rng(0)
    labels = np.arange(N) % 2
    if kind == "series":
        values = series(N)
        np.savez(folder / "data.npz", train=values, train_labels=labels)
        return {"name": str(folder / "data.npz")}
    for i, label in enumerate(labels):
        (folder / "data" / "ab"[label]).mkdir(parents=True, exist_ok=True)
        path = folder / "data" / "ab"[label] / f"{i:02}{ENDINGS[kind]}"
        if kind == "stereo":
            wave = np.sin(np.arange(1024) * (0.1 + 0.2 * label))[:, None] * [0.9, 0.1 + 0.01 * i]
            soundfile.write(path, wave, RATE)
            continue
        channels, height, width = SHAPES[kind]
        pixels = random.integers(0, 256, (2 * height, 2 * width, channels)).astype(np.uint8)
        Image.fromarray(pixels.squeeze()).save(path)
    settings: dict[str, Any] = {"name": str(folder / "data")}
    if kind == "stereo":
        return settings | {"audio": {"channels": 2, "seconds": 1024 / RATE}}
    _, height, width = SHAPES[kind]
    return settings | {"size": (height, width), "channels": SHAPES[kind][0]}


def settings(data: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "tiny",
        "data": data,
        "autoencoder": {
            "code_length": L,
            "code_width": 2,
            "quantizer": {"vocabulary": 8},
            "network": {"patch": 2, "widths": [4, 8], "blocks": 1, "hidden": 8},
        },
        "autoencoder_training": {"steps": 4, "batch_size": 8, "codebook_init_samples": 16},
        "prior": {"layers": 1, "width": 8, "heads": 2},
        "prior_training": {"steps": 4, "batch_size": 8, "augmented_copies": 1},
        "augmentation": {"flip": True, "shift": 1, "audio": {"delay": 0.1, "speed": 0.1}},
        "feature_extractor": {"steps": 10, "width": 4, "num_features": 8, "precision": "32-true"},
    }


@pytest.fixture(scope="module", params=SHAPES)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp(request.param)
    config = settings(make_data(request.param, folder))
    if request.param == "series":
        del config["augmentation"]
    (folder / "config.yaml").write_text(json.dumps(config))
    main(["train", str(folder / "config.yaml"), "--out", str(folder / "run"), "--device", "cpu"])
    return Trained(request.param, folder / "run", aar.load(folder / "run", device="cpu"))


def mode_of(path: Path) -> str:
    with Image.open(path) as image:
        return image.mode


def stored(path: Path, trained: Trained) -> torch.Tensor:
    """What a file holds, [1, *sample_shape] in the units of the file."""
    if trained.kind == "stereo":
        wave, rate = soundfile.read(path, dtype="float32")
        assert rate == RATE
        return torch.from_numpy(wave.T)[None]
    media = trained.model.media
    return media.to_units(media.read(path)[None])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make_cache_with_kernel(tmp_path_factory.mktemp("cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


def test_a_model_is_trained_drawn_and_loaded(trained: Trained) -> None:
    shape = SHAPES[trained.kind]
    assert trained.model.sample_shape == shape
    loaded = trained.model
    card = loaded.bundle.card.data
    assert (card.sample_rate, card.channel_ranges) == {
        "stereo": (RATE, None),
        "series": (None, RANGES),
    }.get(trained.kind, (None, None))
    drawn = loaded.sample(3, seed=1)
    assert drawn.shape == (3, *shape)
    codes = loaded.encode(drawn)
    for k in range(1, L + 1):
        assert loaded.decode(codes[:, :k]).shape == (3, *shape)


def test_samples_are_written_and_read_again(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, ending = str(trained.run), ENDINGS[trained.kind]
    one = tmp_path / f"one{ending}"
    draw = ["sample", run, "--seed", "1", "--device", "cpu"]
    main([*draw, "-n", "1", "--out", str(one)])
    expected = trained.model.media.to_units(trained.model.sample(1, seed=1))
    torch.testing.assert_close(stored(one, trained), expected, atol=0.01, rtol=1e-5)
    if trained.kind == "rgba":
        assert mode_of(one) == "RGBA"
    some = trained.model.sample(3, seed=1)
    main([*draw, "-n", "3", "--out", str(tmp_path / f"some{ending}")])
    main([*draw, "-n", "3", "--codes", "[1,4]", "--out", str(tmp_path / f"sheet{ending}")])
    assert mode_of(tmp_path / "sheet.png") == "RGB"
    if ending != ".png":
        files = sorted((tmp_path / "some").iterdir())
        assert [file.name for file in files] == [f"{i}{ending}" for i in range(3)]
        first = stored(files[0], trained)
        torch.testing.assert_close(
            first, trained.model.media.to_units(some[:1]), atol=0.01, rtol=1e-5
        )
        assert mode_of(tmp_path / "some.png") == "RGB"
    codes = str(tmp_path / "codes.npz")
    main(["encode", run, str(one), "--out", codes, "--device", "cpu"])
    main(["decode", run, codes, "--out", str(tmp_path / f"back{ending}"), "--device", "cpu"])
    back = stored(tmp_path / f"back{ending}", trained)
    codes_of_one = trained.model.encode(trained.model.media.read(one)[None])
    decoded = trained.model.media.to_units(trained.model.decode(codes_of_one))
    if trained.kind == "stereo":  # at the level of the recording
        decoded = decoded * expected.abs().max() / 0.95
    torch.testing.assert_close(back, decoded, atol=0.02, rtol=1e-5)
    capsys.readouterr()


def test_a_model_is_evaluated(
    trained: Trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    evaluate = ["evaluate", str(trained.run), "--num-samples", "20", "--codes", "[1,4]"]
    main([*evaluate, "--device", "cpu", "--json", "--out", str(tmp_path), "--no-save-curve"])
    points = json.loads(capsys.readouterr().out)["points"]
    assert all(np.isfinite(point["fd_sample"]) and point["mse"] > 0 for point in points)
    metrics = {"stereo": {"snr", "si_sdr", "stft", "mel", "stoi"}, "series": {"snr"}}
    assert {*points[0]["metrics"]} == metrics.get(trained.kind, set())
    for name in ("samples.png", "changes.png"):
        assert mode_of(tmp_path / name) == "RGB"


def test_bulk_samples_are_a_data_set_again(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bulk"
    bulk = ["bulk", "sample", str(trained.run), "-n", "20", "--seed", "2", "--out", str(out)]
    main([*bulk, "--device", "cpu"])
    settings = {"name": str(out), "audio": {"channels": 2, "seconds": 1024 / RATE}}
    if trained.kind == "rgba":
        settings["channels"] = 4
    data = load_data(DataConfig(**settings))
    assert data.sample_shape == SHAPES[trained.kind]
    (shard,) = out.glob("data/*.parquet")
    if trained.kind == "series":
        stored = torch.tensor(parquet.read_table(shard)["series"].to_pylist())
        drawn = trained.model.sample(20, seed=2)
        torch.testing.assert_close(stored, trained.model.media.to_units(drawn))
        assert stored[:, 2].unique().tolist() == [7.0]
    encode = ["bulk", "encode", str(trained.run), "--out", str(tmp_path / "codes")]
    main([*encode, "--device", "cpu"])
    assert parquet.read_table(next((tmp_path / "codes").glob("data/*")))["codes"][0]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("data", "network", "message"),
    [
        (
            torch.zeros(20, 1, 8, 13),
            {"patch": 2, "widths": [4, 8]},
            "8x13 images are not divisible by the network's stride 4, but 8x12 and 8x16 are",
        ),
        (
            torch.zeros(20, 3, 30),
            {"patch": 2, "widths": [4, 8]},
            "clips of 30 samples are not divisible by the network's stride 4, but 28 and 32 are",
        ),
        (
            torch.tensor([0.0, torch.nan]).expand(20, 3, 2),
            {},
            r"train sample 0: channel 0 is nan at step 1; fill gaps before",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    data: torch.Tensor, network: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = settings({})
    del config["feature_extractor"]
    config["autoencoder"]["network"] |= network
    with pytest.raises(InputError, match=message):
        aar.train(config, tmp_path / "run", data=data, device="cpu", show_progress=False)
    assert not (tmp_path / "run" / "checkpoints").exists()
