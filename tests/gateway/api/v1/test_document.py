"""The OpenAPI document and the routes say the same, since both are made from one table."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

from gateway.api.v1.openapi import document
from gateway.api.v1.operations import OPERATIONS, SCOPES
from tests.support.web_worker import Visit, visit


def references(found: Any) -> list[str]:
    """Every $ref in it."""
    if isinstance(found, dict):
        own = [found["$ref"]] if isinstance(found.get("$ref"), str) else []
        return own + [ref for value in found.values() for ref in references(value)]
    return [ref for value in found for ref in references(value)] if isinstance(found, list) else []


def test_every_reference_of_the_document_leads_somewhere() -> None:
    told = json.loads(json.dumps(document()))
    assert told["openapi"] == "3.1.0" and len(references(told)) > 100
    for ref in set(references(told)):
        at = told
        for part in ref.removeprefix("#/").split("/"):
            at = at[part]
        assert at


def test_every_operation_is_in_it_with_its_scope_and_its_refusals() -> None:
    told = document()
    for operation in OPERATIONS:
        found = told["paths"][operation.path][operation.method.lower()]
        assert found["operationId"] == operation.name and str(operation.status) in found["responses"]
        assert {"400", "405"} <= set(found["responses"])
        named = {parameter["name"] for parameter in found["parameters"]}
        assert set(re.findall(r"{(\w+)}", operation.path)) <= named
        assert ("Idempotency-Key" in named) is (operation.method == "POST")
        if operation.scope:
            assert found["security"] == [{"token": [operation.scope]}] and operation.scope in SCOPES
        else:
            assert "security" not in found


def test_it_is_served_to_everybody_and_what_is_not_in_it_is_not_there(tmp_path: Path) -> None:
    async def story(here: Visit) -> None:
        served = await here.http.get("/v1/openapi.json")
        assert served.status == 200 and await served.json() == json.loads(json.dumps(document()))
        strange = await here.http.get("/v1/secrets", headers={"X-Request-Id": "mine-1"})
        problem = await strange.json(content_type=None)
        assert strange.status == 404 and strange.content_type == "application/problem+json"
        assert problem["code"] == "no-such-path" and problem["request"] == "mine-1"
        assert strange.headers["X-Request-Id"] == "mine-1"
        wrong = await here.http.put("/v1/calls")
        assert wrong.status == 405 and wrong.headers["Allow"] == "GET, POST"
        forged = await here.http.get("/v1/calls", headers={"X-Request-Id": "a b"})
        assert re.fullmatch("[0-9a-f]{16}", forged.headers["X-Request-Id"])
        assert forged.status == 503 and (await forged.json(content_type=None))["code"] == "no-state"

    async def told() -> None:
        async with visit(tmp_path) as here:
            await story(here)

    asyncio.run(told())
