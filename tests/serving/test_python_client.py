"""The Python client and its example against a real server."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from real_server import RealServer
from serving_fakes import KINDS, L

from anytime_ar.client import AsyncClient, Client, RemoteSampleResult, RequestFailed
from anytime_ar.sampling import AnytimeModel

EXAMPLE = Path(__file__).parents[2] / "examples/http_client.py"


def test_the_client_draws_refines_streams_encodes_and_decodes(
    server: RealServer, alone: dict[str, AnytimeModel], kind: str
) -> None:
    name, model = KINDS[kind], alone[KINDS[kind]]
    with Client(server.url) as client:
        assert client.models()[0]["name"] == "image"
        drawn = client.sample(
            3, model=name, label="cat", seed=5, codes=4, deadline_s=30, with_codes=True
        )
        assert (drawn.codes_drawn, drawn.labels, drawn.seed) == (4, ["cat"] * 3, 5)
        assert drawn.codes is not None
        expected = model.generate(3, label="cat", seed=5, codes=4)
        np.testing.assert_array_equal(drawn.codes, expected.codes.numpy())
        np.testing.assert_allclose(drawn.data, expected.data.numpy(), atol=1e-6)
        assert client.refine(drawn.id, deadline_s=30).codes_drawn == L
        *previews, last = client.stream(2, model=name, seed=1)
        assert [preview.codes_drawn for preview in previews] == list(range(1, L))
        assert isinstance(last, RemoteSampleResult)
        *_, more = client.stream_refine(client.sample(model=name, seed=1, codes=2).id, codes=5)
        assert more.codes_drawn == 5
        codes = client.encode(drawn.data, model=name).codes
        np.testing.assert_array_equal(codes, model.encode(expected.data).numpy())
        np.testing.assert_allclose(
            client.decode(codes[:, :2], model=name),
            model.decode(model.encode(expected.data)[:, :2]),
            atol=1e-6,
        )
        assert client.refine(drawn.id).codes_drawn == L  # it has all codes already
        client.stop(drawn.id)
        with pytest.raises(RequestFailed) as failed:
            client.stop(drawn.id)
        assert failed.value.code == "not_found"


def test_fixed_codes_and_variations(
    server: RealServer, alone: dict[str, AnytimeModel], kind: str
) -> None:
    name, model = KINDS[kind], alone[KINDS[kind]]
    fixed = np.array([3, -1, 7, -1, -1, 2])
    options = {"model": name, "label": "dog", "seed": 4, "guidance": 2.0, "with_codes": True}
    expected = model.sample_codes(2, label="dog", seed=4, guidance=2.0, fixed_codes=fixed).numpy()
    with Client(server.url) as client:
        for one in (fixed, fixed.tolist(), [fixed.tolist()] * 2, fixed[None]):
            drawn = client.sample(2, fixed_codes=one, **options)
            np.testing.assert_array_equal(drawn.codes, expected)
        part = client.sample(2, fixed_codes=fixed, codes=1, **options)
        np.testing.assert_array_equal(client.refine(part.id, with_codes=True).codes, expected)
        varied = client.vary(drawn, 3, keep=4, index=1, seed=8, with_codes=True)
        result = model.generate(2, label="dog", seed=4, guidance=2.0, fixed_codes=fixed)
        one = model.generate(1, first=1, label="dog", seed=4, guidance=2.0, fixed_codes=fixed)
        np.testing.assert_array_equal(one.codes[0], result.codes[1])
        np.testing.assert_array_equal(varied.codes, model.vary(one, keep=4, n=3, seed=8).codes)
        assert varied.labels == ["dog"] * 3
        whole = client.vary(drawn.id, 2, keep=L, index=1, with_codes=True)
        np.testing.assert_array_equal(whole.codes, expected[[1, 1]])
        fresh = client.vary(drawn.id, 2, keep=0, seed=5, with_codes=True)
        np.testing.assert_array_equal(
            fresh.codes, model.sample_codes(2, label="dog", seed=5, guidance=2.0)
        )
        uploaded = client.vary(drawn.data[0], 3, keep=5, seed=8, model=name, with_codes=True)
        np.testing.assert_array_equal(
            uploaded.codes, model.vary(drawn.data[:1], keep=5, n=3, seed=8).codes
        )
        several = {"candidates": 3, "candidate_codes": 2, "label": "dog", "seed": 4}
        best = model.sample_codes(2, **several)
        chosen = client.sample(2, model=name, codes=5, with_codes=True, **several)
        np.testing.assert_array_equal(chosen.codes, best[:, :5])
        np.testing.assert_array_equal(client.refine(chosen.id, with_codes=True).codes, best)
        *_, last = client.stream(2, vary={"id": drawn.id, "keep": 3}, with_codes=True)
        np.testing.assert_array_equal(last.codes[:, :3], expected[[0, 0], :3])


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ({"fixed_codes": [8]}, "invalid", "fixed_codes: code 8 at row 0, position 0 is out of"),
        ({"fixed_codes": [0] * (L + 1)}, "invalid", f"exceeds code length {L}"),
        ({"fixed_codes": [[0]] * 3}, "invalid", "fixed_codes has 3 rows for 1 samples"),
        ({"fixed_codes": [[0], [0, 1]]}, "invalid", "cut all rows to one length"),
        ({"fixed_codes": [1], "vary": {"id": "a" * 9, "keep": 1}}, "invalid", "omit fixed_codes"),
        ({"candidates": 0}, "invalid", "candidates"),
        ({"candidates": 33}, "invalid", "n=1 with 33 candidates takes 33 batch rows, and this"),
        ({"candidates": 2, "codes": 2}, "invalid", "candidates have beginnings of 3 codes, and"),
        ({"vary": {"keep": 1}}, "invalid", "pass either id or sample"),
        ({"vary": {"id": "a" * 9, "sample": "", "keep": 1}}, "invalid", "either id or sample"),
        ({"vary": {"id": "a" * 9, "keep": 1}}, "not_found", "there are no samples with the id"),
        ({"vary": {"sample": "AA!", "keep": 1}}, "invalid", "vary.sample: is not valid base64"),
        ({"vary": {"sample": "AAAA", "keep": 1}}, "invalid", "vary.sample: cannot be read"),
    ],
)
def test_wrong_fixed_codes_and_variations_are_told(
    server: RealServer, options: dict[str, Any], code: str, message: str
) -> None:
    with Client(server.url) as client:
        with pytest.raises(RequestFailed, match=message) as failed:
            client.sample(**options)
        assert failed.value.code == code
        drawn = client.sample(2, codes=4)
        for wrong, told in (
            ({"keep": 5}, r"vary.keep=5 is outside 0..4, the codes of the sample"),
            ({"keep": 1, "index": 2}, r"vary.index=2 is outside 0..1"),
            ({"keep": 1, "model": "sound"}, "are of model 'image', not 'sound'"),
        ):
            with pytest.raises(RequestFailed, match=told):
                client.vary(drawn, **wrong)


def test_the_asynchronous_client_does_the_same(
    server: RealServer, alone: dict[str, AnytimeModel]
) -> None:
    async def run() -> None:
        async with AsyncClient(server.url) as client:
            several = await asyncio.gather(
                *(client.sample(2, seed=i, deadline_s=30) for i in range(8))
            )
            for i, drawn in enumerate(several):
                expected = alone["image"].sample(2, seed=i, codes=drawn.codes_drawn)
                np.testing.assert_allclose(drawn.data, expected.numpy(), atol=1e-6)
            first = several[0]
            if first.codes_drawn < L:
                assert (await client.refine(first.id)).codes_drawn == L
            items = [item async for item in client.stream(1, codes=5)]
            assert [item.codes_drawn for item in items] == [1, 2, 3, 4, 5]
            refined = [item async for item in client.stream_refine(items[-1].id, codes=7)]
            assert refined[-1].codes_drawn == 7
            codes = (await client.encode(first.data)).codes
            assert (await client.decode(codes)).shape == first.data.shape
            assert len(await client.models()) == 6
            await client.stop(items[-1].id)
            with pytest.raises(RequestFailed):
                await client.sample(model="nothing")

    asyncio.run(run())


def test_the_example_asks_for_samples_within_a_deadline(server: RealServer) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), server.url], capture_output=True, text=True, check=True
    )
    assert " codes, 4 samples, " in done.stdout
