"""Timing and files of the responses of all services."""

from __future__ import annotations

import base64

from torch import Tensor

from anytime_ar.media.processor import MediaProcessor
from anytime_ar.serving.engine.jobs import CodecResultEvent, RequestContext, ResultEvent
from anytime_ar.serving.schema import RequestTiming


def timing(event: ResultEvent | CodecResultEvent, context: RequestContext) -> RequestTiming:
    """Return the durations of the phases of a request, in milliseconds."""
    now = context.clock()
    if isinstance(event, ResultEvent):
        sampling_s, decode_s = event.sampling_s, event.decode_s
    else:
        sampling_s, decode_s = 0.0, event.compute_s
    return RequestTiming(
        queue_ms=_ms(event.queue_s),
        sampling_ms=_ms(sampling_s),
        decode_ms=_ms(decode_s),
        total_ms=_ms(now - context.arrival),
        late_ms=None if context.deadline is None else _ms(now - context.deadline),
    )


def to_base64(media: MediaProcessor, samples: Tensor, format: str) -> list[str]:
    """Convert samples to files in base64.

    Args:
        media: Media converter of the model.
        samples: float32 [n, *sample_shape] in [-1, 1].
        format: File format of each sample.
    """
    return [base64.b64encode(file).decode() for file in media.to_bytes(samples, format)]


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
