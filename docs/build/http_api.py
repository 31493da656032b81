"""Generate docs/reference/http.md: each route and schema, from the server's OpenAPI document."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from tables import table


def document() -> dict[str, Any]:
    """Return the OpenAPI document of the server, which no model needs to be loaded for."""
    build_app: Any = None
    for module in ("anytime_ar.serving.http.app", "anytime_ar.serving.app"):
        try:
            build_app = import_module(module).build_app
            break
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith("anytime_ar"):
                raise
    if build_app is None:
        raise ModuleNotFoundError("no module of anytime_ar.serving defines build_app")
    # Routes are described from their signatures; the services behind them are not called.
    return dict(build_app(*[None] * len(inspect.signature(build_app).parameters)).openapi())


def _type(schema: dict[str, Any]) -> str:
    """Return a JSON schema in words, linking to named schemas."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    several = schema.get("anyOf") or schema.get("oneOf")
    if several:
        return " or ".join(dict.fromkeys(map(_type, several)))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items') or {})}"
    return str(schema.get("type", "any"))


def _range(schema: dict[str, Any]) -> str:
    """Return the bounds of a value, also of one that may be null."""
    for part in [schema, *schema.get("anyOf", [])]:
        signs = {
            "minimum": "≥",
            "exclusiveMinimum": ">",
            "maximum": "≤",
            "exclusiveMaximum": "<",
            "minLength": "length ≥",
            "maxLength": "length ≤",
            "minItems": "items ≥",
            "maxItems": "items ≤",
        }
        found = [f"{sign} {part[key]}" for key, sign in signs.items() if key in part]
        if found:
            return ", ".join(found)
    return ""


def _operation(method: str, path: str, operation: dict[str, Any]) -> list[str]:
    parts = [
        f"\n### {method.upper()} {path}\n",
        operation.get("description", operation.get("summary", "")) + "\n",
    ]
    if operation.get("security") == []:
        parts.append("Needs no key.\n")
    parameters = operation.get("parameters", [])
    if parameters:
        rows = [
            [f"`{p['name']}`", p["in"], _type(p["schema"]), p.get("description", "")]
            for p in parameters
        ]
        parts.append(table(["parameter", "in", "type", "meaning"], rows) + "\n")
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"Body (`{kind}`): {_type(content['schema'])}.\n")
    rows = [
        [
            f"`{status}`",
            ", ".join(
                f"`{kind}`: {_type(content.get('schema', {}))}"
                for kind, content in response.get("content", {}).items()
            ),
            response.get("description", ""),
        ]
        for status, response in sorted(operation.get("responses", {}).items())
    ]
    parts.append(table(["status", "body", "meaning"], rows))
    return parts


def _schema(name: str, schema: dict[str, Any]) -> list[str]:
    parts = [f"\n### {name}\n", inspect.cleandoc(schema.get("description", "")) + "\n"]
    if "enum" in schema:
        return [*parts, f"One of {_type(schema)}."]
    required = schema.get("required", [])
    rows = [
        [
            f"`{field}`",
            _type(value),
            _range(value),
            "required" if field in required else f"`{value.get('default')}`",
            value.get("description", ""),
        ]
        for field, value in schema.get("properties", {}).items()
    ]
    return (
        [*parts, table(["field", "type", "range", "default", "meaning"], rows)] if rows else parts
    )


def page() -> str:
    """Return the page."""
    found = document()
    parts = [
        "# HTTP API\n",
        "Which requests does `anytime serve` answer, and what do they and their answers hold?\n",
        "A running server offers the same as an OpenAPI document at `/openapi.json`. "
        "With `--api-key-file`, send `Authorization: Bearer KEY`.\n",
        "\n## Routes\n",
    ]
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            parts += _operation(method, path, operation)
    parts.append("\n## Schemas\n")
    for name, schema in sorted(found["components"]["schemas"].items()):
        parts += _schema(name, schema)
    return "\n".join(parts) + "\n"
