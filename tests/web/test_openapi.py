"""The OpenAPI document, and the settings of the routes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from fastapi import FastAPI

from aiotaskq import TaskQ, ValidationError
from aiotaskq.integrations import aiohttp as aiohttp_door
from aiotaskq.integrations import fastapi as fastapi_door
from aiotaskq.integrations import starlette as starlette_door
from aiotaskq.web.endpoints import OPERATIONS
from aiotaskq.web.openapi import document, schema_of
from aiotaskq.web.problem_details import Problem
from tests.web.applications import DOORS, in_aiohttp, refused


def test_every_example_is_what_its_schema_says() -> None:
    for operation in OPERATIONS:
        assert operation.summary and operation.tag and operation.successes, operation.name
        if operation.body is not None:
            assert operation.example, operation.name
            msgspec.convert(operation.example, operation.body)
        for success in operation.successes:
            if success.type is not None:
                made = msgspec.convert(success.example, success.type)
                assert msgspec.to_builtins(made) == success.example, operation.name
    assert "$ref" not in json.dumps(document(OPERATIONS, "1"))
    assert schema_of(Problem)["type"] == "object"


def bare(value: Any) -> Any:
    """Without what is null: FastAPI leaves that out, also in examples."""
    if isinstance(value, dict):
        return {key: bare(each) for key, each in value.items() if each is not None}
    return [bare(each) for each in value] if isinstance(value, list) else value


async def test_the_documents_are_the_same(tq: TaskQ) -> None:
    app = FastAPI()
    app.include_router(fastapi_door.router(tq), prefix="/ops")
    app.include_router(fastapi_door.router(tq, operations=["healthz"]))
    theirs, ours = app.openapi(), document(OPERATIONS, "1")
    assert set(theirs["paths"]) == {f"/ops{path}" for path in ours["paths"]} | {"/healthz"}
    for path, methods in ours["paths"].items():
        assert set(theirs["paths"][f"/ops{path}"]) == set(methods)
        for method, entry in methods.items():
            other = theirs["paths"][f"/ops{path}"][method]
            for part in ("summary", "tags", "parameters", "requestBody", "responses"):
                assert bare(other.get(part)) == bare(entry.get(part)), (path, method, part)
    async with in_aiohttp(tq) as ask:
        served = (await ask.get("openapi.json")).json()
        refused(await ask.get("nothing"), 404, "HTTPException")
        refused(await ask.delete("stats"), 405, "HTTPException")
    assert served["paths"] == json.loads(json.dumps(ours["paths"]))


@pytest.mark.parametrize("name", DOORS)
def test_wrong_settings_are_refused(name: str) -> None:
    tq = TaskQ("memory://")
    make = {
        "starlette": starlette_door.routes,
        "fastapi": fastapi_door.router,
        "aiohttp": aiohttp_door.operations,
    }[name]
    for options, says in [
        ({"operations": ["push"]}, "operations: a list of"),
        ({"operations": "healthz"}, "operations: a list of"),
        ({"origins": "https://x"}, "origins: a list"),
        ({"max_body": 0}, "max_body"),
    ]:
        with pytest.raises(ValidationError, match=says):
            make(tq, **options)
