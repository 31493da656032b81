"""Bodies of requests, responses and errors of the HTTP API, version 1."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StrictInt,
    StrictStr,
    model_validator,
)

from anytime_ar.config import Config
from anytime_ar.sampling.plan import MAX_CANDIDATES
from anytime_ar.serving.engine.jobs import StopReason

SampleFormat = Literal["png", "webp", "wav", "npy", "csv"]
MEDIA_TYPES: dict[str, str] = {
    "png": "image/png",
    "webp": "image/webp",
    "wav": "audio/wav",
    "npy": "application/x-npy",
    "csv": "text/csv",
}
"""Media type of each sample format."""
MAX_SAMPLES = 1024
"""Maximum samples in one request, whatever the slots of the model."""
Milliseconds = Annotated[float, Field(gt=0, le=3_600_000, allow_inf_nan=False)]
"""Duration in milliseconds, at most an hour."""
QualityFraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Codes = Annotated[StrictInt, Field(ge=1)]
ScheduleField = (
    Annotated[float, Field(allow_inf_nan=False)]
    | Annotated[
        tuple[Annotated[float, Field(allow_inf_nan=False)], ...],
        Field(min_length=1, max_length=64),
    ]
)
ConditionName = Annotated[str, Field(max_length=200)]
MAX_CONDITIONS = 256
"""Maximum conditions of a request."""
Label = StrictInt | Annotated[StrictStr, Field(max_length=200)]
ID_PATTERN = r"^[A-Za-z0-9_-]{8,64}$"
SampleId = Annotated[str, Field(pattern=ID_PATTERN)]


class RequestBody(Config):
    """Base of request bodies. The docstrings of fields become their descriptions in OpenAPI."""

    model_config = ConfigDict(use_attribute_docstrings=True)


def _example(**values: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [values]})


class BudgetParams(RequestBody):
    """Limits of sampling: codes, quality and deadline."""

    codes: Codes | None = None
    """Maximum codes of each sample. The default is the code length of the model."""
    quality: QualityFraction | None = None
    """Share of the quality at full length, above 0 and up to 1. Each sample gets at most the fewest
    codes that reach it by the model's measured curve."""
    deadline_ms: Milliseconds | None = None
    """Milliseconds from the arrival of the request to the end of the response. The server limits
    them, and its limit is the default."""
    min_codes: Codes = 1
    """Minimum codes of each sample. A request that cannot get them is refused or fails."""
    min_quality: QualityFraction | None = None
    """Minimum quality, as a share of the quality at full length. It raises `min_codes` to the
    fewest codes that reach it."""


class ResponseOptions(RequestBody):
    """Form of the response: format, streaming and codes."""

    format: SampleFormat | None = None
    """File format of each sample. The default is png for images, wav for audio and npy for series.
    csv and npy have the units of the series, and png is a line plot."""
    stream: bool = False
    """Respond with server-sent events: any number of `preview`, then one `done` or `error`."""
    previews_per_s: float | None = Field(None, gt=0, le=1000, allow_inf_nan=False)
    """Maximum previews a second of a stream. The default is one after every code. Under load the
    server sends fewer."""
    with_codes: bool | None = None
    """Include the codes of each sample in the response. By default they are left out."""


class VaryParams(RequestBody):
    """Sample whose first codes are kept. Exactly one of `id` and `sample` is given."""

    id: SampleId | None = None
    """Id of earlier samples, within their session."""
    index: Annotated[StrictInt, Field(ge=0, lt=MAX_SAMPLES)] = 0
    """Index of the sample among those with the id."""
    sample: str | None = None
    """Sample as a file in base64, as for /v1/encode. Its class is `label`, or else the one under
    which the prior finds its codes most likely."""
    keep: Annotated[StrictInt, Field(ge=0)]
    """Number of codes to keep, from 0 up to all that the sample has."""

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        """Check that there is one sample to vary."""
        if (self.id is None) == (self.sample is None):
            raise ValueError("pass either id or sample")
        return self


class SampleRequest(BudgetParams, ResponseOptions):
    """Request for new samples."""

    model_config = _example(n=4, label="7", deadline_ms=500, min_codes=4, format="png")

    model: str | None = Field(None, max_length=200)
    """Name of the model. The default is the server's first model."""
    n: Annotated[StrictInt, Field(ge=1, le=MAX_SAMPLES)] = 1
    """Number of samples. A model samples at most its `slots` at once; see /v1/models."""
    label: Label | Annotated[tuple[Label, ...], Field(max_length=MAX_SAMPLES)] | None = None
    """Class of all samples, or one class for each, by name or index. By default classes are sampled
    with their frequency in the training data."""
    conditions: Annotated[
        dict[ConditionName, JsonValue] | None, Field(max_length=MAX_CONDITIONS)
    ] = None
    """Values of the model's other conditions by name: a class, a list of numbers, a text or codes;
    one for all samples, or a list with one for each. What is left out is not given."""
    seed: Annotated[StrictInt, Field(ge=0, lt=2**64)] | None = None
    """Seed of the random numbers. Equal seeds give equal samples under any load. By default the
    server chooses a fresh seed."""
    first: Annotated[StrictInt, Field(ge=0, le=2**62)] = 0
    """Index of the first sample within the seed."""
    temperature: ScheduleField | None = None
    """Sampling temperature, 0 to 100. Values above 1 give more varied samples, values below 1 more
    typical ones, and 0 takes the most likely code. A list is a schedule: its numbers hold at equal
    distances from the first code to the last. The default comes from the bundle."""
    top_k: Codes | None = None
    """Number of the most likely codes to sample from. The default comes from the bundle."""
    top_p: ScheduleField | None = None
    """Nucleus sampling, above 0 and up to 1: sample from the fewest most likely codes whose
    probabilities add up to it. A number or a schedule."""
    guidance: ScheduleField | None = None
    """Scale of classifier-free guidance, 0 to 100. 1 follows label and conditions as trained, more
    than 1 follows them more strongly, and 0 ignores them. Any value except 1 doubles the cost. A
    number or a schedule."""
    condition_guidance: Annotated[
        dict[ConditionName, ScheduleField] | None, Field(max_length=MAX_CONDITIONS)
    ] = None
    """Scale of guidance of single conditions by name, given the others, where `label` is the class.
    Each value except 1 costs one more batch row for each sample."""
    fixed_codes: (
        Annotated[
            tuple[Annotated[tuple[StrictInt, ...], Field(min_length=1)], ...],
            Field(min_length=1, max_length=MAX_SAMPLES),
        ]
        | None
    ) = None
    """Codes that are given rather than drawn: one list for all samples, or one for each. -1 marks
    codes to draw, as are all after the end of a list."""
    candidates: Annotated[StrictInt, Field(ge=1, le=MAX_CANDIDATES)] = 1
    """Number of beginnings that are drawn of each sample. The one that the prior finds likeliest is
    continued. Each takes a batch row."""
    candidate_codes: Codes | None = None
    """Number of codes of a beginning, which every sample gets. The default is a quarter of the code
    length."""
    vary: VaryParams | None = None
    """Sample to vary: its first codes are kept, and the others drawn. By default nothing is kept.
    Sampling parameters that are not given are those of the earlier samples."""
    id: SampleId | None = None
    """Id by which to stop or refine the samples. By default the server chooses one."""

    @model_validator(mode="after")
    def _check_one_source(self) -> Self:
        """Check that codes are not fixed twice."""
        if self.vary is not None and self.fixed_codes is not None:
            raise ValueError("vary fixes codes itself; omit fixed_codes")
        return self


class RefineRequest(BudgetParams, ResponseOptions):
    """Request to refine samples, whose `codes` and `min_codes` include the codes drawn so far.

    `format` and `with_codes` are by default as in the request for the samples.
    """

    model_config = _example(codes=16, deadline_ms=500)


class EncodeRequest(RequestBody):
    """Request to encode samples to codes."""

    model_config = _example(
        samples=[
            "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJg"
            "gg=="
        ]
    )

    model: str | None = Field(None, max_length=200)
    """Name of the model. The default is the server's first model."""
    samples: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_SAMPLES)]
    """Samples as files in base64: images as png, webp or jpeg, audio as wav, or either as npy with
    float32 in [-1, 1]; series in their own units as csv or as npy with float32."""


class DecodeRequest(RequestBody):
    """Request to decode codes, or any prefix of them, to samples."""

    model_config = _example(codes=[[3, 1, 4], [1, 5, 2]], format="png")

    model: str | None = Field(None, max_length=200)
    """Name of the model. The default is the server's first model."""
    codes: Annotated[
        tuple[Annotated[tuple[StrictInt, ...], Field(min_length=1)], ...],
        Field(min_length=1, max_length=MAX_SAMPLES),
    ]
    """Codes of each sample, coarse to fine. All samples have the same number of codes."""
    format: SampleFormat | None = None
    """File format of each sample. The default is png for images, wav for audio and npy for series.
    csv and npy have the units of the series, and png is a line plot."""


class ResponseBody(BaseModel):
    """Base of response bodies. The docstrings of fields become their descriptions in OpenAPI."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class RequestTiming(ResponseBody):
    """Durations of the phases of a request, in milliseconds."""

    queue_ms: float
    """Time from the arrival of the request to the first code."""
    sampling_ms: float
    """Time from the first code to the last."""
    decode_ms: float
    """Time to decode, or for /v1/encode to encode."""
    total_ms: float
    """Time from the arrival of the request to the response, without the network."""
    late_ms: float | None
    """Time by which the response misses the deadline. Negative values are time left. null if the
    request has no deadline."""


class PreviewResponse(ResponseBody):
    """Samples that are still being generated, decoded from the codes so far."""

    id: str
    """Id by which to stop or refine the samples."""
    model: str
    """Name of the model."""
    n: int
    """Number of samples in the response."""
    codes_drawn: int
    """Number of codes that each sample has."""
    code_length: int
    """Number of codes of a whole sample."""
    quality: float | None
    """Share of the quality at full length that `codes_drawn` codes reach, by the model's measured
    curve. null if the curve was not measured."""
    format: SampleFormat
    """File format of each sample."""
    samples: list[str]
    """Content of each sample's file in base64."""
    codes: list[list[int]] | None = None
    """Codes of each sample, coarse to fine. null unless requested by `with_codes`."""


class SampleResponse(PreviewResponse):
    """Final samples, with the reason why sampling stopped."""

    seed: int
    """Seed of the random numbers."""
    first: int
    """Index of the first sample within the seed."""
    labels: list[str] | None
    """Class name of each sample. null if the model has no labels."""
    conditions: list[dict[str, JsonValue]] | None = None
    """Conditions that each sample was given, by name. null if the model has no conditions."""
    stop_reason: StopReason
    """Reason why sampling stopped. `complete`: the samples have all requested codes. `deadline`: no
    time was left. `load`: other requests needed the slots. `cancelled`: the client stopped it.
    `drain`: the server is shutting down."""
    expires_in_s: float
    """Seconds for which the samples can be refined."""
    timing: RequestTiming
    """Durations of the phases of the request."""


class EncodeResponse(ResponseBody):
    """Codes of the encoded samples."""

    model: str
    """Name of the model."""
    codes: list[list[int]]
    """Codes of each sample, coarse to fine."""
    timing: RequestTiming
    """Durations of the phases of the request."""


class DecodeResponse(ResponseBody):
    """Samples that were decoded from codes."""

    model: str
    """Name of the model."""
    format: SampleFormat
    """File format of each sample."""
    samples: list[str]
    """Content of each sample's file in base64."""
    timing: RequestTiming
    """Durations of the phases of the request."""


class CurvePointInfo(ResponseBody):
    """Measured quality and cost of samples with a number of codes."""

    codes: int
    """Number of codes of each sample."""
    quality: float | None
    """Share of the quality at full length."""
    fd: float | None
    """Fréchet distance between samples and the test split."""
    mse: float | None
    """Mean squared error of reconstructions."""
    ms: float | None
    """Milliseconds to generate one sample alone, on the machine that measured the curve."""
    server_ms: float | None
    """Milliseconds to generate one sample alone on the server, by its cost model. null before the
    server has measured its costs."""


class ConditionInfo(ResponseBody):
    """Kind and values of one condition."""

    kind: Literal["class", "vector", "text", "codes"]
    """Kind of the values: a class by name or index, a list of numbers, a text, or codes."""
    names: list[str] | None
    """Names of the classes. null for other kinds."""
    width: int | None
    """Numbers of a vector. null for other kinds."""
    max_tokens: int | None
    """Maximum words of a text, or codes. null for other kinds."""
    vocabulary: int | None
    """Number of words that the model knows, or of values of a code. null for other kinds."""
    words: list[str] | None
    """Some of the words that the model knows. null for other kinds."""


class ModelInfo(ResponseBody):
    """Shapes, labels, formats and curve of one model."""

    name: str
    """Name by which to request the model."""
    sample_shape: list[int]
    """Shape of one sample: [C, H, W] for images, [C, T] for audio and series."""
    sample_rate: int | None
    """Sample rate of audio in Hz. null for images and series."""
    code_length: int
    """Number of codes of a whole sample."""
    vocabulary: int | list[int]
    """Number of different values that a code can have; a list of one for each position if they
    differ."""
    labels: list[str] | None
    """Names of the classes. null if the model has no labels."""
    conditions: dict[str, ConditionInfo]
    """What samples can be conditioned on beside the label, by name."""
    formats: list[str]
    """File formats that samples can be requested in, the default first."""
    slots: int
    """Batch rows that are sampled at once. One request has at most as many samples, or half as many
    with guidance."""
    curve: list[CurvePointInfo]
    """Quality and cost at each measured number of codes. Empty if the curve was not measured."""


class ModelList(ResponseBody):
    """All models of the server, the default model first."""

    models: list[ModelInfo]
    """Models of the server, the default first."""


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
    """Code, message and details of an error."""

    code: ErrorCode
    """Name of the error, for programs."""
    message: str
    """Text for people: what came, what was expected, and what to do next."""
    retry_after_s: float | None = None
    """Seconds after which a retry may succeed. null if a retry does not help."""
    details: list[dict[str, Any]] | None = None
    """Invalid fields of the request, at most eight. `loc` is the path of a field, `msg` says what
    is wrong with it."""


class ErrorResponse(ResponseBody):
    """Body of every error response."""

    model_config = _example(
        error={
            "code": "overloaded",
            "message": "the server is overloaded: the minimum codes of this request would be "
            "0.012 s late; lower min_codes or n, allow a longer deadline, or try again later",
            "retry_after_s": 0.012,
            "details": None,
        }
    )

    error: ErrorBody
    """Code, message and details of the error."""
