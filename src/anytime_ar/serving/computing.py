"""Requests to encode and to decode."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable

import torch
from torch import Tensor

from anytime_ar.codes import check_codes
from anytime_ar.errors import InputError
from anytime_ar.samples import check_samples
from anytime_ar.serving.answers import timing, to_base64
from anytime_ar.serving.call import RequestContext
from anytime_ar.serving.jobs import CodecJob, CodecResultEvent, ServingError
from anytime_ar.serving.mailroom import ThreadBridge
from anytime_ar.serving.media import MediaProcessor
from anytime_ar.serving.schema import DecodeRequest, DecodeResponse, EncodeRequest, EncodeResponse
from anytime_ar.serving.served import ModelRegistry, ServedModel
from anytime_ar.serving.worker import Worker

_CHUNK_SIZE = 4
"""Samples of a task between two steps."""


class CodecService:
    """Answers them.

    Args:
        models: of the server.
        worker: computes.
        bridge: brings what it tells.
        max_deadline_s: the deadline.
    """

    def __init__(
        self, models: ModelRegistry, worker: Worker, bridge: ThreadBridge, *, max_deadline_s: float
    ) -> None:
        self._models, self._worker, self._bridge = models, worker, bridge
        self._max_deadline_s = max_deadline_s

    async def encode(self, request: EncodeRequest, context: RequestContext) -> EncodeResponse:
        """Codes of samples.

        Raises:
            InputError: a sample cannot be read.
            Missing, Refused: see there.
        """
        served = self._models.get(request.model)
        samples = await asyncio.to_thread(_read_base64, served.media, request.samples)
        check_samples(samples, served.model.sample_shape)  # here, where it is one client's mistake
        done = await self._run("encode", served, samples, served.model.encode, context)
        return EncodeResponse(
            model=served.name, codes=done.result.tolist(), timing=timing(done, context)
        )

    async def decode(self, request: DecodeRequest, context: RequestContext) -> DecodeResponse:
        """Samples of codes.

        Raises:
            InputError: the codes are not this model's.
            Missing, Refused: see there.
        """
        served = self._models.get(request.model)
        kind = served.media.resolve_format(request.format)
        if len({len(row) for row in request.codes}) > 1:
            raise InputError("codes: rows have different lengths; cut them to the same one")
        highest = served.model.vocabulary
        wrong = [code for row in request.codes for code in row if not 0 <= code < highest]
        if wrong:
            raise InputError(f"codes: {wrong[0]} is no code of this model; pass 0..{highest - 1}")
        codes = torch.tensor(request.codes, dtype=torch.int64, device="cpu")
        check_codes(codes, code_length=served.model.code_length, vocabulary=highest)
        done = await self._run("decode", served, codes, served.model.decode, context)
        samples = await asyncio.to_thread(to_base64, served.media, done.result, kind)
        return DecodeResponse(
            model=served.name, format=kind, samples=samples, timing=timing(done, context)
        )

    async def _run(
        self,
        operation: str,
        served: ServedModel,
        rows: Tensor,
        work: Callable[[Tensor], Tensor],
        context: RequestContext,
    ) -> CodecResultEvent:
        context.model, context.n = served.name, len(rows)
        queue, listener = self._bridge.open_queue()

        def part_of(part: Tensor) -> Callable[[], Tensor]:
            return lambda: work(part).cpu()

        task = CodecJob(
            model=served.name,
            client=context.client,
            arrival=context.arrival,
            deadline=context.arrival + self._max_deadline_s,
            listener=listener,
            chunks=[part_of(part) for part in rows.split(_CHUNK_SIZE)],
            chunk_size=min(_CHUNK_SIZE, len(rows)),
            num_samples=len(rows),
            operation=operation,
        )
        self._worker.submit(task)
        try:
            event = await queue.get()
        finally:
            self._worker.cancel(task)
        if isinstance(event, ServingError):
            raise event
        assert isinstance(event, CodecResultEvent)
        return event


def _read_base64(media: MediaProcessor, samples: tuple[str, ...]) -> Tensor:
    read = []
    for i, text in enumerate(samples):
        try:
            content = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InputError(f"samples.{i}: is no base64") from error
        read.append(media.from_bytes(content, f"samples.{i}"))
    return torch.stack(read)
