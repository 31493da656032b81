"""Images that are no squares, RGBA images, stereo sounds and series over HTTP and on the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from real_server import RealServer

from anytime_ar.bundle.card import Card
from anytime_ar.bundle.format import save_bundle
from anytime_ar.client import Client
from anytime_ar.sampling import AnytimeModel, load
from random_models import random_bundle

DATA: dict[str, dict[str, Any]] = {
    "oblong": {"sample_shape": (1, 8, 16)},
    "rgba": {"sample_shape": (4, 8, 8)},
    "stereo": {"sample_shape": (2, 64), "sample_rate": 8000, "normalize": "none"},
    "series": {
        "sample_shape": (3, 64),
        "channel_ranges": ((-40.0, 60.0), (0.0, 1e5), (7.0, 7.0)),
        "channel_names": ("temperature", "pressure", "version"),
    },
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("shapes")
    for kind, data in DATA.items():
        values = {
            "name": kind,
            "data": {"name": "none"} | data,
            "autoencoder": {
                "code_length": 4,
                "code_width": 2,
                "quantizer": {"vocabulary": 8},
                "network": {"patch": 2, "widths": [4, 6], "blocks": 1, "hidden": 8},
            },
            "prior": {"layers": 1, "width": 8, "heads": 2},
        }
        save_bundle(random_bundle(Card.parse(values, origin="test")), root / kind)
    return {kind: root / kind for kind in DATA}


@pytest.fixture(scope="module")
def alone(folders: dict[str, Path]) -> dict[str, AnytimeModel]:
    return {kind: load(folder, device="cpu") for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def server(
    folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealServer]:
    logs = tmp_path_factory.mktemp("logs") / "server.log"
    real = RealServer(*map(str, folders.values()), logs=logs)
    yield real.ready()
    assert real.terminate() == 0


def read(content: bytes, kind: str) -> np.ndarray:
    """[C, ...] in the units of a file of the default format."""
    if kind == "stereo":
        return soundfile.read(io.BytesIO(content))[0].T
    if kind == "series":
        return np.load(io.BytesIO(content))
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    return np.atleast_3d(pixels).transpose(2, 0, 1) / 127.5 - 1


@pytest.mark.parametrize("kind", DATA)
def test_samples_have_their_shape_and_are_encoded_again(
    server: RealServer, alone: dict[str, AnytimeModel], kind: str
) -> None:
    model = alone[kind]
    expected = model.generate(2, seed=3)
    with server.client() as http:
        body = {"model": kind, "n": 2, "seed": 3, "with_codes": True}
        answer = http.post("/v1/samples", json=body).json()
        assert answer["codes"] == expected.codes.tolist()
        for sample, wanted in zip(
            answer["samples"], model.media.to_units(expected.data), strict=True
        ):
            found = read(base64.b64decode(sample), kind)
            np.testing.assert_allclose(found, wanted, atol=0.005, rtol=1e-6)
        encoded = http.post("/v1/encode", json={"model": kind, "samples": answer["samples"]}).json()
        media = model.media
        samples = [media.from_bytes(base64.b64decode(s), "") for s in answer["samples"]]
        assert encoded["codes"] == model.encode(torch.stack(samples)).tolist()
        described = next(m for m in http.get("/v1/models").json()["models"] if m["name"] == kind)
        assert described["sample_shape"] == [*DATA[kind]["sample_shape"]]
    with Client(server.url) as client:
        data = client.sample(2, model=kind, seed=3).data
        torch.testing.assert_close(torch.tensor(data), model.media.to_units(expected.data))
        assert client.encode(data, model=kind).codes.shape == (2, 4)


def test_a_series_is_a_table_a_plot_and_a_file(
    server: RealServer, alone: dict[str, AnytimeModel]
) -> None:
    body = {"model": "series", "seed": 3}
    with server.client() as http:
        table = http.post("/v1/samples", json=body, headers={"Accept": "text/csv"})
        assert table.headers["content-type"].startswith("text/csv")
        lines = table.text.splitlines()
        assert lines[0] == "temperature,pressure,version"
        values = np.array([line.split(",") for line in lines[1:]], dtype=np.float32)
        media = alone["series"].media
        expected = media.to_units(alone["series"].sample(1, seed=3))[0]
        np.testing.assert_array_equal(values.T, expected)
        back = http.post(
            "/v1/encode",
            json={"model": "series", "samples": [base64.b64encode(table.content).decode()]},
        )
        assert back.status_code == 200, back.text
        plot = http.post("/v1/samples", json=body, headers={"Accept": "image/png"})
        assert Image.open(io.BytesIO(plot.content)).size == (160, 96)
        for content, message in (
            (b"temperature,pressure\n1,2\n", r"samples.0: is float32 [2, 1]; pass float32 [3, 64]"),
            (b"1,2,3\n1,x,3\n", "samples.0: cannot be read as a series; send npy, or csv with a"),
            (b"1,2,nan\n" * 64, "samples.0: has values that are not finite; fill gaps before"),
        ):
            sent = {"model": "series", "samples": [base64.b64encode(content).decode()]}
            refused = http.post("/v1/encode", json=sent)
            assert refused.status_code == 422
            assert message in refused.json()["error"]["message"]
