"""The OpenAPI document, and the settings of the routes."""

from __future__ import annotations

import json
import re
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
    assert schema_of(Problem)["type"] == "object"


def test_each_schema_is_there_once_under_a_name_of_ours() -> None:
    whole = document(OPERATIONS, "1", token=True)
    schemas = whole["components"]["schemas"]
    assert {"AiotaskqProblem", "AiotaskqTaskView", "AiotaskqTaskPage", "AiotaskqPushBody"} <= schemas.keys()
    text = json.dumps(whole)
    references = set(re.findall(r'"\$ref": "#/components/schemas/(\w+)"', text))
    assert references == schemas.keys(), "every one is used, and none is missing"
    assert text.count('"title": "Problem"') == 1 and text.count('"title": "TaskView"') == 1
    assert all(name.startswith("Aiotaskq") for name in schemas)
    for methods in whole["paths"].values():
        for entry in methods.values():
            assert entry["operationId"].startswith("aiotaskq_")
            assert all(tag.startswith("aiotaskq ") for tag in entry["tags"])
            assert all(name == "aiotaskq_token" for each in entry.get("security", []) for name in each)


def resolved(value: Any, schemas: dict[str, Any]) -> Any:
    """With each reference replaced by its schema."""
    if isinstance(value, list):
        return [resolved(each, schemas) for each in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        rest = {key: each for key, each in value.items() if key != "$ref"}
        return resolved({**schemas[value["$ref"].rpartition("/")[2]], **rest}, schemas)
    return {key: resolved(each, schemas) for key, each in value.items()}


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
                said = resolved(entry.get(part), ours["components"]["schemas"])
                assert bare(other.get(part)) == bare(said), (path, method, part)
            assert other["operationId"].startswith("aiotaskq_")
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
        ({"own_query": "key"}, "own_query: a list"),
    ]:
        with pytest.raises(ValidationError, match=says):
            make(tq, **options)
