"""Service that samples, refines and stops for clients.

All of it runs in the thread of the event loop. Jobs and their listeners are the only connection to
the worker thread.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from anytime_ar.conditions import decode_conditions
from anytime_ar.errors import InputError
from anytime_ar.prior import SamplingParams
from anytime_ar.sampling import Budget
from anytime_ar.sampling.arguments import sampling_params_from
from anytime_ar.sampling.budget import codes_for_quality
from anytime_ar.sampling.plan import Plan, default_candidate_codes
from anytime_ar.sampling.sampler import check_beginning_fits
from anytime_ar.serving.engine.codec_service import CodecService
from anytime_ar.serving.engine.jobs import (
    JobEvent,
    PreviewEvent,
    RequestContext,
    ResultEvent,
    SamplingJob,
    SamplingStats,
    ServingError,
)
from anytime_ar.serving.engine.models import ModelRegistry, NotFoundError, ServedModel
from anytime_ar.serving.engine.responses import timing, to_base64
from anytime_ar.serving.engine.session_store import SampleForm, Session, SessionStore
from anytime_ar.serving.engine.worker import ThreadBridge, Worker
from anytime_ar.serving.schema import (
    BudgetParams,
    PreviewResponse,
    RefineRequest,
    SampleRequest,
    SampleResponse,
    VaryParams,
)

_OPTIONS = ("label", "conditions", *SamplingParams.model_fields, "fixed_codes")
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
        self._codec = CodecService(models, worker, bridge, max_deadline_s=max_deadline_s)
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
        vary = request.vary
        if vary is not None and vary.id is not None:
            request, vary = self.fix_kept_codes(request, vary, context), None
        served = self._models.get(request.model)
        _check_rows(served, request)
        name = request.id or secrets.token_urlsafe(12)
        if self._sessions.has(name):
            raise ConflictError(f"id {name!r} is taken; choose another one, or none")
        if vary is not None:
            return self._vary_upload(name, served, request, vary, context)
        return self._start(
            name, served, _plan(served, request), None, _form(request), request, context
        )

    def fix_kept_codes(
        self, request: SampleRequest, vary: VaryParams, context: RequestContext
    ) -> SampleRequest:
        """Return the request that varies ended samples, with their codes in place of their id.

        Args:
            request: Request for variations.
            vary: Its samples, by their id.
            context: State of the HTTP request. Only the client of the samples may vary them.

        Raises:
            InputError: The samples are of another model, or there are not so many of them or of
                their codes.
            NotFoundError: The client has no samples with this id.
            ConflictError: The samples are still being generated.
        """
        assert vary.id is not None
        session = self._session(vary.id, context)
        if request.model not in (None, session.model):
            raise InputError(
                f"the samples {vary.id!r} are of model {session.model!r}, not {request.model!r}; "
                "omit model"
            )
        plan = session.plan
        if vary.index >= len(plan):
            raise InputError(
                f"vary.index={vary.index} is outside 0..{len(plan) - 1}, the samples {vary.id!r}"
            )
        own = {"model": session.model, **plan.sampling_params.model_dump()}
        if plan.conditions is not None:
            known = self._models.get(session.model).model.conditions
            own["conditions"] = decode_conditions(known, plan.conditions, vary.index)
        request = request.model_copy(
            update={name: value for name, value in own.items() if getattr(request, name) is None}
        )
        label = None if plan.labels is None else int(plan.labels[vary.index])
        return keep_codes(
            request,
            vary,
            session.codes[vary.index].tolist(),
            label,
            self._models.get(session.model).model.code_length,
        )

    async def _vary_upload(
        self,
        sample_id: str,
        served: ServedModel,
        request: SampleRequest,
        vary: VaryParams,
        context: RequestContext,
    ) -> AsyncGenerator[PreviewResponse]:
        """Encode the sample of a request, and generate variations of it; see `sample`."""
        assert vary.sample is not None
        codes, label = await self._codec.encode_variation(served, vary.sample, context)
        request = keep_codes(request, vary, codes.tolist(), label, len(codes))
        plan = _plan(served, request)
        async with aclosing(
            self._start(sample_id, served, plan, None, _form(request), request, context)
        ) as responses:
            async for response in responses:
                yield response

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
        session = self._session(sample_id, context)
        served = self._models.get(session.model)
        codes = session.codes.long()
        return self._start(sample_id, served, session.plan, codes, session.form, request, context)

    def _session(self, sample_id: str, context: RequestContext) -> Session:
        """Return the session of ended samples of a client.

        Raises:
            NotFoundError: The client has no samples with this id.
            ConflictError: The samples are still being generated.
        """
        session = self._sessions.get(sample_id)
        if session is None and sample_id in self._in_flight:
            raise in_flight_error(sample_id)
        if session is None or session.client != context.client:
            raise unknown_sample_error(sample_id)
        return session

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
        if codes is None:
            min_codes = max(min_codes, check_beginning_fits(plan, max_codes))
            codes = served.model.sampler.leading_codes(plan, max_codes)
            drawn = 0 if codes is None else codes.shape[1]
            min_codes = max(min_codes, drawn)
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


def keep_codes(
    request: SampleRequest,
    vary: VaryParams,
    codes: list[int],
    label: int | None,
    code_length: int,
) -> SampleRequest:
    """Return a request with the first codes of a sample in place of the sample.

    Args:
        request: Request for variations of the sample.
        vary: How many codes to keep.
        codes: Codes of the sample.
        label: Label of the sample, if the request has none; None: the model has no labels.
        code_length: Number of codes of a whole sample, L.

    Raises:
        InputError: The sample has fewer codes than are to be kept.
    """
    if vary.keep > len(codes):
        raise InputError(
            f"vary.keep={vary.keep} is outside 0..{len(codes)}, the codes of the sample; keep "
            "fewer, or refine it first"
        )
    beginning = request.candidate_codes
    if request.candidates > 1 and beginning is None:
        beginning = min(code_length, vary.keep + default_candidate_codes(code_length))
    return request.model_copy(
        update={
            "candidate_codes": beginning,
            "vary": None,
            "fixed_codes": (tuple(codes[: vary.keep]),) if vary.keep else None,
            "label": label if request.label is None else request.label,
        }
    )


def _form(request: SampleRequest) -> SampleForm:
    """Return the form in which a request wants its samples."""
    return SampleForm(request.format, bool(request.with_codes))


def _plan(served: ServedModel, request: SampleRequest) -> Plan:
    """Return the plan of the samples that a request asks for."""
    options: dict[str, Any] = {
        name: value for name in _OPTIONS if (value := getattr(request, name)) is not None
    }
    if request.candidates > 1 or request.candidate_codes is not None:
        options |= {
            "candidates": request.candidates,
            "candidate_codes": request.candidate_codes,
        }
    seed = secrets.randbits(SEED_BITS) if request.seed is None else request.seed
    return served.model.plan(request.n, seed=seed, first=request.first, **options)[0]


def _check_rows(served: ServedModel, request: SampleRequest) -> None:
    """Check that the rows of a request fit in the batch, before memory is allocated for them.

    Raises:
        InputError: The samples take more rows than the model has slots.
    """
    n, candidates, model = request.n, request.candidates, served.model
    names = SamplingParams.model_fields
    given = {name: value for name in names if (value := getattr(request, name)) is not None}
    params = sampling_params_from(given, model.bundle.card.sampling_params)
    guided = model.slots_per_sample(params) - 1
    rows = n * candidates * (1 + guided)
    if rows > served.slots:
        raise InputError(
            f"n={n}{f' with {candidates} candidates' if candidates > 1 else ''}"
            f"{' with guidance' if guided else ''} takes {rows} batch rows, and this model "
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
            conditions=_conditions(self.served, job.plan),
            stop_reason=event.stop_reason,
            expires_in_s=expires_in_s,
            timing=timing(event, self.context),
        )


def _conditions(served: ServedModel, plan: Plan) -> list[dict[str, Any]] | None:
    if plan.conditions is None:
        return None
    known, given = served.model.conditions, plan.conditions
    return [decode_conditions(known, given, i) for i in range(len(plan))]


def _labels(served: ServedModel, plan: Plan) -> list[str] | None:
    names = served.model.labels
    if names is None or plan.labels is None:
        return None
    return [names[i] for i in plan.labels.tolist()]
