"""What the server promises when places are few, clients leave, and the device misbehaves: a real
server on a device whose steps take as long as a test says."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from real_server import RealServer, events
from serving_fakes import KINDS, L
from spoiled_server import FAILS, HELD_S, Device

from anytime_ar.sampling import AnytimeModel
from processes import wait_for

SHORT_S = 0.05
LONG_S = 0.15
VERY_LONG_S = 0.4
"""Of a step: a test can do something before a draw of twelve ends."""
HEARD_S = 1.0
"""After which the server has heard of what a client did, also while a step is held."""
STALL_TIMEOUT_S = 3.0
"""After which an iteration counts as stalled: no step takes so long that is not held."""


class Spoiled:
    """A server with some models on one device, and clients, who ask for the first of them."""

    def __init__(
        self, folder: Path, *models: Path, step_s: float, options: tuple[str, ...] = ()
    ) -> None:
        self.device = Device(folder / "device", step_s, stall_timeout_s=STALL_TIMEOUT_S)
        self.server = RealServer(
            *map(str, models), options=options, logs=folder / "log", device=self.device
        ).ready()
        self.pool = ThreadPoolExecutor(16)
        self.client = self.server.client()
        self.model = models[0].name

    def post(self, **body: Any) -> httpx.Response:
        with self.server.client() as client:
            return client.post("/v1/samples", json={"model": self.model, **body})

    def ask(self, **body: Any) -> Future[httpx.Response]:
        """The same beside others."""
        return self.pool.submit(self.post, **body)

    def load(self) -> tuple[int, int]:
        """Rows that are drawn, and jobs that wait, of all models."""
        return load_of(self.client)

    def wait_for_load(self, rows: int, waiting: int) -> None:
        wait_for(lambda: self.load() == (rows, waiting), f"{rows} rows and {waiting} that wait")

    def hold(self) -> None:
        """Hold the fourth step of the draw that is asked for next."""
        self.held_step = self.device.steps + 4
        self.device.set(SHORT_S, then_held_from=self.held_step)

    def wait_until_held(self) -> None:
        wait_for(lambda: self.device.steps == self.held_step, "some codes")

    def draws_nothing_more(self) -> None:
        """Check that there is no step after the one that is held."""
        time.sleep(HEARD_S)
        self.device.set(SHORT_S)
        self.wait_for_load(0, 0)
        assert self.device.steps == self.held_step

    def ready(self) -> int:
        return self.client.get("/readyz").status_code

    @contextmanager
    def watching(self) -> Iterator[set[tuple[int, int]]]:
        """Rows and jobs that wait, of each model at each time until the end."""
        seen: set[tuple[int, int]] = set()
        end = threading.Event()

        def watch() -> None:
            with self.server.client() as client:
                while not end.is_set():
                    models = client.get("/v1/load").json()["models"]
                    seen.update((model["rows"], model["waiting"]) for model in models)

        watcher = self.pool.submit(watch)
        yield seen
        end.set()
        watcher.result()

    @contextmanager
    def connection(self, **body: Any) -> Iterator[socket.socket]:
        """One over which a draw was asked for; at the end it is closed, whatever comes."""
        host, port = self.server.url.removeprefix("http://").split(":")
        content = json.dumps({"model": self.model, **body}).encode()
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(
                b"POST /v1/samples HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (len(content), content)
            )
            yield raw

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()
        self.pool.shutdown()
        code = self.server.terminate()
        assert code == 0 or any(error)  # what failed is of more interest


def load_of(client: httpx.Client) -> tuple[int, int]:
    """Rows that are drawn, and jobs that wait, of all models of a server."""
    models = client.get("/v1/load").json()["models"]
    return sum(model["rows"] for model in models), sum(model["waiting"] for model in models)


@pytest.fixture(scope="module")
def four_places(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Spoiled]:
    """For each of three models."""
    folder = tmp_path_factory.mktemp("spoiled")
    served = [models[name] for name in KINDS.values()]
    with Spoiled(folder, *served, step_s=SHORT_S, options=("--slots", "4")) as made:
        yield made


def in_order(server: Spoiled, model: str) -> Spoiled:
    """The server, on a device that is in order, and has been for some steps of a model."""
    server.model = model
    server.device.set(SHORT_S)
    wait_for(lambda: server.ready() == 200, "the device")
    server.post()
    return server


@pytest.fixture
def spoiled(four_places: Spoiled) -> Spoiled:
    """With four places; clients ask for the model of ours."""
    return in_order(four_places, "image")


@pytest.fixture
def any_spoiled(four_places: Spoiled, kind: str) -> Spoiled:
    """The same for each kind of model."""
    return in_order(four_places, KINDS[kind])


def codes_of(response: httpx.Response) -> list[list[int]]:
    assert response.status_code == 200, response.text
    codes: list[list[int]] = response.json()["codes"]
    return codes


def test_a_draw_of_several_joins_whole_and_at_the_boundary(spoiled: Spoiled) -> None:
    spoiled.device.set(VERY_LONG_S)
    with spoiled.watching() as seen:
        first = spoiled.ask(n=3, min_codes=L)
        spoiled.wait_for_load(3, 0)
        pair = spoiled.ask(n=2, min_codes=L)
        spoiled.wait_for_load(3, 1)  # one place is free, and not taken by half of a draw
        spoiled.device.set(LONG_S)
        assert len(first.result().json()["samples"]) == 3
        assert len(pair.result().json()["samples"]) == 2
    assert {rows for rows, _ in seen} <= {0, 2, 3}
    with spoiled.watching() as seen:
        pairs = [spoiled.ask(n=2, min_codes=L) for _ in range(2)]
        assert all(len(one.result().json()["samples"]) == 2 for one in pairs)
    assert max(seen) == (4, 0)  # exactly full, and nobody has to wait
    assert spoiled.post(n=5).status_code == 422


def test_many_race_for_one_place_of_each_model(
    models: dict[str, Path], tmp_path: Path, alone: dict[str, AnytimeModel]
) -> None:
    names = [*KINDS.values()] * 4
    served = [models[name] for name in KINDS.values()]
    with Spoiled(tmp_path, *served, step_s=0.02, options=("--slots", "1")) as spoiled:
        with spoiled.watching() as seen:
            asked = [
                spoiled.ask(model=name, seed=seed, with_codes=True, min_codes=L)
                for seed, name in enumerate(names)
            ]
            answers = [one.result() for one in asked]
        for seed, (name, answer) in enumerate(zip(names, answers, strict=True)):
            assert codes_of(answer) == alone[name].sample_codes(1, seed=seed).tolist()
        assert max(rows for rows, _ in seen) == 1
        assert max(waiting for _, waiting in seen) > 1


def test_places_of_the_stopped_the_gone_and_the_failed_are_free_again(any_spoiled: Spoiled) -> None:
    any_spoiled.device.set(VERY_LONG_S)
    name = f"stop-{any_spoiled.model}-soon"
    stopped = any_spoiled.ask(n=4, id=name)
    any_spoiled.wait_for_load(4, 0)
    assert any_spoiled.client.delete(f"/v1/samples/{name}").status_code == 200
    assert stopped.result().json()["stop_reason"] == "cancelled"
    with any_spoiled.connection(n=4):
        any_spoiled.wait_for_load(4, 0)
    any_spoiled.wait_for_load(0, 0)
    failed = any_spoiled.ask(n=4)
    any_spoiled.wait_for_load(4, 0)
    any_spoiled.device.set(FAILS)
    assert failed.result().json()["error"]["code"] == "broken"
    any_spoiled.device.set(0.001)
    wait_for(lambda: any_spoiled.ready() == 200, "the device")
    assert any_spoiled.load() == (0, 0)
    whole = any_spoiled.post(n=4)
    assert (len(whole.json()["samples"]), whole.json()["codes_drawn"]) == (4, L)


@pytest.mark.parametrize(
    ("model", "stream"), [("image", True), ("image", False), ("llama", True), ("codec", False)]
)
def test_no_code_is_drawn_for_who_has_left(spoiled: Spoiled, model: str, stream: bool) -> None:
    spoiled.model = model
    spoiled.hold()
    with spoiled.connection(n=2, stream=stream):
        spoiled.wait_until_held()
    spoiled.draws_nothing_more()


def test_no_code_is_drawn_after_a_stop(any_spoiled: Spoiled) -> None:
    any_spoiled.hold()
    name = f"no-more-of-{any_spoiled.model}"
    drawing = any_spoiled.ask(n=2, id=name)
    any_spoiled.wait_until_held()
    # a new client takes a while to make on a busy machine
    stopping = any_spoiled.pool.submit(any_spoiled.client.delete, f"/v1/samples/{name}")
    any_spoiled.draws_nothing_more()
    stopped = stopping.result().json()
    assert stopped["codes_drawn"] == drawing.result().json()["codes_drawn"] >= 3


def test_no_code_is_drawn_that_the_deadline_leaves_no_time_for(any_spoiled: Spoiled) -> None:
    any_spoiled.device.set(LONG_S)
    any_spoiled.post(codes=4)  # how long steps are now is known
    before = any_spoiled.device.steps
    answer = any_spoiled.post(n=2, deadline_ms=6 * 1000 * LONG_S).json()
    assert answer["stop_reason"] == "deadline"
    assert any_spoiled.device.steps == before + answer["codes_drawn"]
    assert 1 <= answer["codes_drawn"] <= 5
    time.sleep(2 * LONG_S)
    assert any_spoiled.device.steps == before + answer["codes_drawn"]


def test_fewer_codes_than_the_floor_are_an_error_and_no_answer(spoiled: Spoiled) -> None:
    spoiled.device.set(0.8 * STALL_TIMEOUT_S)  # nobody could know
    told = spoiled.post(min_codes=L, deadline_ms=2000 * SHORT_S * L)
    assert (told.status_code, told.json()["error"]["code"]) == (504, "deadline")
    # or it has taken so long before the first step that the deadline could not be kept any more
    message = told.json()["error"]["message"]
    assert re.search("before the samples had their|is too short for the minimum codes", message)


def process_status(pid: int, name: str) -> int:
    """A figure of Linux's /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def test_five_hundred_that_leave_leave_nothing(models: dict[str, Path], tmp_path: Path) -> None:
    names = [*KINDS.values()]
    served = [models[name] for name in names]
    with Spoiled(tmp_path, *served, step_s=0.002, options=("--slots", "16")) as spoiled:
        pid = spoiled.server.process.pid

        def leave(times: int) -> tuple[int, int, int]:
            """Threads, open files and KiB of memory after so many."""
            for i in range(times):
                body = {"n": 1 + i % 8, "stream": i % 2 == 0, "id": f"leaves-soon-{i}"}
                body["model"] = names[i // 8 % 3]
                with spoiled.connection(**body, **({"deadline_ms": 5} if i % 7 == 0 else {})):
                    time.sleep(i % 6 / 1000)
                    if i % 5 == 0:
                        spoiled.client.delete(f"/v1/samples/leaves-soon-{i}")
            spoiled.wait_for_load(0, 0)
            files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            return process_status(pid, "Threads"), files, process_status(pid, "VmRSS")

        threads, files, memory = leave(100)
        after = leave(500)
        assert after[0] <= threads + 1  # the second one of those that write pictures
        assert after[1] <= files
        assert after[2] <= 1.02 * memory
        assert spoiled.post(n=16).json()["codes_drawn"] == L


def test_a_broken_device_is_told_and_comes_back(any_spoiled: Spoiled) -> None:
    any_spoiled.device.set(VERY_LONG_S)
    with any_spoiled.server.client() as client:
        body = {"model": any_spoiled.model, "stream": True}
        with client.stream("POST", "/v1/samples", json=body) as response:
            any_spoiled.wait_for_load(1, 0)
            any_spoiled.device.set(FAILS)
            *previews, (name, told) = events(response)
        assert {name for name, _ in previews} <= {"preview"}
        assert (name, told["error"]["code"]) == ("error", "broken")
        wait_for(lambda: any_spoiled.ready() == 503, "the failure to be known")
        again = any_spoiled.post()
        assert (again.status_code, again.json()["error"]["code"]) == (503, "broken")
        assert int(again.headers["retry-after"]) >= 1
        assert client.get("/livez").status_code == 200
        assert "anytime_ready 0.0" in client.get("/metrics").text
    any_spoiled.device.set(0.001)
    wait_for(lambda: any_spoiled.ready() == 200, "the device")
    assert any_spoiled.post().json()["codes_drawn"] == L


def test_nobody_waits_for_a_device_that_is_stuck(spoiled: Spoiled) -> None:
    spoiled.device.set(HELD_S)
    waiting = spoiled.ask(n=2)
    wait_for(lambda: spoiled.ready() == 503, "it to be noticed")
    told = waiting.result()
    assert (told.status_code, told.json()["error"]["code"]) == (503, "broken")
    assert spoiled.post().json()["error"]["code"] == "broken"
    encode = spoiled.client.post("/v1/decode", json={"codes": [[0, 1]]})
    assert encode.json()["error"]["code"] == "broken"
    assert spoiled.client.get("/livez").status_code == 200
    spoiled.device.set(0.001)
    wait_for(lambda: spoiled.ready() == 200, "it to go on")
    assert spoiled.post().json()["codes_drawn"] == L


def test_a_stuck_device_does_not_keep_the_process(models: dict[str, Path], tmp_path: Path) -> None:
    with Spoiled(tmp_path, models["image"], step_s=0.05) as spoiled:
        spoiled.device.set(HELD_S)
        waiting = spoiled.ask(n=2)
        wait_for(lambda: spoiled.ready() == 503, "it to be noticed")
        assert waiting.result().status_code == 503
