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
from anytime_ar.serving.answers import timing, write_all
from anytime_ar.serving.call import Call
from anytime_ar.serving.jobs import Computed, Refused, Task
from anytime_ar.serving.mailroom import Mailroom
from anytime_ar.serving.media import Media
from anytime_ar.serving.schema import DecodeAnswer, DecodeRequest, EncodeAnswer, EncodeRequest
from anytime_ar.serving.served import Models, Served
from anytime_ar.serving.worker import Worker

_AT_ONCE = 4
"""Samples of a task between two steps."""


class Computing:
    """Answers them.

    Args:
        models: of the server.
        worker: computes.
        mailroom: brings what it tells.
        longest_s: the deadline.
    """

    def __init__(
        self, models: Models, worker: Worker, mailroom: Mailroom, *, longest_s: float
    ) -> None:
        self._models, self._worker, self._mailroom = models, worker, mailroom
        self._longest_s = longest_s

    async def encode(self, request: EncodeRequest, call: Call) -> EncodeAnswer:
        """Codes of samples.

        Raises:
            InputError: a sample cannot be read.
            Missing, Refused: see there.
        """
        served = self._models.get(request.model)
        samples = await asyncio.to_thread(_read_all, served.media, request.samples)
        check_samples(samples, served.model.sample_shape)  # here, where it is one client's mistake
        done = await self._compute("encode", served, samples, served.model.encode, call)
        return EncodeAnswer(
            model=served.name, codes=done.result.tolist(), timing=timing(done, call)
        )

    async def decode(self, request: DecodeRequest, call: Call) -> DecodeAnswer:
        """Samples of codes.

        Raises:
            InputError: the codes are not this model's.
            Missing, Refused: see there.
        """
        served = self._models.get(request.model)
        kind = served.media.check(request.format)
        if len({len(row) for row in request.codes}) > 1:
            raise InputError("codes: rows have different lengths; cut them to the same one")
        highest = served.model.vocabulary
        wrong = [code for row in request.codes for code in row if not 0 <= code < highest]
        if wrong:
            raise InputError(f"codes: {wrong[0]} is no code of this model; pass 0..{highest - 1}")
        codes = torch.tensor(request.codes, dtype=torch.int64, device="cpu")
        check_codes(codes, length=served.model.code_length, vocabulary=highest)
        done = await self._compute("decode", served, codes, served.model.decode, call)
        samples = await asyncio.to_thread(write_all, served.media, done.result, kind)
        return DecodeAnswer(
            model=served.name, format=kind, samples=samples, timing=timing(done, call)
        )

    async def _compute(
        self,
        kind: str,
        served: Served,
        rows: Tensor,
        work: Callable[[Tensor], Tensor],
        call: Call,
    ) -> Computed:
        call.model, call.n = served.name, len(rows)
        queue, listener = self._mailroom.box()

        def part_of(part: Tensor) -> Callable[[], Tensor]:
            return lambda: work(part).cpu()

        task = Task(
            model=served.name,
            client=call.client,
            arrival=call.arrival,
            deadline=call.arrival + self._longest_s,
            listener=listener,
            parts=[part_of(part) for part in rows.split(_AT_ONCE)],
            rows=min(_AT_ONCE, len(rows)),
            samples=len(rows),
            kind=kind,
        )
        self._worker.submit(task)
        try:
            event = await queue.get()
        finally:
            self._worker.cancel(task)
        if isinstance(event, Refused):
            raise event
        assert isinstance(event, Computed)
        return event


def _read_all(media: Media, samples: tuple[str, ...]) -> Tensor:
    read = []
    for i, text in enumerate(samples):
        try:
            content = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InputError(f"samples.{i}: is no base64") from error
        read.append(media.read(content, f"samples.{i}"))
    return torch.stack(read)
