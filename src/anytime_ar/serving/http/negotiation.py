"""Content negotiation: the form of a response by the header Accept (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from anytime_ar.errors import InputError
from anytime_ar.serving.schema import MEDIA_TYPES, ResponseOptions

JSON = "application/json"
EVENT_STREAM = "text/event-stream"
_QUALITY = re.compile(r"0(\.[0-9]*)?|1(\.0*)?")
_OptionsT = TypeVar("_OptionsT", bound=ResponseOptions)


class NotAcceptableError(InputError):
    """Error for a client that accepts no available form of the response."""


def best_media_type(accept: str, offers: Sequence[str]) -> str | None:
    """Return the offered media type that a client prefers.

    The order is by `q`, then by the client's own order, then by the order of the offers.

    Args:
        accept: Value of the header Accept. An empty value accepts everything.
        offers: Offered media types, at least one, the default first.

    Returns:
        The preferred media type; None if the client accepts none of the offers.
    """
    ranges = [_range(part) for part in accept.split(",") if part.strip()]
    if not ranges:
        return offers[0]

    def liking(offer: str) -> tuple[float, int]:
        """Return the quality and the order of the most specific range that matches an offer."""
        wider = (offer, offer.partition("/")[0] + "/*", "*/*")
        for kind in wider:
            for place, (accepted, quality) in enumerate(ranges):
                if accepted == kind:
                    return quality, -place
        return 0.0, 0

    chosen = max(offers, key=liking)
    return chosen if liking(chosen)[0] > 0 else None


def require_json(accept: str) -> None:
    """Check that a client accepts JSON.

    Args:
        accept: Value of the header Accept.

    Raises:
        NotAcceptableError: The client does not accept JSON.
    """
    if best_media_type(accept, [JSON]) is None:
        raise NotAcceptableError(f"the response is {JSON}; accept it")


def negotiate_response(
    accept: str, body: _OptionsT, formats: Sequence[str], num_samples: int | None
) -> tuple[_OptionsT, bool]:
    """Choose the form of a response with samples: JSON, server-sent events, or a file.

    Args:
        accept: Value of the header Accept.
        body: Body of the request.
        formats: Formats that samples of the model can be written in.
        num_samples: Number of samples; None if it is not known yet.

    Returns:
        The body with `stream` and `format` as negotiated, and whether the response is the file of
        one sample.

    Raises:
        NotAcceptableError: The client accepts no available form.
    """
    if body.stream:
        if best_media_type(accept, [EVENT_STREAM]) is None:
            raise NotAcceptableError(
                f"the response to stream=true is {EVENT_STREAM}; accept it, or omit stream"
            )
        return body, False
    kinds = {MEDIA_TYPES[name]: name for name in ([body.format] if body.format else formats)}
    kind = best_media_type(
        accept, [JSON, EVENT_STREAM, *(kinds if num_samples in (None, 1) else ())]
    )
    if kind is None:
        if best_media_type(accept, [*kinds]) is not None:
            require_one_sample(num_samples)
        raise NotAcceptableError(
            f"the response can be {', '.join([JSON, EVENT_STREAM, *kinds])}; accept one of these"
        )
    if kind not in kinds:
        return body.model_copy(update={"stream": kind == EVENT_STREAM}), False
    return body.model_copy(update={"format": kinds[kind]}), True


def require_one_sample(num_samples: int | None) -> None:
    """Check that a response as a file has one sample.

    Args:
        num_samples: Number of samples; None if it is not known yet, which passes.

    Raises:
        NotAcceptableError: There are several samples.
    """
    if num_samples not in (None, 1):
        raise NotAcceptableError(
            f"a file holds one sample, and the request has {num_samples}; pass n=1, or accept "
            f"{JSON} or {EVENT_STREAM}"
        )


def _range(part: str) -> tuple[str, float]:
    """Parse one media range of the header Accept.

    Returns:
        The media range in lower case, and its quality `q`, 0..1. An invalid `q` counts as 0.
    """
    kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
    named = dict(parameter.partition("=")[::2] for parameter in parameters)
    quality = named.get("q", "1")
    return kind, float(quality) if _QUALITY.fullmatch(quality) else 0.0
