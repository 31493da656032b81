"""The Python client and its example against a real server."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

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
