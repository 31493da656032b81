"""`anytime serve --engine ray` as a process: two replicas, of which one is killed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from real_server import RealServer, events, events_of
from serving_fakes import KINDS, SLOW_KINDS, SLOW_L, tiny_bundle

from anytime_ar.sampling import AnytimeModel
from processes import PATIENCE_S, wait_for

SERVED = (*KINDS.values(), *SLOW_KINDS.values())
KEY = {"Authorization": "Bearer secret-of-a"}


@pytest.fixture(scope="module")
def slow_alone() -> list[AnytimeModel]:
    """The slow models in this process."""
    return [
        AnytimeModel(tiny_bundle(name, name=name), device="cpu") for name in SLOW_KINDS.values()
    ]


@pytest.fixture(scope="module")
def cluster(
    models: dict[str, Path],
    slow_alone: list[AnytimeModel],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RealServer]:
    folder = tmp_path_factory.mktemp("cluster")
    for model in slow_alone:
        model.save(folder / model.bundle.card.name)
    keys = folder / "keys"
    keys.write_text("a secret-of-a\nb secret-of-b\n")
    options = ("--engine", "ray", "--replicas", "2", "--threads", "1", "--slots", "32")
    options += ("--deadline-s", "600")  # draws end by their last code, however slow the machine
    real = RealServer(
        *(str(models[name]) for name in KINDS.values()),
        *(str(folder / name) for name in SLOW_KINDS.values()),
        options=(*options, "--api-key-file", str(keys)),
        logs=folder / "cluster.log",
    )
    yield real.ready()
    if real.process.poll() is None:
        assert real.terminate() == 0


@pytest.fixture
def client(cluster: RealServer) -> Iterator[httpx.Client]:
    with cluster.client(**KEY) as one:
        yield one


def asked(client: httpx.Client, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/samples", json={"with_codes": True, **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_it_answers_as_one_server_does(
    client: httpx.Client, alone: dict[str, AnytimeModel]
) -> None:
    answer = asked(client, model="image", seed=3, n=2, label="owl", codes=4)
    whole = alone["image"].sample_codes(2, seed=3, label="owl").tolist()
    assert answer["codes"] == [row[:4] for row in whole]
    more = client.post(f"/v1/samples/{answer['id']}/refine", json={"with_codes": True})
    assert more.json()["codes"] == whole
    assert client.delete(f"/v1/samples/{answer['id']}").status_code == 204
    assert client.delete(f"/v1/samples/{answer['id']}").status_code == 404
    wrong = client.post("/v1/samples", json={"label": "purple"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (422, "invalid")
    with client.stream(
        "POST", "/v1/samples", json={"model": "slow", "seed": 5, "stream": True}
    ) as stream:
        told = events(stream)
    assert [name for name, _ in told] == ["preview"] * (len(told) - 1) + ["done"]
    assert told[-1][1]["codes_drawn"] == SLOW_L
    codes = alone["image"].sample_codes(1, seed=1).tolist()
    decoded = client.post("/v1/decode", json={"model": "image", "codes": codes})
    assert decoded.status_code == 200
    names = [model["name"] for model in client.get("/v1/models").json()["models"]]
    assert names == [*SERVED]
    assert client.get("/readyz").json() == {"status": "ready"}
    assert (
        'anytime_requests_finished_total{model="slow",reason="complete"}'
        in client.get("/metrics").text
    )
    load = {one["model"]: one["slots"] for one in client.get("/v1/load").json()["models"]}
    assert load["image"] == 2 * 32  # of both


@pytest.mark.parametrize("model", ["llama", "codec"])
def test_it_serves_parts_of_other_packages(
    client: httpx.Client, alone: dict[str, AnytimeModel], model: str
) -> None:
    answer = asked(client, model=model, seed=3, n=2, label="owl", codes=4)
    more = client.post(f"/v1/samples/{answer['id']}/refine", json={"with_codes": True})
    assert more.json()["codes"] == alone[model].sample_codes(2, seed=3, label="owl").tolist()


def test_it_keeps_clients_apart(cluster: RealServer, client: httpx.Client) -> None:
    with cluster.client() as nobody:
        assert nobody.get("/livez").status_code == nobody.head("/livez").status_code == 200
        assert nobody.get("/livez", headers={"Host": "evil.example"}).status_code == 421
        assert nobody.post("/v1/samples", json={}).status_code == 401
    mine = asked(client, model="image")
    with cluster.client(Authorization="Bearer secret-of-b") as other:
        assert other.post(f"/v1/samples/{mine['id']}/refine", json={}).status_code == 404


def test_no_draw_is_lost_with_a_replica(
    cluster: RealServer,
    client: httpx.Client,
    alone: dict[str, AnytimeModel],
    slow_alone: list[AnytimeModel],
) -> None:
    quick = [*KINDS.values()] * 2
    kept = [asked(client, model=name, seed=i, codes=3) for i, name in enumerate(quick)]  # on both
    under_way = threading.Barrier(5)

    def draw(seed: int) -> list[tuple[str, dict[str, Any]]]:
        name = slow_alone[seed % 3].bundle.card.name
        body = {"model": name, "seed": seed, "n": 4, "with_codes": True}
        with client.stream("POST", "/v1/samples", json={**body, "stream": True}) as stream:
            parts = stream.iter_raw()
            first = next(parts)
            under_way.wait(PATIENCE_S)
            return events_of(first + b"".join(parts))

    with ThreadPoolExecutor(4) as pool:
        draws = [pool.submit(draw, seed) for seed in range(4)]
        under_way.wait(PATIENCE_S)
        victim = cluster.workers()[0]
        os.kill(victim, signal.SIGKILL)
        told = [one.result() for one in draws]
    for seed, all_of_it in enumerate(told):
        assert [name for name, _ in all_of_it].count("done") == 1
        name, answer = all_of_it[-1]
        assert (name, answer["stop_reason"]) == ("done", "complete")
        assert answer["codes"] == slow_alone[seed % 3].sample_codes(4, seed=seed).tolist()
        drawn = [answer["codes_drawn"] for _, answer in all_of_it[:-1]]
        assert drawn == sorted(set(drawn))
    for seed, (name, answer) in enumerate(zip(quick, kept, strict=True)):
        more = client.post(f"/v1/samples/{answer['id']}/refine", json={"with_codes": True})
        assert more.json()["codes"] == alone[name].sample_codes(1, seed=seed).tolist()
    wait_for(
        lambda: (
            client.get("/v1/load").json()["models"][0]["slots"] == 64
            and victim not in cluster.workers()
        ),
        "a replica in its place",
    )


def test_its_end_answers_what_is_under_way(cluster: RealServer, client: httpx.Client) -> None:
    under_way = threading.Barrier(4)

    def draw(model: str) -> list[str]:
        body = {"model": model, "n": 16, "stream": True, "previews_per_s": 50}
        with client.stream("POST", "/v1/samples", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            under_way.wait(PATIENCE_S)
            return [line.partition(": ")[2] for line in lines if line.startswith("event")]

    with ThreadPoolExecutor(3) as pool:
        draws = [pool.submit(draw, model) for model in SLOW_KINDS.values()]
        under_way.wait(PATIENCE_S)
        cluster.process.send_signal(signal.SIGTERM)
        told = [one.result() for one in draws]
    for names in told:
        assert names[-1] == "done"
        assert set(names[:-1]) <= {"preview"}
    assert cluster.process.wait(PATIENCE_S) == 0
    assert cluster.process.stdout is not None
    cluster.process.stdout.close()
    assert cluster.workers() == []
    assert "ended" in cluster.lines("message")
