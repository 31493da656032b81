"""Answers, from what the worker tells."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass

from torch import Tensor

from anytime_ar.sampling.plan import Plan
from anytime_ar.serving.call import RequestContext
from anytime_ar.serving.jobs import CodecResultEvent, PreviewEvent, ResultEvent, SamplingJob
from anytime_ar.serving.media import MediaProcessor
from anytime_ar.serving.schema import PreviewResponse, RequestTiming, SampleResponse
from anytime_ar.serving.served import ServedModel


@dataclass(frozen=True)
class ResponseWriter:
    """Writes the answers to one request."""

    sample_id: str
    """The draw's id."""
    served: ServedModel
    format: str
    """Format of the samples."""
    with_codes: bool
    context: RequestContext

    async def preview(self, event: PreviewEvent | ResultEvent) -> PreviewResponse:
        """What a draw has."""
        samples = await asyncio.to_thread(to_base64, self.served.media, event.data, self.format)
        count, codes = event.codes.shape
        return PreviewResponse(
            id=self.sample_id,
            model=self.served.name,
            n=count,
            codes_drawn=codes,
            code_length=self.served.model.code_length,
            quality=self.served.quality(codes),
            format=self.format,
            samples=samples,
            codes=event.codes.tolist() if self.with_codes else None,
        )

    async def result(
        self, event: ResultEvent, job: SamplingJob, expires_in_s: float
    ) -> SampleResponse:
        """What a draw has in the end."""
        drawn = await self.preview(event)
        return SampleResponse(
            **dict(drawn),
            seed=job.plan.seed,
            first=job.plan.first,
            labels=_labels(self.served, job.plan),
            stop_reason=event.stop_reason,
            expires_in_s=expires_in_s,
            timing=timing(event, self.context),
        )


def timing(event: ResultEvent | CodecResultEvent, context: RequestContext) -> RequestTiming:
    """Where the time went."""
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
    """Samples as files in base64."""
    return [base64.b64encode(file).decode() for file in media.to_bytes(samples, format)]


def _labels(served: ServedModel, plan: Plan) -> list[str] | None:
    names = served.model.labels
    if names is None or plan.labels is None:
        return None
    return [names[i] for i in plan.labels.tolist()]


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
