"""`anytime demo`, with training cut to a few steps."""

from __future__ import annotations

import pytest
import soundfile
import yaml

from anytime_ar.cli import main
from anytime_ar.cli.parser import config_path
from anytime_ar.sampling import load


@pytest.mark.parametrize(
    ("options", "config", "noun"),
    [([], "digits", "images"), (["--audio"], "sounds", "clips")],
)
def test_demo(tmp_path, monkeypatch, capsys, options, config, noun):
    """The whole of it, with training cut to a few steps."""
    values = yaml.safe_load(config_path(config).read_text(encoding="utf-8"))
    values["autoencoder_training"] |= {"steps": 4, "codebook_init_samples": 128, "batch_size": 16}
    values["prior"] |= {"layers": 1, "width": 8, "heads": 2}
    values["prior_training"] |= {"steps": 4, "augmented_copies": 1}
    values["feature_extractor"] |= {"steps": 10, "width": 4}
    values["data"]["validation_fraction"] = 0.02
    if "network" in values["autoencoder"]:
        values["autoencoder"]["network"] |= {"widths": [4, 8], "blocks": 0}
    monkeypatch.setattr("pystoi.stoi", lambda *_: 0.5)  # a second for every 30 clips
    small = tmp_path / "small.yaml"
    small.write_text(yaml.safe_dump(values))
    asked = []
    monkeypatch.setattr("anytime_ar.cli.demo.config_path", lambda name: asked.append(name) or small)
    monkeypatch.setattr("anytime_ar.cli.demo.NUM_SAMPLES", {config: 50})
    out = tmp_path / "out"
    main(["demo", *options, "--out", str(out), "--device", "cpu"])
    assert asked == [config]
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines()[:-1])) <= 80  # the last names a folder
    assert f"{out}: {noun} as samples and reconstructions" in told
    for name in ("curve.json", "curve.png", "samples.png", "reconstructions.png"):
        assert (out / name).is_file()
    unordered = load(out / "unordered", device="cpu").bundle.card.autoencoder.quantizer
    assert unordered.init == "kmeans"
    if config == "sounds":
        waves = sorted((out / "samples").iterdir())
        assert len(waves) == 8 * 10
        assert waves[0].name == "0-k03.wav"
        assert soundfile.info(waves[0]).duration == pytest.approx(0.512)
