"""The document from which clients are generated."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, cast

import pytest

from anytime_ar.serving.http.app import build_app
from anytime_ar.serving.http.middleware import UNAUTHENTICATED_PATHS
from anytime_ar.serving.http.monitoring import Monitor
from anytime_ar.serving.schema import (
    MEDIA_TYPES,
    DecodeRequest,
    EncodeRequest,
    ErrorResponse,
    RefineRequest,
    SampleRequest,
)

NOBODY = cast("Any", None)
REQUESTS = (SampleRequest, RefineRequest, EncodeRequest, DecodeRequest)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    watch = Monitor(dict, lambda: True, lambda: 0.0)
    told: dict[str, Any] = build_app(NOBODY, NOBODY, NOBODY, watch).openapi()
    json.dumps(told)
    return told


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def test_every_route_is_told_with_its_errors(document: dict[str, Any]) -> None:
    ids, tags = [], {tag["name"] for tag in document["tags"]}
    for name, operation in operations(document):
        ids.append(operation["operationId"])
        assert re.fullmatch("[a-z]+(_[a-z]+)*", operation["operationId"]), name
        assert operation["description"], name
        assert len(operation["tags"]) == 1, name
        assert set(operation["tags"]) <= tags, name
        responses = operation["responses"]
        assert {"421", "431"} <= responses.keys(), name
        is_open = name.split()[1] in UNAUTHENTICATED_PATHS
        assert ("401" in responses) == (operation.get("security") != []) == (not is_open), name
        for status, response in responses.items():
            assert response["description"], (name, status)
            if status >= "4":
                schema = response["content"]["application/json"]["schema"]
                assert schema["$ref"].endswith("/ErrorResponse"), (name, status)
            elif status != "204":
                for kind, content in response["content"].items():
                    assert content["schema"], (name, kind)
    assert len(set(ids)) == len(ids) >= 10


def test_keys_are_told(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"]
    assert {scheme["scheme"] for scheme in schemes.values()} == {"bearer", "basic"}
    assert document["security"] == [{name: []} for name in schemes]


def test_samples_are_told_in_all_their_forms(document: dict[str, Any]) -> None:
    for path in ("/v1/samples", "/v1/samples/{id}/refine"):
        content = document["paths"][path]["post"]["responses"]["200"]["content"]
        assert content["application/json"]["schema"]["$ref"].endswith("/SampleResponse")
        for kind in MEDIA_TYPES.values():
            assert content[kind]["schema"]["format"] == "binary"
        events = content["text/event-stream"]["itemSchema"]["oneOf"]
        assert [event["title"] for event in events] == ["preview", "done", "error"]


def test_whatever_is_referred_to_is_there(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    for name in re.findall(r'"#/components/schemas/(\w+)"', text):
        assert name in document["components"]["schemas"]
    assert "HTTPValidationError" not in text


def test_every_field_of_a_request_is_described(document: dict[str, Any]) -> None:
    for kind in REQUESTS:
        for name, field in document["components"]["schemas"][kind.__name__]["properties"].items():
            assert len(field.get("description", "")) > 10, (kind.__name__, name)


@pytest.mark.parametrize("kind", [*REQUESTS, ErrorResponse])
def test_examples_are_what_they_are_examples_of(document: dict[str, Any], kind: Any) -> None:
    schema = document["components"]["schemas"][kind.__name__]
    assert schema["examples"]
    for example in schema["examples"]:
        made = kind.model_validate_json(json.dumps(example))
        assert made.model_dump(mode="json", exclude_unset=True) == example
