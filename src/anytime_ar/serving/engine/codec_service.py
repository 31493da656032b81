"""Service that encodes and decodes for clients; it runs in the thread of the event loop."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from anytime_ar.codes import check_codes, vocabulary_sizes
from anytime_ar.errors import InputError
from anytime_ar.media.processor import MediaProcessor
from anytime_ar.samples import check_samples
from anytime_ar.serving.engine.jobs import CodecJob, CodecResultEvent, RequestContext, ServingError
from anytime_ar.serving.engine.models import ModelRegistry, ServedModel
from anytime_ar.serving.engine.responses import timing, to_base64
from anytime_ar.serving.engine.worker import ThreadBridge, Worker
from anytime_ar.serving.schema import DecodeRequest, DecodeResponse, EncodeRequest, EncodeResponse

_CHUNK_SIZE = 4
"""Maximum samples that are encoded or decoded between two steps."""


class CodecService:
    """A service for requests that encode and decode.

    Args:
        models: Models of the server.
        worker: Thread that runs the jobs.
        bridge: Bridge that brings events from the worker to the event loop.
        max_deadline_s: Deadline of every request, in seconds.
    """

    def __init__(
        self, models: ModelRegistry, worker: Worker, bridge: ThreadBridge, *, max_deadline_s: float
    ) -> None:
        """Store the models and the worker."""
        self._models, self._worker, self._bridge = models, worker, bridge
        self._max_deadline_s = max_deadline_s

    async def encode(self, request: EncodeRequest, context: RequestContext) -> EncodeResponse:
        """Encode samples to codes.

        Args:
            request: Body of the request.
            context: State of the HTTP request.

        Raises:
            InputError: A sample cannot be read.
            NotFoundError: The model is not served.
            ServingError: The job was refused or failed.
        """
        served = self._models.get(request.model)
        files = {f"samples.{i}": text for i, text in enumerate(request.samples)}
        samples = await asyncio.to_thread(_read_base64, served.media, files)
        # Check here, as an error in the worker would end all jobs.
        check_samples(samples, served.model.sample_shape)
        done = await self._run("encode", served, samples, served.model.encode, context)
        return EncodeResponse(
            model=served.name, codes=done.result.tolist(), timing=timing(done, context)
        )

    async def decode(self, request: DecodeRequest, context: RequestContext) -> DecodeResponse:
        """Decode codes to samples.

        Args:
            request: Body of the request.
            context: State of the HTTP request.

        Raises:
            InputError: The codes do not fit the model.
            NotFoundError: The model is not served.
            ServingError: The job was refused or failed.
        """
        served = self._models.get(request.model)
        kind = served.resolve_format(request.format)
        if len({len(row) for row in request.codes}) > 1:
            raise InputError(
                "codes: samples have different numbers of codes; cut them to the same number"
            )
        length, vocabulary = served.model.code_length, served.model.vocabulary
        sizes = vocabulary_sizes(vocabulary, length)
        for row in request.codes:
            for position, code in enumerate(row):  # too many codes are refused below
                size = sizes[min(position, length - 1)]
                if not 0 <= code < size:
                    here = "" if isinstance(vocabulary, int) else f" at position {position}"
                    raise InputError(
                        f"codes: {code} is not a code of this model{here}; pass 0..{size - 1}"
                    )
        codes = torch.tensor(request.codes, dtype=torch.int64, device="cpu")
        check_codes(codes, code_length=length, vocabulary=vocabulary)
        done = await self._run("decode", served, codes, served.model.decode, context)
        samples = await asyncio.to_thread(to_base64, served.media, done.result, kind)
        return DecodeResponse(
            model=served.name, format=kind, samples=samples, timing=timing(done, context)
        )

    async def encode_variation(
        self, served: ServedModel, sample: str, context: RequestContext
    ) -> tuple[Tensor, int | None]:
        """Encode a sample that is to be varied, and find its label.

        Args:
            served: Model of the sample.
            sample: Content of its file in base64.
            context: State of the HTTP request.

        Returns:
            Codes int64 [L], and the likeliest label; None for a model without labels.

        Raises:
            InputError: The sample cannot be read.
            ServingError: The job was refused or failed.
        """
        samples = await asyncio.to_thread(_read_base64, served.media, {"vary.sample": sample})
        check_samples(samples, served.model.sample_shape)

        def encode(part: Tensor) -> Tensor:
            codes = served.model.encode(part).cpu()
            if served.model.labels is None:
                return codes
            return torch.cat([codes, served.model.likeliest_labels(codes)[:, None]], dim=1)

        row = (await self._run("encode", served, samples, encode, context)).result[0]
        length = served.model.code_length
        return row[:length], None if served.model.labels is None else int(row[length])

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

        job = CodecJob(
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
        self._worker.submit(job)
        try:
            event = await queue.get()
        finally:
            self._worker.cancel(job)
        if isinstance(event, ServingError):
            raise event
        assert isinstance(event, CodecResultEvent)
        return event


def _read_base64(media: MediaProcessor, samples: Mapping[str, str]) -> Tensor:
    """Read files in base64, by the names of their fields."""
    read = []
    for name, text in samples.items():
        try:
            content = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InputError(
                f"{name}: is not valid base64; send the content of a file in base64"
            ) from error
        read.append(media.from_bytes(content, name))
    return torch.stack(read)
