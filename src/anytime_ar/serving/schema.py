"""What goes over the wire: requests, answers and errors of the HTTP API, version 1."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from anytime_ar.config import Config
from anytime_ar.serving.engine.jobs import StopReason
from anytime_ar.serving.media import SampleFormat

MAX_SAMPLES = 1024
"""n of one request, whatever the model has room for."""
Milliseconds = Annotated[float, Field(gt=0, le=3_600_000, allow_inf_nan=False)]
QualityFraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Codes = Annotated[StrictInt, Field(ge=1)]
ScheduleField = (
    Annotated[float, Field(allow_inf_nan=False)]
    | Annotated[
        tuple[Annotated[float, Field(allow_inf_nan=False)], ...],
        Field(min_length=1, max_length=64),
    ]
)
Label = StrictInt | Annotated[StrictStr, Field(max_length=200)]
ID_PATTERN = r"^[A-Za-z0-9_-]{8,64}$"
SampleId = Annotated[str, Field(pattern=ID_PATTERN)]


class RequestBody(Config):
    """Base of the bodies of requests. OpenAPI describes their fields by their docstrings."""

    model_config = ConfigDict(use_attribute_docstrings=True)


def _example(**values: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [values]})


class BudgetParams(RequestBody):
    """How much work a draw may be."""

    codes: Codes | None = None
    """At most so many codes; none given: all that the model has."""
    quality: QualityFraction | None = None
    """At most the fewest codes that reach this share of the model's full quality, by its measured
    curve."""
    deadline_ms: Milliseconds | None = None
    """From the arrival of the request to the end of the response. The server has a longest one,
    which holds where none is given."""
    min_codes: Codes = 1
    """The request is worth nothing with fewer: it is refused, or fails, rather than answered."""
    min_quality: QualityFraction | None = None
    """The same, as a share of full quality."""


class ResponseOptions(RequestBody):
    """How samples are answered."""

    format: SampleFormat | None = None
    """Of each sample; none given: png for images, wav for sounds."""
    stream: bool = False
    """Answer with server-sent events: any number of `preview`, then `done` or `error`."""
    previews_per_s: float | None = Field(None, gt=0, le=1000, allow_inf_nan=False)
    """With `stream`: at most so many previews; none given: one after every code. Under load there
    are fewer."""
    with_codes: bool = False
    """Answer the codes as well."""


class SampleRequest(BudgetParams, ResponseOptions):
    """Draw samples."""

    model_config = _example(n=4, label="7", deadline_ms=500, min_codes=4, format="png")

    model: str | None = Field(None, max_length=200)
    """None given: the server's first."""
    n: Annotated[StrictInt, Field(ge=1, le=MAX_SAMPLES)] = 1
    """Number of samples; how many are drawn at once, /v1/models says (`slots`)."""
    label: Label | Annotated[tuple[Label, ...], Field(max_length=MAX_SAMPLES)] | None = None
    """A class, or one for each sample, by name or number; none given: as in the training data."""
    seed: Annotated[StrictInt, Field(ge=0, lt=2**64)] | None = None
    """Equal seeds give equal samples, whatever else the server is doing; none given: a fresh
    one."""
    first: Annotated[StrictInt, Field(ge=0, le=2**62)] = 0
    """The number of the first sample within the seed."""
    temperature: ScheduleField | None = None
    """0..100: above 1 more varied, below 1 more typical; 0 takes the most likely code. As all
    numbers here that may be several: those are for places at equal distances from the first code to
    the last. None given: as the model's makers found best."""
    top_k: Codes | None = None
    """Draw from the k most likely codes only."""
    top_p: ScheduleField | None = None
    """Above 0 and up to 1: draw only from the most likely codes that together hold this
    probability."""
    guidance: ScheduleField | None = None
    """Classifier-free guidance, 0..100: 1 follows the label as trained, above that more strongly, 0
    ignores it. Anything but 1 doubles the work."""
    id: SampleId | None = None
    """By which the draw can be stopped and continued; none given: the server chooses one."""


class RefineRequest(BudgetParams, ResponseOptions):
    """Continue a draw. `codes` and `min_codes` count from its very first one."""

    model_config = _example(codes=16, deadline_ms=500)


class EncodeRequest(RequestBody):
    """Turn samples into codes."""

    model_config = _example(
        samples=[
            "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJg"
            "gg=="
        ]
    )

    model: str | None = Field(None, max_length=200)
    """None given: the server's first."""
    samples: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_SAMPLES)]
    """Files in base64: png, webp or jpeg; wav; or npy, float32 in [-1, 1]."""


class DecodeRequest(RequestBody):
    """Turn codes, or any prefix of them, into samples."""

    model_config = _example(codes=[[3, 1, 4], [1, 5, 2]], format="png")

    model: str | None = Field(None, max_length=200)
    """None given: the server's first."""
    codes: Annotated[
        tuple[Annotated[tuple[StrictInt, ...], Field(min_length=1)], ...],
        Field(min_length=1, max_length=MAX_SAMPLES),
    ]
    """Of each sample, as many for one as for the other."""
    format: SampleFormat | None = None
    """Of each sample; none given: png for images, wav for sounds."""


class ResponseBody(BaseModel):
    """The base of all that the server says."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class RequestTiming(ResponseBody):
    """Where the time went, in milliseconds."""

    queue_ms: float
    """From the arrival of the request to the first code."""
    sampling_ms: float
    decode_ms: float
    total_ms: float
    """From the arrival to the answer, but for its way."""
    late_ms: float | None
    """By how much the deadline was missed; negative: what was left of it; null: there was none."""


class PreviewResponse(ResponseBody):
    """Samples: on their way in a `preview`, or in the end."""

    id: str
    model: str
    n: int
    codes_drawn: int
    """How many codes each sample has."""
    code_length: int
    """How many it can have."""
    quality: float | None
    """The share of the model's full quality that so many codes have, by its measured curve; null:
    not measured."""
    format: SampleFormat
    samples: list[str]
    """Files in base64."""
    codes: list[list[int]] | None = None


class SampleResponse(PreviewResponse):
    """The end of a draw."""

    seed: int
    first: int
    labels: list[str] | None
    """Of each sample, by name."""
    stop_reason: StopReason
    """`complete`: all codes that were asked for; `deadline`: its time was up; `load`: others needed
    the room; `cancelled`: it was stopped; `drain`: the server is going down."""
    expires_in_s: float
    """Seconds for which it can be continued."""
    timing: RequestTiming


class EncodeResponse(ResponseBody):
    """Codes of samples, coarse to fine."""

    model: str
    codes: list[list[int]]
    timing: RequestTiming


class DecodeResponse(ResponseBody):
    """Samples of codes."""

    model: str
    format: SampleFormat
    samples: list[str]
    timing: RequestTiming


class CurvePointInfo(ResponseBody):
    """Quality and cost at a number of codes, as measured."""

    codes: int
    quality: float | None
    fd: float | None
    """Fréchet distance of samples to the test split."""
    mse: float | None
    """Squared error of reconstructions."""
    ms: float | None
    """Of one sample by itself, on the machine that measured it."""
    server_ms: float | None
    """Of one sample by itself, on the server's machine, by what it has seen; null: nothing yet."""


class ModelInfo(ResponseBody):
    """One model of the server."""

    name: str
    sample_shape: list[int]
    sample_rate: int | None
    code_length: int
    vocabulary: int
    labels: list[str] | None
    formats: list[str]
    """That its samples can be answered in."""
    slots: int
    """Rows drawn at once; n of one request is at most that, and half of it with guidance."""
    curve: list[CurvePointInfo]
    """Empty if it was not measured."""


class ModelList(ResponseBody):
    """All models of the server, the first one being the usual one."""

    models: list[ModelInfo]


ErrorCode = Literal[
    "overloaded",
    "draining",
    "deadline",
    "cancelled",
    "broken",
    "invalid",
    "unauthorized",
    "wrong_host",
    "not_found",
    "conflict",
    "too_large",
    "not_ready",
    "not_allowed",
    "not_acceptable",
    "internal",
]


class ErrorBody(ResponseBody):
    """What went wrong."""

    code: ErrorCode
    """For programs."""
    message: str
    """For people: what came, what was expected, what to do."""
    retry_after_s: float | None = None
    """When trying again may help."""
    details: list[dict[str, Any]] | None = None
    """Of an invalid request: at most eight places in it, and what is wrong there."""


class ErrorResponse(ResponseBody):
    """The only form of an error."""

    model_config = _example(
        error={
            "code": "overloaded",
            "message": "not even the least that this request needs fits, by 0.012 s; ask for less, "
            "give it more time, or try again later",
            "retry_after_s": 0.012,
            "details": None,
        }
    )

    error: ErrorBody
