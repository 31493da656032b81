"""Every command does with models of other packages, by value or by reference, what it does with
ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anytime_ar import AnytimeModel, load
from anytime_ar.autoencoder.neural_codecs import CodecTokenizer
from anytime_ar.bundle.card import Card
from anytime_ar.cli import main
from cli.command_line import RATE, WINDOW, beep, wave_of
from random_models import encodec_config, llama_config, random_bundle

L, V = 8, 8
OURS: dict[str, Any] = {
    "code_length": L,
    "code_width": 2,
    "quantizer": {"vocabulary": V},
    "network": {"patch": 4, "widths": [4, 8], "blocks": 0, "hidden": 8},
}
CODEC = encodec_config(samples=WINDOW, frames=4, levels=2, vocabulary=V)
TRANSFORMER = {"layers": 1, "width": 8, "heads": 2}
MODELS: dict[str, dict[str, Any]] = {
    "ours": {"autoencoder": OURS, "prior": TRANSFORMER},
    "codec by value": {"autoencoder": CODEC, "prior": TRANSFORMER},
    "codec by reference": {"autoencoder": CODEC, "prior": TRANSFORMER},
    "Llama prior": {"autoencoder": OURS, "prior": llama_config(L, V, 0)},
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folder of a model of sounds, beside a folder of sounds."""
    data = {"name": str(tmp_path / "data"), "sample_shape": (1, WINDOW), "sample_rate": RATE}
    audio = {"sample_rate": RATE, "seconds": WINDOW / RATE, "length_multiple": 1}
    values = {
        "name": "tiny",
        "data": data | {"normalize": "peak"},
        "training": {"data": {"name": data["name"], "audio": audio}},
        **MODELS[request.param],
    }
    model = AnytimeModel(random_bundle(Card.parse(values, origin="test")), device="cpu")
    references = {}
    if request.param == "codec by reference":
        assert isinstance(model.autoencoder, CodecTokenizer)
        model.autoencoder.model.save_pretrained(tmp_path / "codec")
        references = {"tokenizer": tmp_path / "codec"}
    model.save(tmp_path / "model", references=references)  # type: ignore[arg-type]
    (tmp_path / "data").mkdir()
    for i in range(40):
        beep(tmp_path / "data" / f"{i:02}.wav", WINDOW / RATE, level=0.1 + i / 100)
    return tmp_path / "model"


def test_commands(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    card = json.loads((model / "config.json").read_text())
    options = ["--device", "cpu", "--json"]
    deadline = ["--deadline-s", "5", "--seed", "1", "--save-state", "state", "--out", "a.wav"]
    main(["sample", str(model), "-n", "2", *deadline, *options])
    main(["refine", str(model), "state", "--out", "b.wav", *options])
    main(["bulk", "sample", str(model), "-n", "3", "--seed", "0", "--out", "shards", *options])
    drawn = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (drawn["samples"], drawn["shards"]) == (3, 1)

    beep(tmp_path / "long.wav", 3 * WINDOW / RATE)
    main(["encode", str(model), "long.wav", "--out", "codes.npz", *options])
    main(["decode", str(model), "codes.npz", "--codes", "5", "--out", "long-again.wav", *options])
    assert len(wave_of(tmp_path / "long-again.wav")) == 3 * WINDOW
    capsys.readouterr()

    evaluate = ["--num-samples", "20", "--codes", f"[1,{L}]", "--out", "figures", "--save-curve"]
    evaluate += ["--feature-extractor", "torch.nn.Flatten"]
    main(["evaluate", str(model), *evaluate, *options])
    figures = json.loads(capsys.readouterr().out)
    assert [point["codes"] for point in figures["points"]] == [1, L]
    assert all(point["fd_sample"] is not None for point in figures["points"])
    curve = load(model, device="cpu").curve
    assert curve is not None
    assert curve.model_dump(mode="json") == figures
    now = json.loads((model / "config.json").read_text())
    assert now["references"] == card["references"]
