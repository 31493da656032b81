"""Additions to /openapi.json: errors, security schemes and server-sent events."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from anytime_ar.serving.http.middleware import UNAUTHENTICATED_PATHS
from anytime_ar.serving.http.negotiation import EVENT_STREAM
from anytime_ar.serving.media import MEDIA_TYPES
from anytime_ar.serving.schema import ErrorResponse, PreviewResponse

TAGS = [
    {"name": "samples", "description": "Draw samples, go on with a draw, stop it."},
    {"name": "codes", "description": "Turn samples into codes, and codes into samples."},
    {"name": "server", "description": "What is served, and how the server is."},
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
    404: "There is no such model, or no such draw (any more).",
    406: "The client accepts none of the forms of the answer.",
    409: "The id is taken, the draw is under way, or it was stopped before its first code.",
    413: "The body is too large.",
    415: "The body is not called JSON by its Content-Type.",
    421: "The server does not answer to the name in the header Host.",
    422: "The request is wrong, or cannot be met by this model.",
    431: "The headers are too large.",
    503: "Not even the least fits now, the server is going down, or the model is broken.",
    504: "The deadline passed before there were as many codes as the request needs.",
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
    "description": "The server wants a key, and this is none of them.",
    "headers": {"WWW-Authenticate": {"schema": {"type": "string"}}},
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}},
}
SAMPLES_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Samples: as JSON; as the bytes of one, with its figures in headers, where "
        "`Accept` names its media type; or as server-sent events, where `stream` is true or "
        "`Accept` names theirs.",
        "content": {
            EVENT_STREAM: {
                "schema": {
                    "type": "string",
                    "description": "Any number of `preview`, then exactly one `done` or `error`.",
                },
                "itemSchema": {
                    "oneOf": [
                        _event("preview", "PreviewResponse", "What the draw has on its way."),
                        _event("done", "SampleResponse", "What it has in the end."),
                        _event("error", "ErrorResponse", "Why it has nothing."),
                    ]
                },
                "example": 'event: preview\ndata: {"id": "dRaW-1", "codes_drawn": 1, ...}\n\n'
                'event: done\ndata: {"id": "dRaW-1", "codes_drawn": 16, ...}\n\n',
            },
            **{
                kind: {
                    "schema": {
                        "type": "string",
                        "format": "binary",
                        "contentMediaType": kind,
                        "description": "The file of a single sample.",
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
