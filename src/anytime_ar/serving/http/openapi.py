"""Additions to /openapi.json: errors, security schemes and server-sent events."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from anytime_ar.serving.http.middleware import UNAUTHENTICATED_PATHS
from anytime_ar.serving.http.negotiation import EVENT_STREAM
from anytime_ar.serving.schema import MEDIA_TYPES, ErrorResponse, PreviewResponse

TAGS = [
    {"name": "samples", "description": "Generate samples, refine them, stop them."},
    {"name": "codes", "description": "Encode samples to codes, and decode codes to samples."},
    {"name": "server", "description": "List the models, and read health, load and metrics."},
]
SECURITY_SCHEMES = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "description": "One of the server's keys, if it was started with --api-key-file.",
    },
    "password": {
        "type": "http",
        "scheme": "basic",
        "description": "The same key as the password of any user: for browsers.",
    },
}
_ERRORS = {
    404: "The model is not served, or the id is unknown or has expired.",
    406: "The client accepts no available form of the response.",
    409: "The id is taken, its samples are still being generated, or they were stopped before the "
    "first code.",
    413: "The body is too large.",
    415: "The Content-Type of the body is not JSON, or the body has a Content-Encoding.",
    421: "The server does not accept the name in the header Host.",
    422: "The request is invalid, or this model cannot fulfil it.",
    431: "The headers are too large.",
    503: "The server cannot draw the minimum codes in time, is shutting down, or its model failed.",
    504: "The deadline passed before the samples had their minimum codes.",
}
_COMMON_ERRORS = (421, 431)


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the errors of a route, including those of all routes.

    Args:
        *statuses: HTTP statuses of the errors of the route.
    """
    return {
        status: {"model": ErrorResponse, "description": _ERRORS[status]}
        for status in sorted({*statuses, *_COMMON_ERRORS})
    }


def _event(name: str, schema: str, what: str) -> dict[str, Any]:
    data = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": f"#/components/schemas/{schema}"},
    }
    return {
        "type": "object",
        "title": name,
        "description": what,
        "properties": {"event": {"type": "string", "const": name}, "data": data},
        "required": ["event", "data"],
    }


_UNAUTHORIZED = {
    "description": "The API key is missing or unknown.",
    "headers": {"WWW-Authenticate": {"schema": {"type": "string"}}},
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}},
}
SAMPLES_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Samples in one of three forms: JSON; a file with one sample, with its id, "
        "seed and timing in headers, if `Accept` names its media type; or server-sent events, if "
        "`stream` is true or `Accept` names `text/event-stream`.",
        "content": {
            EVENT_STREAM: {
                "schema": {
                    "type": "string",
                    "description": "Any number of `preview`, then exactly one `done` or `error`.",
                },
                "itemSchema": {
                    "oneOf": [
                        _event("preview", "PreviewResponse", "Samples so far, decoded."),
                        _event("done", "SampleResponse", "Final samples."),
                        _event("error", "ErrorResponse", "Reason why there are no samples."),
                    ]
                },
                "example": 'event: preview\ndata: {"id": "sAmPle-1", "codes_drawn": 1, ...}\n\n'
                'event: done\ndata: {"id": "sAmPle-1", "codes_drawn": 16, ...}\n\n',
            },
            **{
                kind: {
                    "schema": {
                        "type": "string",
                        "format": "binary",
                        "contentMediaType": kind,
                        "description": "File with one sample.",
                    }
                }
                for kind in MEDIA_TYPES.values()
            },
        },
    }
}


def install_openapi(app: FastAPI) -> None:
    """Add API keys and server-sent events to the OpenAPI document of an application."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=TAGS,
            )
            parts = schema["components"]
            parts["schemas"]["PreviewResponse"] = PreviewResponse.model_json_schema()
            parts["securitySchemes"] = SECURITY_SCHEMES
            schema["security"] = [{name: []} for name in SECURITY_SCHEMES]
            for path, operations in schema["paths"].items():
                for operation in operations.values():
                    if path in UNAUTHENTICATED_PATHS:
                        operation["security"] = []
                    else:
                        operation["responses"]["401"] = _UNAUTHORIZED
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
