"""Service that samples, refines and stops for clients.

All of it runs in the thread of the event loop. Jobs and their listeners are the only connection to
the worker thread.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.media.processor import MediaProcessor
from anytime_ar.sampling import Budget
from anytime_ar.sampling.budget import codes_for_quality
from anytime_ar.sampling.plan import Plan
from anytime_ar.serving.engine.jobs import (
    CodecResultEvent,
    JobEvent,
    PreviewEvent,
    RequestContext,
    ResultEvent,
    SamplingJob,
    SamplingStats,
    ServingError,
)
from anytime_ar.serving.engine.models import ModelRegistry, NotFoundError, ServedModel
from anytime_ar.serving.engine.session_store import SampleForm, SessionStore
from anytime_ar.serving.engine.worker import ThreadBridge, Worker
from anytime_ar.serving.schema import (
    BudgetParams,
    PreviewResponse,
    RefineRequest,
    RequestTiming,
    SampleRequest,
    SampleResponse,
)

_OPTIONS = ("label", "temperature", "top_k", "top_p", "guidance")
SEED_BITS = 48
"""Bits of fresh seeds. Programs that read JSON numbers as doubles represent them exactly."""


class ConflictError(InputError):
    """Error for an id whose samples are still being generated, or that is taken."""


@dataclass
class _InFlight:
    """A sampling job that has not ended."""

    job: SamplingJob
    """Job that the worker runs."""
    response: asyncio.Future[SampleResponse]
    """Future of the response, for requests that stop the job."""


class SampleService:
    """A service for requests that sample, refine and stop.

    Args:
        models: Models of the server.
        worker: Thread that runs the jobs.
        bridge: Bridge that brings events from the worker to the event loop.
        sessions: Sessions of ended samples.
        max_deadline_s: Longest deadline in seconds, and the default of requests without one.
    """

    def __init__(
        self,
        models: ModelRegistry,
        worker: Worker,
        bridge: ThreadBridge,
        sessions: SessionStore,
        *,
        max_deadline_s: float,
    ) -> None:
        """Start without any jobs."""
        self._models, self._worker, self._bridge = models, worker, bridge
        self._sessions, self._max_deadline_s = sessions, max_deadline_s
        self._in_flight: dict[str, _InFlight] = {}

    def __len__(self) -> int:
        """Return the number of sampling jobs that have not ended."""
        return len(self._in_flight)

    def sample(
        self, request: SampleRequest, context: RequestContext
    ) -> AsyncGenerator[PreviewResponse]:
        """Generate samples.

        Closing the generator cancels the job. Errors of the request are raised by the call, other
        errors by the generator.

        Args:
            request: Body of the request.
            context: State of the HTTP request.

        Returns:
            A generator of any number of previews, if requested, and a final `SampleResponse`.

        Raises:
            InputError: The model cannot fulfil the request.
            NotFoundError: The model is not served.
            ConflictError: The id is taken.
            ServingError: By the generator: the job ends without samples.
        """
        served = self._models.get(request.model)
        options: dict[str, Any] = {
            name: value for name in _OPTIONS if (value := getattr(request, name)) is not None
        }
        seed = secrets.randbits(SEED_BITS) if request.seed is None else request.seed
        _check_rows(served, request.n, request.guidance)
        plan, _ = served.model.plan(request.n, seed=seed, first=request.first, **options)
        name = request.id or secrets.token_urlsafe(12)
        if self._sessions.has(name):
            raise ConflictError(f"id {name!r} is taken; choose another one, or none")
        form = SampleForm(request.format, bool(request.with_codes))
        return self._start(name, served, plan, None, form, request, context)

    def refine(
        self, sample_id: str, request: RefineRequest, context: RequestContext
    ) -> AsyncGenerator[PreviewResponse]:
        """Refine ended samples with more codes.

        Args:
            sample_id: Id of the samples.
            request: Body of the request.
            context: State of the HTTP request. Only the client of the samples may refine them.

        Returns:
            A generator of any number of previews, if requested, and a final `SampleResponse`.

        Raises:
            InputError: The model cannot fulfil the request.
            NotFoundError: The client has no samples with this id.
            ConflictError: The samples are still being generated.
            ServingError: By the generator: the job ends without samples.
        """
        session = self._sessions.get(sample_id)
        if session is None and sample_id in self._in_flight:
            raise in_flight_error(sample_id)
        if session is None or session.client != context.client:
            raise unknown_sample_error(sample_id)
        served = self._models.get(session.model)
        codes = session.codes.long()
        return self._start(sample_id, served, session.plan, codes, session.form, request, context)

    async def stop(self, sample_id: str, context: RequestContext) -> SampleResponse | None:
        """Stop a job and return its samples, or release the session of ended samples.

        A released session expires after a few seconds unless the samples are refined: the request
        to stop may have arrived just after the job ended.

        Args:
            sample_id: Id of the samples.
            context: State of the HTTP request. Only the client of the samples may stop them.

        Returns:
            The response with the samples so far; None if the job had ended.

        Raises:
            NotFoundError: The client has no samples with this id.
            ServingError: The job has no samples yet.
        """
        in_flight = self._in_flight.get(sample_id)
        if in_flight is not None and in_flight.job.client == context.client:
            self._worker.cancel(in_flight.job)
            return await asyncio.shield(in_flight.response)
        session = self._sessions.get(sample_id)
        if session is None or session.client != context.client or not self._sessions.has(sample_id):
            raise unknown_sample_error(sample_id)
        self._sessions.release(sample_id)
        return None

    def _start(
        self,
        sample_id: str,
        served: ServedModel,
        plan: Plan,
        codes: Tensor | None,
        form: SampleForm,
        request: SampleRequest | RefineRequest,
        context: RequestContext,
    ) -> AsyncGenerator[PreviewResponse]:
        drawn = 0 if codes is None else codes.shape[1]
        min_codes, max_codes = _code_limits(served, request, drawn)
        format = served.resolve_format(request.format or form.format)
        with_codes = form.with_codes if request.with_codes is None else request.with_codes
        deadline_s = self._max_deadline_s
        if request.deadline_ms is not None:
            deadline_s = min(deadline_s, request.deadline_ms / 1000)
            context.deadline = context.arrival + deadline_s
        context.model, context.n, context.codes_requested = served.name, len(plan), max_codes
        queue, listener = self._bridge.open_queue()
        job = SamplingJob(
            model=served.name,
            client=context.client,
            arrival=context.arrival,
            deadline=context.arrival + deadline_s,
            listener=listener,
            plan=plan,
            min_codes=min_codes,
            max_codes=max_codes,
            codes=codes,
            codes_drawn=drawn,
        )
        if request.stream:
            job.preview_interval_s = 1 / request.previews_per_s if request.previews_per_s else 0.0
        writer = ResponseWriter(sample_id, served, format, with_codes, context)
        return self._stream_updates(job, queue, writer, form)

    async def _stream_updates(
        self,
        job: SamplingJob,
        queue: asyncio.Queue[JobEvent],
        writer: ResponseWriter,
        form: SampleForm,
    ) -> AsyncGenerator[PreviewResponse]:
        """Submit a job and yield its responses.

        Yields:
            Any number of previews and a final `SampleResponse`.

        Raises:
            ConflictError: Another job with this id is running. The check is here, where the id is
                registered: two requests may both be accepted before either job starts.
            ServingError: The job ends without samples.
        """
        if writer.sample_id in self._in_flight:
            raise in_flight_error(writer.sample_id)
        ended: asyncio.Future[SampleResponse] = asyncio.get_running_loop().create_future()
        self._in_flight[writer.sample_id] = _InFlight(job, ended)
        self._worker.submit(job)
        response: SampleResponse | None = None
        error: BaseException = ServingError("cancelled", "the client has disconnected")
        try:
            while response is None:
                match await queue.get():
                    case PreviewEvent() as event:
                        preview = await writer.preview(event)
                        if writer.context.first_preview_s is None:
                            writer.context.first_preview_s = writer.context.clock() - job.arrival
                        yield preview
                    case ResultEvent() as done:
                        writer.context.stats, writer.context.decoded_at = (
                            SamplingStats.from_event(done),
                            done.decoded_at,
                        )
                        self._sessions.put(writer.sample_id, job, done.codes, form)
                        response = await writer.result(done, job, self._sessions.ttl_s)
                    case ServingError() as refused:
                        error = refused
                        raise refused
        finally:
            self._worker.cancel(job)  # no effect if the job has ended
            del self._in_flight[writer.sample_id]
            if response is not None:
                ended.set_result(response)
            else:
                ended.set_exception(error)
                ended.exception()  # marks it as retrieved, as perhaps no request waits
        yield response


def _check_rows(served: ServedModel, n: int, guidance: object) -> None:
    """Check that the rows of a request fit in the batch, before memory is allocated for them.

    Args:
        served: Model that the request is for.
        n: Number of samples.
        guidance: Guidance of the request; None for that of the bundle.

    Raises:
        InputError: The samples take more rows than the model has slots.
    """
    guided = served.model.bundle.card.sampling_params.guided if guidance is None else guidance != 1
    rows = n * (2 if guided and served.model.labels is not None else 1)
    if rows > served.slots:
        raise InputError(
            f"n={n}{' with guidance' if guided else ''} takes {rows} batch rows, and this model "
            f"has {served.slots}; split the samples over several requests"
        )


def _code_limits(served: ServedModel, limits: BudgetParams, codes_drawn: int) -> tuple[int, int]:
    """Return the minimum and maximum codes of a sampling job.

    Args:
        served: Model that the request is for.
        limits: Limits of the request.
        codes_drawn: Number of codes that the samples have already.

    Raises:
        InputError: The limits contradict each other, or allow fewer codes than there are.
    """
    min_codes = limits.min_codes
    if limits.min_quality is not None:
        min_codes = max(min_codes, codes_for_quality(limits.min_quality, served.model.curve))
    budget = Budget(codes=limits.codes, quality=limits.quality, min_codes=min_codes)
    max_codes = served.model.sampler.resolve_budget(budget).max_codes
    if max_codes < codes_drawn:
        raise InputError(
            f"these samples have {codes_drawn} codes already, and the request allows {max_codes}; "
            f"request at least {codes_drawn}, or decode the first {max_codes} codes"
        )
    return max(min_codes, codes_drawn), max_codes


def in_flight_error(sample_id: str) -> ConflictError:
    """Return the error for a request whose samples are still being generated."""
    return ConflictError(
        f"the samples {sample_id!r} are still being generated; wait for their end, or stop them"
    )


def unknown_sample_error(sample_id: str) -> NotFoundError:
    """Return the error for a request with an unknown or expired id."""
    return NotFoundError(
        f"there are no samples with the id {sample_id[:64]!r}: it is unknown, or its session has "
        "expired; request new samples"
    )


@dataclass(frozen=True)
class ResponseWriter:
    """A writer of the responses to one request."""

    sample_id: str
    """Id of the samples."""
    served: ServedModel
    """Model that generates the samples."""
    format: str
    """File format of each sample."""
    with_codes: bool
    """Whether responses include the codes."""
    context: RequestContext
    """State of the HTTP request."""

    async def preview(self, event: PreviewEvent | ResultEvent) -> PreviewResponse:
        """Write the samples of an event as a preview."""
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
        """Write the final response of a job.

        Args:
            event: Result of the job.
            job: Job that has ended.
            expires_in_s: Seconds for which the samples can be refined.
        """
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


def _labels(served: ServedModel, plan: Plan) -> list[str] | None:
    names = served.model.labels
    if names is None or plan.labels is None:
        return None
    return [names[i] for i in plan.labels.tolist()]


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
