"""The OpenAPI 3.1 document of `/v1`, made from the table and the types that requests are served by."""

from __future__ import annotations

import re
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final

import msgspec

from gateway.api.v1 import shapes
from gateway.api.v1.operations import OPERATIONS, SCOPES, Operation, problems_of

REF: Final = "#/components/schemas/{name}"
IDEMPOTENCY_KEY: Final = "^[A-Za-z0-9_.:-]{1,128}$"
REQUEST_ID: Final = "^[A-Za-z0-9_.:-]{1,64}$"
ABOUT: Final = (
    "Calls of a microturn gateway, whichever process or gateway they live in. Refusals are problems (RFC 9457); "
    "`code` is for programs. Every answer has an `X-Request-Id`, which may be sent as well. A POST with an "
    "`Idempotency-Key` may be sent again for a day: it is done once, and answered alike. A token of a tenant sees "
    "that tenant's calls alone."
)


def document() -> dict[str, Any]:
    """As JSON would have it."""
    types = sorted(
        {found for operation in OPERATIONS for found in _types(operation)}, key=lambda t: t.__name__
    )
    _, components = msgspec.json.schema_components([*types, shapes.Problem], ref_template=REF)
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "microturn", "version": version("microturn"), "description": ABOUT},
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {
                str(status): {
                    "description": HTTPStatus(status).phrase,
                    "content": _content("application/problem+json", shapes.Problem),
                }
                for status in sorted({status for operation in OPERATIONS for status in problems_of(operation)})
            },
            "securitySchemes": {
                "token": {
                    "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                    "description": "HS256, aud microturn, exp; scopes: "
                    + "; ".join(f"{scope} ({what})" for scope, what in SCOPES.items()),
                }
            },
        },
    }  # fmt: skip


def _types(operation: Operation) -> list[type[msgspec.Struct]]:
    return [found for found in (operation.gives, operation.takes) if found is not None]


def _operation(operation: Operation) -> dict[str, Any]:
    parameters = [
        _parameter("path", name, shapes.CallName) for name in re.findall(r"{(\w+)}", operation.path)
    ]
    parameters += _query(operation)
    parameters.append(_header("X-Request-Id"))
    told: dict[str, Any] = {"operationId": operation.name, "summary": operation.says}
    if operation.method == "POST":
        parameters.append(_header("Idempotency-Key", IDEMPOTENCY_KEY))
    if operation.takes is not None:
        told["requestBody"] = {"required": True, "content": _content("application/json", operation.takes)}
    answer: dict[str, Any] = {"description": HTTPStatus(operation.status).phrase}
    if operation.gives is not None:
        answer["content"] = _content(operation.media_type, operation.gives)
    elif operation.status == 200:
        kind = "object" if operation.media_type == "application/json" else "string"
        answer["content"] = {operation.media_type: {"schema": {"type": kind}}}
    refusals = {
        str(status): {"$ref": f"#/components/responses/{status}"} for status in problems_of(operation)
    }
    told |= {"parameters": parameters, "responses": {str(operation.status): answer} | refusals}
    if operation.scope:
        told["security"] = [{"token": [operation.scope]}]
    return told


def _content(media_type: str, shape: type[msgspec.Struct]) -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": REF.format(name=shape.__name__)}}}


def _query(operation: Operation) -> list[dict[str, Any]]:
    if operation.asks is None:
        return []
    return [
        _parameter("query", field.name, field.type, field.default)
        for field in msgspec.structs.fields(operation.asks)
    ]


def _parameter(place: str, name: str, kind: Any, default: Any = msgspec.NODEFAULT) -> dict[str, Any]:
    schema = msgspec.json.schema(kind)
    needed = default is msgspec.NODEFAULT
    return {
        "name": name,
        "in": place,
        "required": needed,
        "schema": schema if needed else schema | {"default": default},
    }


def _header(name: str, pattern: str = "") -> dict[str, Any]:
    """Without a pattern anything may be sent: what is none of ours is replaced."""
    kind = {"type": "string"} | ({"pattern": pattern} if pattern else {})
    return {"name": name, "in": "header", "required": False, "schema": kind}
