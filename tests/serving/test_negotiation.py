"""In which form samples are answered."""

from __future__ import annotations

import pytest

from anytime_ar.serving.http.negotiation import (
    EVENT_STREAM,
    JSON,
    NotAcceptableError,
    best_media_type,
    negotiate_response,
    require_json,
    require_one_sample,
)
from anytime_ar.serving.schema import SampleRequest

PNG, WEBP = "image/png", "image/webp"
FORMATS = ("png", "webp", "npy")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("image/png", PNG),
        ("image/*", PNG),
        ("IMAGE/PNG ; Q=0.3", PNG),
        ("image/webp, image/png", WEBP),
        ("image/webp;q=0.5, image/png", PNG),
        ("application/json, image/png", JSON),
        ("image/png;q=0, image/*", WEBP),
        ("*/*, application/json;q=0", EVENT_STREAM),
        ("text/event-stream", EVENT_STREAM),
        ("text/html, */*;q=0.1", JSON),
        ("application/xml", None),
        ("image/png;q=0", None),
        ("image/png;q=nan", None),
        ("nonsense", None),
        (",,;", None),
    ],
)
def test_what_is_liked_best_is_chosen(accept: str, chosen: str | None) -> None:
    assert best_media_type(accept, [JSON, EVENT_STREAM, PNG, WEBP]) == chosen


@pytest.mark.parametrize(
    ("accept", "options", "wanted"),
    [
        ("*/*", {}, (None, False, False)),
        ("image/png", {}, ("png", False, True)),
        ("image/png", {"format": "png"}, ("png", False, True)),
        ("text/event-stream", {"n": 3}, (None, True, False)),
        ("text/event-stream", {"stream": True}, (None, True, False)),
        ("*/*", {"stream": True}, (None, True, False)),
        ("image/png, application/json;q=0.5", {"n": 2}, (None, False, False)),
    ],
)
def test_requests_are_answered_as_they_are_accepted(
    accept: str, options: dict[str, object], wanted: tuple[str | None, bool, bool]
) -> None:
    request = SampleRequest.model_validate(options)
    body, as_bytes = negotiate_response(accept, request, FORMATS, request.n)
    assert (body.format, body.stream, as_bytes) == wanted


@pytest.mark.parametrize(
    ("accept", "options", "message"),
    [
        ("image/png", {"n": 2}, "a file holds one sample, and the request has 2; pass n=1"),
        ("audio/wav", {}, "the response can be application/json, text/event-stream, image/png"),
        ("image/png", {"format": "webp"}, "text/event-stream, image/webp; accept one of these"),
        ("image/png", {"stream": True}, "the response to stream=true is text/event-stream"),
        ("application/json", {"stream": True}, "accept it, or omit stream"),
    ],
)
def test_what_cannot_be_had_is_refused(
    accept: str, options: dict[str, object], message: str
) -> None:
    request = SampleRequest.model_validate(options)
    with pytest.raises(NotAcceptableError, match=message):
        negotiate_response(accept, request, FORMATS, request.n)


def test_other_answers_are_json() -> None:
    require_json("")
    require_json("text/html, */*;q=0.1")
    with pytest.raises(NotAcceptableError, match="the response is application/json"):
        require_json("image/png")
    require_one_sample(None)
    require_one_sample(1)
