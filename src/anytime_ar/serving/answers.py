"""Answers, from what the worker tells."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass

from torch import Tensor

from anytime_ar.sampling.plan import Plan
from anytime_ar.serving.call import Call
from anytime_ar.serving.jobs import Computed, Done, Draw, Look
from anytime_ar.serving.media import Media
from anytime_ar.serving.schema import Drawn, SampleAnswer, Timing
from anytime_ar.serving.served import Served


@dataclass(frozen=True)
class Writer:
    """Writes the answers to one request."""

    name: str
    """The draw's id."""
    served: Served
    kind: str
    """Format of the samples."""
    with_codes: bool
    call: Call

    async def drawn(self, event: Look | Done) -> Drawn:
        """What a draw has."""
        samples = await asyncio.to_thread(write_all, self.served.media, event.data, self.kind)
        count, codes = event.codes.shape
        return Drawn(
            id=self.name,
            model=self.served.name,
            n=count,
            codes_drawn=codes,
            code_length=self.served.model.code_length,
            quality=self.served.quality(codes),
            format=self.kind,
            samples=samples,
            codes=event.codes.tolist() if self.with_codes else None,
        )

    async def done(self, event: Done, draw: Draw, kept_s: float) -> SampleAnswer:
        """What a draw has in the end."""
        drawn = await self.drawn(event)
        return SampleAnswer(
            **dict(drawn),
            seed=draw.plan.seed,
            first=draw.plan.first,
            labels=_labels(self.served, draw.plan),
            stop_reason=event.stopped_by,
            kept_s=kept_s,
            timing=timing(event, self.call),
        )


def timing(event: Done | Computed, call: Call) -> Timing:
    """Where the time went."""
    now = call.clock()
    if isinstance(event, Done):
        sampling_s, decode_s = event.sampling_s, event.decode_s
    else:
        sampling_s, decode_s = 0.0, event.compute_s
    return Timing(
        queue_ms=_ms(event.queue_s),
        sampling_ms=_ms(sampling_s),
        decode_ms=_ms(decode_s),
        total_ms=_ms(now - call.arrival),
        late_ms=None if call.deadline is None else _ms(now - call.deadline),
    )


def write_all(media: Media, samples: Tensor, kind: str) -> list[str]:
    """Samples as files in base64."""
    return [base64.b64encode(file).decode() for file in media.write(samples, kind)]


def _labels(served: Served, plan: Plan) -> list[str] | None:
    names = served.model.labels
    if names is None or plan.labels is None:
        return None
    return [names[i] for i in plan.labels.tolist()]


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
