"""The API of a real server over real connections."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from real_server import RealServer, events, events_of
from serving_fakes import KINDS, LABELS, SLOW_L, L
from spoiled_server import HELD_S, SLOW_STEP_S, Device, slow_device

from anytime_ar.cli import main
from anytime_ar.client import Client
from anytime_ar.sampling import AnytimeModel
from anytime_ar.serving.http.middleware import MAX_HEADER_BYTES
from anytime_ar.serving.http.negotiation import JSON
from processes import wait_for

LONG_STEP_S = 0.2
"""Of the slow model: a draw of all codes takes 80 s, and a test can do something meanwhile."""


def post(server: RealServer, path: str, body: Any, **headers: str) -> httpx.Response:
    with server.client(**headers) as client:
        return client.post(path, json=body)


def sample(server: RealServer, **body: Any) -> dict[str, Any]:
    response = post(server, "/v1/samples", body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_an_id_is_taken_once_however_many_ask_at_the_same_time(
    server: RealServer, device: Device
) -> None:
    body = {"model": "slow", "n": 4, "id": "one-of-many"}
    device.set(HELD_S)
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(post, server, "/v1/samples", body) for _ in range(6)]
        answers = as_completed(asked)
        statuses = [next(answers).result().status_code for _ in range(5)]
        device.set(SLOW_STEP_S)
        statuses.append(next(answers).result().status_code)
    assert statuses == [409] * 5 + [200]


def slow_rows(server: RealServer) -> int:
    """Rows of the slow model that are being drawn."""
    with server.client() as client:
        rows: int = client.get("/v1/load").json()["models"][3]["rows"]
    return rows


def jobs(client: httpx.Client) -> tuple[float, ...]:
    """How many run, and how many wait."""
    found = re.findall(
        r"^anytime_requests_(?:running|waiting) (\S+)", client.get("/metrics").text, re.M
    )
    return tuple(map(float, found))


def error(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    told: dict[str, Any] = response.json()["error"]
    assert told["code"] == code
    return told


def test_a_seed_gives_the_codes_that_it_gives_in_python_whatever_else_goes_on(
    server: RealServer, alone: dict[str, AnytimeModel]
) -> None:
    asked = [
        {"model": kind, "n": 1 + i % 3, "seed": i, "label": LABELS[i % 3], **options}
        for i in range(25)
        for kind, options in [
            [
                ("image", {}),
                ("sound", {"guidance": 1.5}),
                ("colour", {"codes": 5}),
                ("llama", {"guidance": 2.0}),
                ("codec", {}),
            ][i % 5]
        ]
    ]
    with ThreadPoolExecutor(12) as pool:
        background = pool.submit(sample, server, model="slow", n=8)
        answers = list(pool.map(lambda one: sample(server, **one, with_codes=True), asked))
        background.result()
    for one, answer in zip(asked, answers, strict=True):
        model = alone[one.pop("model")]
        codes = model.sample_codes(**{**one, "codes": answer["codes_drawn"]})
        assert answer["codes"] == codes.tolist()
        assert answer["labels"] == [one["label"]] * one["n"]
        assert answer["stop_reason"] in ("complete", "load")


def test_samples_are_what_the_codes_decode_to(
    server: RealServer, alone: dict[str, AnytimeModel]
) -> None:
    for kind, forms in {
        "image": ("png", "webp"),
        "colour": ("png", "webp"),
        "llama": ("png",),
    }.items():
        exact = sample(server, model=kind, seed=4, format="npy")
        data = np.load(io.BytesIO(base64.b64decode(exact["samples"][0])))
        torch.testing.assert_close(torch.from_numpy(data), alone[kind].sample(1, seed=4)[0])
        for form in forms:
            told = sample(server, model=kind, seed=4, format=form)
            image = np.asarray(Image.open(io.BytesIO(base64.b64decode(told["samples"][0]))))
            channels = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
            wanted = np.round((data + 1) * 127.5)
            assert np.abs(channels.astype(float) - wanted).max() <= 1
    for kind in ("sound", "codec"):
        told = sample(server, model=kind, seed=4)
        assert told["format"] == "wav"
        wave, rate = soundfile.read(io.BytesIO(base64.b64decode(told["samples"][0])))
        assert rate == 8000
        np.testing.assert_allclose(wave, alone[kind].sample(1, seed=4)[0, 0].numpy(), atol=1e-3)


def test_one_sample_comes_as_bytes_where_its_type_is_accepted(server: RealServer) -> None:
    response = post(server, "/v1/samples", {"seed": 1}, Accept="image/png")
    assert response.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(response.content)).size == (8, 8)
    assert response.headers["anytime-codes"] == f"{L}/{L}"
    assert response.headers["anytime-stop-reason"] == "complete"
    assert response.headers["anytime-seed"] == "1"
    path = f"/v1/samples/{response.headers['anytime-id']}/refine"
    again = post(server, path, {}, Accept="image/*")
    assert (again.headers["content-type"], again.content) == ("image/png", response.content)


def test_what_is_accepted_is_answered_or_refused(server: RealServer) -> None:
    several = post(server, "/v1/samples", {"n": 2}, Accept="image/png")
    assert "a file holds one sample" in error(several, 406, "not_acceptable")["message"]
    error(post(server, "/v1/samples", {}, Accept="audio/wav"), 406, "not_acceptable")
    error(post(server, "/v1/samples", {"stream": True}, Accept=JSON), 406, "not_acceptable")
    error(post(server, "/v1/decode", {"codes": [[1]]}, Accept="image/png"), 406, "not_acceptable")
    streamed = post(server, "/v1/samples", {"n": 2}, Accept="text/event-stream")
    assert streamed.headers["content-type"].startswith("text/event-stream")
    found = events_of(streamed.content)
    assert [name for name, _ in found] == ["preview"] * (L - 1) + ["done"]
    path = f"/v1/samples/{found[0][1]['id']}/refine"
    error(post(server, path, {}, Accept="image/png"), 406, "not_acceptable")
    assert post(server, path, {}, Accept=JSON).json()["n"] == 2


def test_every_answer_says_what_became_of_the_request(server: RealServer) -> None:
    answer = sample(server, n=2, codes=5, deadline_ms=20_000)
    assert (answer["codes_drawn"], answer["code_length"], answer["n"]) == (5, L, 2)
    assert answer["stop_reason"] == "complete"
    assert answer["quality"] == pytest.approx(5 / 9)
    timing = answer["timing"]
    parts = timing["queue_ms"] + timing["sampling_ms"] + timing["decode_ms"]
    assert 0 < parts <= timing["total_ms"]
    assert timing["late_ms"] == pytest.approx(timing["total_ms"] - 20_000, abs=1)
    assert sample(server)["timing"]["late_ms"] is None
    by_quality = sample(server, quality=0.5)
    assert by_quality["codes_drawn"] == 5  # the curve: FD 9 / k, flat from 9 on


def test_a_stream_has_previews_and_exactly_one_end(
    server: RealServer, alone: dict[str, AnytimeModel], kind: str
) -> None:
    body = {"model": KINDS[kind], "n": 2, "seed": 3, "stream": True, "with_codes": True}
    with server.client() as client, client.stream("POST", "/v1/samples", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        found = events(response)
    names = [name for name, _ in found]
    assert names == ["preview"] * (L - 1) + ["done"]
    codes = alone[KINDS[kind]].sample_codes(2, seed=3)
    for k, (_, data) in enumerate(found, 1):
        assert data["codes"] == codes[:, :k].tolist()
        assert len(data["samples"]) == 2
    assert len({data["id"] for _, data in found}) == 1
    assert found[-1][1]["stop_reason"] == "complete"


def test_a_draw_is_refined_until_it_is_forgotten(
    server: RealServer, alone: dict[str, AnytimeModel], kind: str
) -> None:
    first = sample(server, model=KINDS[kind], n=2, seed=8, codes=3)
    path = f"/v1/samples/{first['id']}"
    more = post(server, f"{path}/refine", {"codes": 7, "with_codes": True}).json()
    assert more["id"] == first["id"]
    assert more["codes"] == alone[KINDS[kind]].sample_codes(2, seed=8, codes=7).tolist()
    same = post(server, f"{path}/refine", {"codes": 7, "with_codes": True}).json()
    assert (same["codes"], same["samples"]) == (more["codes"], more["samples"])
    assert same["stop_reason"] == "complete"
    less = error(post(server, f"{path}/refine", {"codes": 6}), 422, "invalid")
    assert "these samples have 7 codes already, and the request allows 6" in less["message"]
    with server.client() as client:
        whole = client.post(f"{path}/refine").json()  # no body: all codes
        again = client.post(f"{path}/refine").json()
        assert whole["codes_drawn"] == again["codes_drawn"] == L
        assert whole["samples"] == again["samples"]
        with client.stream("POST", f"{path}/refine", json={"stream": True}) as response:
            ((name, streamed),) = events(response)
        assert (name, streamed["samples"]) == ("done", whole["samples"])
        assert client.delete(path).status_code == 204
        error(client.delete(path), 404, "not_found")


def test_a_stop_a_moment_too_late_does_not_forget_the_draw(server: RealServer) -> None:
    body = {"n": 2, "seed": 8, "codes": 3, "stream": True, "id": "stopped-too-late"}
    with server.client() as client:
        with client.stream("POST", "/v1/samples", json=body) as response:
            assert events(response)[-1][0] == "done"
        assert client.delete("/v1/samples/stopped-too-late").status_code == 204
        more = client.post("/v1/samples/stopped-too-late/refine", json={"codes": 5})
        assert (more.status_code, more.json()["codes_drawn"]) == (200, 5)
        assert client.delete("/v1/samples/stopped-too-late").status_code == 204
        anew = client.post("/v1/samples", json={"id": "stopped-too-late", "codes": 2})
        assert (anew.status_code, anew.json()["codes_drawn"]) == (200, 2)


@pytest.mark.parametrize(
    "name", ["unknown-one", "x", "a" * 100, "what.is.it", "%E2%98%83%E2%98%83"]
)
def test_a_draw_that_is_not_there_is_not_found(server: RealServer, name: str) -> None:
    with server.client() as client:
        told = error(client.delete(f"/v1/samples/{name}"), 404, "not_found")
        assert "there are no samples with the id" in told["message"]
        error(client.post(f"/v1/samples/{name}/refine", json={}), 404, "not_found")


def test_a_draw_under_way_is_stopped_from_elsewhere(server: RealServer, device: Device) -> None:
    body = {"model": "slow", "n": 16, "id": "stop-me-now", "seed": 1}
    device.set(LONG_STEP_S)
    with ThreadPoolExecutor(1) as pool, server.client() as client:
        drawing = pool.submit(sample, server, **body)
        wait_for(lambda: slow_rows(server) > 0, "the draw")
        error(post(server, "/v1/samples", body), 409, "conflict")
        error(client.post("/v1/samples/stop-me-now/refine", json={}), 409, "conflict")
        stopped = client.delete("/v1/samples/stop-me-now").json()
        answer = drawing.result()
    assert stopped["stop_reason"] == answer["stop_reason"] == "cancelled"
    assert 0 < answer["codes_drawn"] == stopped["codes_drawn"] < SLOW_L
    device.set(SLOW_STEP_S)
    more = post(server, "/v1/samples/stop-me-now/refine", {"codes": SLOW_L})
    assert more.json()["codes_drawn"] == SLOW_L


@pytest.mark.parametrize("stream", [True, False])
def test_work_ends_when_the_client_leaves(server: RealServer, device: Device, stream: bool) -> None:
    def granted() -> float:
        with server.client() as client:
            text = client.get("/metrics").text
        found = re.search(r'codes_drawn_total\{model="slow"\} (\S+)', text)
        return float(found[1]) if found else 0.0

    before = granted()
    device.set(LONG_STEP_S)
    body = json.dumps({"model": "slow", "n": 16, "stream": stream})
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(
            b"POST /v1/samples HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body.encode())
        )
        wait_for(lambda: slow_rows(server) > 0, "the draw")
    wait_for(lambda: slow_rows(server) == 0, "its end")
    assert granted() - before < 16 * SLOW_L


def test_what_cannot_be_in_time_is_refused_with_a_time_to_return(server: RealServer) -> None:
    for _ in range(2):  # also if nothing else goes on
        body = {"model": "slow", "n": 32, "min_codes": SLOW_L, "deadline_ms": 100}
        response = post(server, "/v1/samples", body)
        told = error(response, 503, "overloaded")
        assert int(response.headers["retry-after"]) >= 1
        assert "a deadline of 100 ms is too short for the minimum codes" in told["message"]


def test_encode_and_decode(server: RealServer, alone: dict[str, AnytimeModel]) -> None:
    forms = {"image": "png", "colour": "webp", "sound": "wav", "llama": "npy", "codec": "npy"}
    for kind, form in (*forms.items(), ("image", "npy")):
        drawn = sample(server, model=kind, n=5, seed=2, format=form)
        response = post(server, "/v1/encode", {"model": kind, "samples": drawn["samples"]})
        codes = torch.tensor(response.json()["codes"])
        exact = sample(server, model=kind, n=5, seed=2, format="npy")["samples"]
        data = np.stack([np.load(io.BytesIO(base64.b64decode(text))) for text in exact])
        wanted = alone[kind].encode(torch.from_numpy(data))
        assert (codes == wanted).float().mean() > (0.999 if form == "npy" else 0.8)
        body = {"model": kind, "codes": wanted[:, :4].tolist(), "format": "npy"}
        answer = post(server, "/v1/decode", body).json()
        decoded = [np.load(io.BytesIO(base64.b64decode(text))) for text in answer["samples"]]
        expected = alone[kind].decode(wanted[:, :4])
        torch.testing.assert_close(torch.from_numpy(np.stack(decoded)), expected)


def test_models_are_described(server: RealServer) -> None:
    with server.client() as client:
        models = client.get("/v1/models").json()["models"]
    names = ["image", "colour", "sound", "slow", "llama", "codec"]
    assert [model["name"] for model in models] == names
    image, _, sound, slow, llama, codec = models
    assert llama == image | {"name": "llama", "curve": llama["curve"]}
    assert (codec["sample_rate"], codec["formats"]) == (8000, ["wav", "npy"])
    assert (image["sample_shape"], image["code_length"], image["vocabulary"]) == ([1, 8, 8], L, 8)
    assert image["labels"] == [*LABELS]
    assert image["formats"] == ["png", "webp", "npy"]
    assert (sound["sample_rate"], sound["formats"]) == (8000, ["wav", "npy"])
    assert [point["codes"] for point in image["curve"]] == list(range(1, L + 1))
    assert image["curve"][2]["quality"] == pytest.approx(1 / 3)
    assert slow["curve"] == []
    here = [point["server_ms"] for point in image["curve"]]  # not the 1, 2, ... ms of the curve
    assert 0 < here[0] < here[-1]
    assert [point["ms"] for point in image["curve"]] == list(range(1, L + 1))
    assert image["slots"] == 32


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"n": 0}, "n: Input should be greater than or equal to 1"),
        ({"n": True}, "n: Input should be a valid integer"),
        ({"n": 33}, "n=33 takes 33 batch rows, and this model has 32"),
        ({"n": 17, "guidance": 2}, "n=17 with guidance takes 34 batch rows"),
        ({"codes": L + 1}, f"codes={L + 1} is outside 1..{L}"),
        ({"codes": 3, "min_codes": 4}, "min_codes=4 is more than codes=3"),
        ({"label": "fox"}, "label 'fox' is unknown"),
        ({"label": ["cat"], "n": 2}, "1 labels were given for 2 samples"),
        ({"format": "wav"}, "format 'wav' does not suit samples of shape"),
        ({"quality": 1.5}, "quality: Input should be less than or equal to 1"),
        ({"temperature": -1}, "temperature: must be 0..100"),
        ({"model": "slow", "quality": 0.5}, "quality was not measured"),
        ({"deadline_ms": 0}, "deadline_ms: Input should be greater than 0"),
        ({"sead": 1}, "sead: Extra inputs are not permitted"),
        ({"id": "../../etc"}, "id: String should match pattern"),
    ],
)
def test_wrong_requests_are_told_what_is_wrong(
    server: RealServer, body: dict[str, Any], message: str
) -> None:
    assert message in error(post(server, "/v1/samples", body), 422, "invalid")["message"]


def test_errors_are_short_and_repeat_nothing(server: RealServer) -> None:
    secret = "do-not-repeat-me"
    response = post(server, "/v1/samples", {f"{secret}{i}" * 50: secret * 1000 for i in range(100)})
    assert len(error(response, 422, "invalid")["details"]) == 8
    assert len(response.content) < 5000
    assert secret * 20 not in response.text
    with server.client() as client:
        headers = {"Content-Type": "application/json"}
        nan = client.post("/v1/samples", content='{"temperature": NaN}', headers=headers)
        error(nan, 422, "invalid")
        error(client.post("/v1/samples", content="{", headers=headers), 422, "invalid")
        error(client.post("/v1/samples", content=b"\xff\xfe", headers=headers), 422, "invalid")
        error(client.get("/v1/samples"), 405, "not_allowed")
        for path in ("/nothing", "/v1/../../etc/passwd", "/page/%2e%2e/app.py", "/v1/samples/x"):
            assert client.get(path).status_code in (404, 405)
        big = client.post("/v1/samples", content=b" " * (65 * 2**20), headers=headers)
        error(big, 413, "too_large")
        pieces = client.post("/v1/samples", content=[b" " * 2**20] * 65, headers=headers)
        error(pieces, 413, "too_large")
        long = client.get("/v1/models", headers={"X-Long": "x" * MAX_HEADER_BYTES})
        error(long, 431, "too_large")
    wrong = post(server, "/v1/encode", {"samples": ["bm90aGluZw=="]})
    assert "samples.0: cannot be read as an image" in error(wrong, 422, "invalid")["message"]
    bomb = io.BytesIO()
    Image.new("1", (8192, 8192)).save(bomb, "png")
    response = post(server, "/v1/encode", {"samples": [base64.b64encode(bomb.getvalue()).decode()]})
    assert "8192 x 8192 are too many pixels" in error(response, 422, "invalid")["message"]
    claim = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)}
    np.lib.format.write_array_header_1_0(claim, header)
    body = {"samples": [base64.b64encode(claim.getvalue()).decode()]}
    message = error(post(server, "/v1/encode", body), 422, "invalid")["message"]
    assert "samples.0: cannot be read as a .npy file" in message
    response = post(server, "/v1/decode", {"codes": [[0, 8]]})
    assert "8 is not a code of this model" in error(response, 422, "invalid")["message"]


@pytest.mark.parametrize(
    "path",
    ["/livez", "/readyz", "/metrics", "/v1/models", "/v1/load", "/", "/page/page.js", "/nothing"],
)
def test_head_is_get_without_its_body(server: RealServer, path: str) -> None:
    with server.client() as client:
        got, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"")
        for name in ("content-type", "etag", "content-security-policy"):
            assert head.headers.get(name) == got.headers.get(name)
        assert int(head.headers["content-length"]) > 0
        error_of_post = client.head("/v1/samples")
        assert (error_of_post.status_code, error_of_post.content) == (405, b"")


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain"])
def test_a_body_that_is_not_called_json_is_told_the_header(
    server: RealServer, kind: str | None
) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    with server.client() as client:
        for path in ("/v1/samples", "/v1/encode", "/v1/decode", "/v1/samples/aaaaaaaa/refine"):
            told = error(client.post(path, content=b'{"n": 1}', headers=headers), 415, "invalid")
            assert "send the header Content-Type: application/json" in told["message"]
            assert (kind or "no Content-Type") in told["message"]
        headers["Content-Type"] = "application/vnd.api+json; charset=utf-8"
        assert client.post("/v1/samples", content=b'{"n": 1}', headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"n": "caf\xe9"}', "the body is not valid UTF-8: byte 0xe9 at position 10; send JSON"),
        (b"[" * 100_000, "the JSON of the body is nested too deeply"),
        (b'{"n": ' + b"1" * 5000 + b"}", "an integer of more than 4300 digits"),
        (b'{"n": 1', "body.7: JSON decode error: Expecting ',' delimiter"),
    ],
)
def test_a_body_that_is_not_json_is_told_why(
    server: RealServer, content: bytes, message: str
) -> None:
    headers = {"Content-Type": "application/json"}
    with server.client() as client:
        for path in ("/v1/samples", "/v1/encode", "/v1/decode", "/v1/samples/aaaaaaaa/refine"):
            told = error(client.post(path, content=content, headers=headers), 422, "invalid")
            assert message in told["message"]


def test_a_compressed_body_is_told_the_header(server: RealServer) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    with server.client() as client:
        response = client.post("/v1/samples", content=gzip.compress(b'{"n": 1}'), headers=headers)
        assert "the header Content-Encoding is 'gzip'" in error(response, 415, "invalid")["message"]
        assert response.headers["Accept-Encoding"] == "identity"
        headers["Content-Encoding"] = "identity"
        assert client.post("/v1/samples", content=b'{"n": 1}', headers=headers).status_code == 200


def test_figures_for_operators(server: RealServer) -> None:
    sample(server, codes=2)
    with server.client() as client:
        assert client.get("/livez").json() == {"status": "alive"}
        assert client.get("/readyz").json() == {"status": "ready"}
        text = client.get("/metrics").text
        load = client.get("/v1/load").json()
    for name in (
        'anytime_requests_total{method="POST",route="/v1/samples",status="200"}',
        'anytime_requests_finished_total{model="image",reason="complete"}',
        'anytime_codes_drawn_total{model="image"}',
        'anytime_queue_seconds_count{model="image"}',
        'anytime_slots{model="image"} 32.0',
        "anytime_requests_running 0.0",
        "anytime_ready 1.0",
    ):
        assert name in text
    assert load["ready"]
    assert load["models"][0]["codes_drawn_share"] == 1.0
    line = next(line for line in server.log() if line.get("codes_drawn") == 2)
    assert line["message"] == "request"
    assert {"path", "status", "ms", "model", "stop_reason", "queue_ms", "client"} <= line.keys()


def test_the_page_is_whole_by_itself(server: RealServer) -> None:
    with server.client() as client:
        page = client.get("/")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert not re.findall(r"https?://", page.text)
        for path in re.findall(r'(?:href|src)="(/page/[^"]+)"', page.text):
            file = client.get(path)
            assert file.status_code == 200
            again = client.get(path, headers={"If-None-Match": file.headers["etag"]})
            assert again.status_code == 304


def test_keys_open_everything_but_the_probes(models: dict[str, Path], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(
        "# who, and by what\nada s3cret\nbob 0ther\nzoë schlüssel-鍵\n", encoding="utf-8"
    )
    real = RealServer(
        str(models["image"]), options=("--api-key-file", str(keys)), logs=tmp_path / "log"
    ).ready()
    basic = base64.b64encode(b"anyone:s3cret").decode()
    with real.client() as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").json() == {"status": "ready"}
        for path in ("/", "/metrics", "/v1/models", "/openapi.json", "/nothing"):
            refused = client.get(path)
            error(refused, 401, "unauthorized")
            assert "Basic" in refused.headers["www-authenticate"]
            for value in ("Bearer wrong", "Bearer", "Basic ???", "s3cret"):
                assert client.get(path, headers={"Authorization": value}).status_code == 401
        error(client.post("/v1/samples", json={}), 401, "unauthorized")
        ada = {"Authorization": "Bearer s3cret"}
        assert client.get("/", headers={"Authorization": f"Basic {basic}"}).status_code == 200
        drawn = client.post("/v1/samples", json={"codes": 2}, headers=ada).json()
        bob = {"Authorization": "Bearer 0ther"}
        foreign = client.post(f"/v1/samples/{drawn['id']}/refine", json={}, headers=bob)
        error(foreign, 404, "not_found")
    with Client(real.url, key="schlüssel-鍵") as theirs:
        assert theirs.sample(codes=2).codes_drawn == 2
    assert "ada" in real.lines("client")
    assert "s3cret" not in real.logs.read_text(encoding="utf-8")
    assert real.terminate() == 0


def test_sigterm_answers_every_stream_with_a_sample(
    models: dict[str, Path], tmp_path: Path
) -> None:
    device = slow_device(tmp_path / "device")
    real = RealServer(
        str(models["slow"]),
        options=("--slots", "32", "--grace-s", "8", "--deadline-s", "600"),
        logs=tmp_path / "log",
        device=device,
    ).ready()
    # Twelve draws of 8 rows, four at a time: 36 s for all codes, 4.5 s for the fewest.
    device.set(0.03)

    def watch(seed: int) -> list[tuple[str, dict[str, Any]]]:
        body = {"n": 8, "seed": seed, "stream": True, "previews_per_s": 5, "min_codes": 50}
        with real.client() as client, client.stream("POST", "/v1/samples", json=body) as response:
            return events(response)

    with ThreadPoolExecutor(12) as pool, real.client() as client:
        watching = [pool.submit(watch, seed) for seed in range(8)]
        waiting = [
            pool.submit(post, real, "/v1/samples", {"n": 8, "seed": seed, "min_codes": 50})
            for seed in range(4)
        ]
        wait_for(lambda: sum(jobs(client)) == 12, "all to be drawn or to wait")
        real.process.terminate()
        wait_for(lambda: client.get("/readyz").status_code == 503, "the end")
        error(client.post("/v1/samples", json={}), 503, "draining")
        ended = [future.result() for future in watching]
        answers = [future.result() for future in waiting]
    assert real.terminate() == 0
    for found in ended:
        assert [name for name, _ in found].count("done") == 1
        assert found[-1][0] == "done"
        assert len(found[-1][1]["samples"]) == 8
    assert all(answer.status_code == 200 for answer in answers)
    reasons = {found[-1][1]["stop_reason"] for found in ended}
    assert reasons <= {"complete", "drain", "load"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{image}", "{image}"], "two models are called 'image'; name one of them"),
        (["nothing"], "nothing"),
        (["{image}", "--slots", "0"], "slots"),
        (["{image}", "--threads", "0"], "threads=0 is outside"),
        (["{image}", "--api-key-file", "/nowhere"], "cannot read /nowhere"),
        (["nothing", "--port", "{taken}"], "cannot listen at 127.0.0.1"),  # before models load
        (
            ["{image}", "--allowed-hosts", "http://x.example"],
            "'http://x.example' is not a host name",
        ),
    ],
)
def test_what_cannot_be_served_is_told_in_a_line(
    models: dict[str, Path],
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        filled = [one.format(image=models["image"], taken=port) for one in arguments]
        with pytest.raises(SystemExit) as ended:
            main(["serve", *filled])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.startswith("anytime: ")
    assert told.count("\n") == 1


def test_a_refinement_has_the_form_of_its_samples(server: RealServer, kind: str) -> None:
    first = sample(server, model=KINDS[kind], codes=2, format="npy", with_codes=True)
    path = f"/v1/samples/{first['id']}/refine"
    more = post(server, path, {"codes": 3}).json()
    assert (first["format"], more["format"], len(more["codes"][0])) == ("npy", "npy", 3)
    other = "wav" if "codec" in kind else "png"
    asked = post(server, path, {"codes": 4, "format": other, "with_codes": False}).json()
    assert (asked["format"], asked["codes"]) == (other, None)
    later = post(server, path, {"codes": 5}).json()
    assert (later["format"], len(later["codes"][0])) == ("npy", 5)
