"""A model over HTTP whose positions have vocabularies of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from real_server import RealServer

import anytime_ar as aar
from mixed_models import SIZES, Mixed, own_prior


def test_codes_go_over_http_in_the_vocabulary_of_their_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = aar.AnytimeModel.from_parts(Mixed(), own_prior(), name="mixed", device="cpu")
    model.save(tmp_path / "mixed")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=":")
    monkeypatch.setenv("ANYTIME_PLUGINS", "mixed_models")
    server = RealServer(str(tmp_path / "mixed"), logs=tmp_path / "server.log").ready()
    try:
        with server.client() as client:
            (described,) = client.get("/v1/models").json()["models"]
            assert described["vocabulary"] == list(SIZES)
            body = {"n": 4, "seed": 3, "with_codes": True}
            drawn = client.post("/v1/samples", json=body).json()
            assert drawn["codes"] == model.sample_codes(4, seed=3).tolist()
            body = {"codes": drawn["codes"], "format": "npy"}
            decoded = client.post("/v1/decode", json=body).json()
            again = client.post("/v1/encode", json={"samples": decoded["samples"]}).json()
            assert torch.equal(torch.tensor(again["codes"]), torch.tensor(drawn["codes"]))
            for codes, message in (
                ([39, 4, 5], "5 is not a code of this model at position 2; pass 0..4"),
                ([0, 0, 0, 0, 2**70], "is not a code of this model at position 4; pass 0..2"),
                ([0] * 7, "prefix 7 exceeds code length 6"),
                ([0] * 6 + [2**70], "is not a code of this model"),
            ):
                refused = client.post("/v1/decode", json={"codes": [codes]})
                assert refused.status_code == 422
                assert message in refused.text
    finally:
        assert server.terminate() == 0
