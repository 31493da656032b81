"""Error responses of the HTTP API, and the handlers that turn exceptions into them."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from anytime_ar.errors import InputError
from anytime_ar.serving.engine.jobs import ErrorReason, RequestContext, ServingError
from anytime_ar.serving.engine.models import NotFoundError
from anytime_ar.serving.engine.sample_service import ConflictError
from anytime_ar.serving.http.negotiation import NotAcceptableError
from anytime_ar.serving.schema import ErrorBody, ErrorCode, ErrorResponse

HTTP_STATUS: dict[ErrorReason, int] = {
    "overloaded": 503,
    "draining": 503,
    "broken": 503,
    "deadline": 504,
    "cancelled": 409,
}
"""HTTP status of each reason why a request ends without samples."""
_HTTP_ERRORS: dict[int, tuple[ErrorCode, str]] = {
    404: ("not_found", "this path does not exist; see /openapi.json for the paths of the API"),
    405: (
        "not_allowed",
        "this path does not support the method; see /openapi.json for its methods",
    ),
    413: (
        "too_large",
        "the body is larger than the server accepts; send fewer samples in one request",
    ),
}
_MAX_DETAILS = 8
_MAX_MESSAGE_CHARS = 200
"""Maximum characters of text from other libraries or clients in a response."""
_log = logging.getLogger(__name__)


def error_body(
    code: ErrorCode,
    message: str,
    retry_after_s: float | None = None,
    details: list[dict[str, Any]] | None = None,
) -> ErrorResponse:
    """Return the body of an error response.

    Args:
        code: Name of the error, for programs.
        message: Text for people.
        retry_after_s: Seconds after which a retry may succeed; None if a retry does not help.
        details: Invalid fields of the request.
    """
    return ErrorResponse(
        error=ErrorBody(code=code, message=message, retry_after_s=retry_after_s, details=details)
    )


def error_response(
    status: int,
    code: ErrorCode,
    message: str,
    *,
    retry_after_s: float | None = None,
    details: list[dict[str, Any]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an error response.

    Args:
        status: HTTP status of the response.
        code: Name of the error, for programs.
        message: Text for people.
        retry_after_s: Seconds after which a retry may succeed; None if a retry does not help. It
            sets the header Retry-After as well.
        details: Invalid fields of the request.
        headers: Further headers of the response.
    """
    retry = {} if retry_after_s is None else {"Retry-After": str(max(1, math.ceil(retry_after_s)))}
    body = error_body(code, message, retry_after_s, details)
    return Response(
        body.model_dump_json(),
        status,
        media_type="application/json",
        headers={**retry, **(headers or {})},
    )


def install_error_handlers(app: FastAPI) -> None:
    """Make an application respond to errors with an `ErrorResponse`.

    The handlers store the name of each error in the context of its request, for the log.
    """

    def noted(request: Request, code: str) -> None:
        context: RequestContext = request.state.context
        context.error = code

    @app.exception_handler(ServingError)
    async def refused(request: Request, error: ServingError) -> Response:
        noted(request, error.reason)
        retry_s = error.retry_after_s if HTTP_STATUS[error.reason] == 503 else None
        return error_response(
            HTTP_STATUS[error.reason], error.reason, str(error), retry_after_s=retry_s
        )

    @app.exception_handler(InputError)
    async def wrong_input(request: Request, error: InputError) -> Response:
        status: int = 422
        code: ErrorCode = "invalid"
        if isinstance(error, NotFoundError):
            status, code = 404, "not_found"
        elif isinstance(error, ConflictError):
            status, code = 409, "conflict"
        elif isinstance(error, NotAcceptableError):
            status, code = 406, "not_acceptable"
        noted(request, code)
        return error_response(status, code, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        noted(request, "invalid")
        if any(one["loc"] == ("body",) and one["type"] != "missing" for one in error.errors()):
            kind = request.headers.get("content-type", "")[:_MAX_MESSAGE_CHARS]
            if not _is_json(kind):
                came = f"has Content-Type {kind!r}" if kind else "has no Content-Type"
                return error_response(
                    415,
                    "invalid",
                    f"the body is not read as JSON, because the request {came}; send the header "
                    "Content-Type: application/json",
                )
        # Leave out the invalid values: they can be of any content and size.
        details = [
            {
                "loc": ".".join(str(part)[:_MAX_MESSAGE_CHARS] for part in problem["loc"]),
                "msg": _problem_text(problem)[:_MAX_MESSAGE_CHARS],
            }
            for problem in error.errors()[:_MAX_DETAILS]
        ]
        first = f"{details[0]['loc']}: {details[0]['msg']}" if details else "cannot be read"
        return error_response(422, "invalid", f"the request is invalid: {first}", details=details)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        unreadable = _unreadable_json(error.__cause__) if error.status_code == 400 else None
        if unreadable is not None:
            noted(request, "invalid")
            return error_response(422, "invalid", unreadable)
        code, message = _HTTP_ERRORS.get(
            error.status_code, ("invalid", str(error.detail)[:_MAX_MESSAGE_CHARS])
        )
        noted(request, code)
        return error_response(error.status_code, code, message, headers=error.headers)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        noted(request, "internal")
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return error_response(
            500, "internal", "the server failed to answer; its log has the traceback"
        )


def _problem_text(problem: Mapping[str, Any]) -> str:
    """Return what is wrong with a field, or with the JSON of the body, by pydantic or FastAPI."""
    text = str(problem["msg"])
    return f"{text}: {problem['ctx']['error']}" if problem["type"] == "json_invalid" else text


def _unreadable_json(cause: BaseException | None) -> str | None:
    """Return what is wrong with a body that Python's JSON parser gives up on.

    FastAPI reports only JSON syntax errors in detail.

    Args:
        cause: Exception of the parser.
    """
    match cause:
        case UnicodeDecodeError():
            byte = cause.object[cause.start]
            return (
                f"the body is not valid {cause.encoding.upper()}: byte 0x{byte:02x} at position "
                f"{cause.start}; send JSON encoded as UTF-8"
            )
        case RecursionError():
            return (
                "the JSON of the body is nested too deeply; send a JSON object as in /openapi.json"
            )
        case ValueError():  # the only other one: an integer beyond Python's limit of digits
            return (
                "the JSON of the body has an integer of more than "
                f"{sys.get_int_max_str_digits()} digits; send smaller numbers"
            )
    return None


def _is_json(media_type: str) -> bool:
    """Return whether FastAPI reads bodies of a media type as JSON."""
    major, _, minor = media_type.partition(";")[0].strip().lower().partition("/")
    return major == "application" and (minor == "json" or minor.endswith("+json"))
