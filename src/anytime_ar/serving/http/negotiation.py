"""In which form samples are answered, by what a client accepts (RFC 9110, 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from anytime_ar.errors import InputError
from anytime_ar.serving.media import MEDIA_TYPES
from anytime_ar.serving.schema import ResponseOptions

JSON = "application/json"
EVENT_STREAM = "text/event-stream"
_QUALITY = re.compile(r"0(\.[0-9]*)?|1(\.0*)?")
_OptionsT = TypeVar("_OptionsT", bound=ResponseOptions)


class NotAcceptableError(InputError):
    """The client accepts nothing that there is."""


def best_media_type(accept: str, offers: Sequence[str]) -> str | None:
    """The media type of an offer that a client likes best: by `q`, then in its own order, then in
    that of the offers; None: it accepts none of them.

    Args:
        accept: the header; empty: whatever there is.
        offers: at least one, the usual one first.
    """
    ranges = [_range(part) for part in accept.split(",") if part.strip()]
    if not ranges:
        return offers[0]

    def liking(offer: str) -> tuple[float, int]:
        """Of the range that fits it most closely."""
        wider = (offer, offer.partition("/")[0] + "/*", "*/*")
        for kind in wider:
            for place, (accepted, quality) in enumerate(ranges):
                if accepted == kind:
                    return quality, -place
        return 0.0, 0

    chosen = max(offers, key=liking)
    return chosen if liking(chosen)[0] > 0 else None


def require_json(accept: str) -> None:
    """See to it that a client takes JSON.

    Raises:
        NotAcceptable: it does not.
    """
    if best_media_type(accept, [JSON]) is None:
        raise NotAcceptableError(f"this is answered as {JSON}; accept that")


def negotiate_response(
    accept: str, body: _OptionsT, formats: Sequence[str], num_samples: int | None
) -> tuple[_OptionsT, bool]:
    """Settle how samples are answered.

    Args:
        accept: the header.
        body: of the request.
        formats: that the model's samples can be written in.
        num_samples: number of samples; None: not known yet.

    Returns:
        the request with what the header says, and whether a sample's bytes are the answer.

    Raises:
        NotAcceptable: the client accepts nothing that there is.
    """
    if body.stream:
        if best_media_type(accept, [EVENT_STREAM]) is None:
            raise NotAcceptableError(
                f"stream=true is answered as {EVENT_STREAM}; accept that, or leave stream out"
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
            f"these samples are answered as {', '.join([JSON, EVENT_STREAM, *kinds])}; accept one of them"
        )
    if kind not in kinds:
        return body.model_copy(update={"stream": kind == EVENT_STREAM}), False
    return body.model_copy(update={"format": kinds[kind]}), True


def require_one_sample(num_samples: int | None) -> None:
    """See to it that a file is asked for one sample; None: for a number that is not known yet.

    Raises:
        NotAcceptable: for several.
    """
    if num_samples not in (None, 1):
        raise NotAcceptableError(
            f"a file holds one sample, and these are {num_samples}; ask for n=1, or accept {JSON} or {EVENT_STREAM}"
        )


def _range(part: str) -> tuple[str, float]:
    """One of the ranges of the header, and how much it is liked."""
    kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
    named = dict(parameter.partition("=")[::2] for parameter in parameters)
    quality = named.get("q", "1")
    return kind, float(quality) if _QUALITY.fullmatch(quality) else 0.0
