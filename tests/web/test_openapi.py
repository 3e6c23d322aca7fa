"""The OpenAPI document, and the settings of the routes."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import httpx
import msgspec
import pytest
from fastapi import Depends, FastAPI, Header
from fastapi.routing import APIRoute

from aiotaskq import TaskQ
from aiotaskq.errors import ValidationError
from aiotaskq.integrations import aiohttp as aiohttp_door
from aiotaskq.integrations import fastapi as fastapi_door
from aiotaskq.integrations import starlette as starlette_door
from aiotaskq.web.endpoint import Endpoint
from aiotaskq.web.endpoints import ENDPOINTS
from aiotaskq.web.openapi import document, schema_of
from aiotaskq.web.problem_details import Problem
from tests.web.applications import DOORS, Ask, in_aiohttp, refused


def test_every_example_is_what_its_schema_says() -> None:
    for operation in ENDPOINTS:
        assert operation.run.__doc__ and operation.tag and operation.successes, operation.name
        assert operation.public or "." in operation.name, "a noun and a verb"
        if operation.body is not None:
            assert operation.example, operation.name
            msgspec.convert(operation.example, operation.body)
        for success in operation.successes:
            if success.type is not None:
                made = msgspec.convert(success.example, success.type)
                assert msgspec.to_builtins(made) == success.example, operation.name
    assert schema_of(Problem)["type"] == "object"


def test_a_client_may_rely_on_each_field_of_a_member() -> None:
    schema = document(ENDPOINTS, "1")["components"]["schemas"]["AiotaskqMemberView"]
    assert schema["required"] == list(schema["properties"])


def test_each_schema_is_there_once_under_a_name_of_ours() -> None:
    whole = document(ENDPOINTS, "1", token=True)
    schemas = whole["components"]["schemas"]
    assert {"AiotaskqProblem", "AiotaskqTaskView", "AiotaskqTaskPage", "AiotaskqTasksPush"} <= schemas.keys()
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


def statuses(names: list[str]) -> dict[str, set[int]]:
    return {each.name: set(each.problems) for each in ENDPOINTS if each.name in names}


def test_what_may_be_hidden_may_be_refused() -> None:
    found = statuses(["tasks.list", "tasks.get", "tasks.steps", "schedules.list", "schedules.get", "values.get"])
    assert len(found) == 6 and all(403 in each for each in found.values())
    assert 403 not in statuses(["groups.get"])["groups.get"]


def test_a_name_that_several_schedules_have_is_a_conflict_for_each_operation() -> None:
    names = [f"schedules.{verb}" for verb in ("preview", "get", "update", "pause", "resume", "delete")]
    more = [f"schedules.{verb}" for verb in ("run_now", "history", "backfill", "list")]
    found = statuses([*names, *more])
    assert 409 not in found.pop("schedules.list")
    assert len(found) == 9 and all({409, 501} <= each for each in found.values())


def bare(value: Any) -> Any:
    """Without what is null: FastAPI leaves that out, also in examples."""
    if isinstance(value, dict):
        return {key: bare(each) for key, each in value.items() if each is not None}
    return [bare(each) for each in value] if isinstance(value, list) else value


def of_template(route: APIRoute) -> str:
    """What FastAPI's full-stack template gives as ``generate_unique_id_function``."""
    return f"{route.tags[0]}-{route.name}"


async def test_the_documents_are_the_same(tq: TaskQ) -> None:
    app = FastAPI(generate_unique_id_function=of_template)
    app.include_router(fastapi_door.router(tq), prefix="/ops")
    app.include_router(fastapi_door.router(tq, operations=["healthz"]))
    theirs, ours = app.openapi(), document(ENDPOINTS, "1")
    assert set(theirs["paths"]) == {f"/ops{path}" for path in ours["paths"]} | {"/healthz"}
    for path, methods in ours["paths"].items():
        assert set(theirs["paths"][f"/ops{path}"]) == set(methods)
        for method, entry in methods.items():
            other = theirs["paths"][f"/ops{path}"][method]
            for part in ("summary", "tags", "parameters", "requestBody", "responses"):
                assert bare(other.get(part)) == bare(entry.get(part)), (path, method, part)
    assert bare(theirs["components"]["schemas"]) == bare(ours["components"]["schemas"])
    ids = [entry["operationId"] for methods in theirs["paths"].values() for entry in methods.values()]
    assert all(re.fullmatch(r"aiotaskq_\w+", each) for each in ids) and len(set(ids)) == len(ids)
    async with in_aiohttp(tq) as ask:
        served = (await ask.get("openapi.json")).json()
        refused(await ask.get("nothing"), 404, "HTTPException")
        refused(await ask.delete("queues"), 405, "HTTPException")
    assert served["paths"] == json.loads(json.dumps(ours["paths"]))


@pytest.mark.parametrize("operation", ENDPOINTS, ids=lambda operation: operation.name)
def test_the_document_of_one_operation_is_complete(operation: Endpoint) -> None:
    app = FastAPI()
    app.include_router(fastapi_door.router(TaskQ("memory://"), operations=[operation.name]))
    whole = app.openapi()
    (entry,) = next(iter(whole["paths"].values())).values()
    assert entry["responses"].keys() == {str(each.status) for each in operation.successes} | {
        str(status) for status in operation.problems
    }
    references = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(whole)))
    assert references == whole["components"]["schemas"].keys()


def test_parameters_of_a_dependency_change_no_response(tq: TaskQ) -> None:
    def admin(x_key: Annotated[str, Header()]) -> None: ...

    app = FastAPI()
    app.include_router(fastapi_door.router(tq, dependencies=[Depends(admin)]))
    whole, ours = app.openapi(), document(ENDPOINTS, "1")["paths"]["/tasks"]["get"]
    found = whole["paths"]["/tasks"]["get"]
    assert found["responses"].keys() == ours["responses"].keys()
    assert found["responses"]["422"] == ours["responses"]["422"]
    assert "x-key" in {each["name"] for each in found["parameters"]}


async def test_the_rule_of_an_application_for_ids_of_operations_meets_none_of_our_routes(tq: TaskQ) -> None:
    app = FastAPI(generate_unique_id_function=of_template)
    app.include_router(fastapi_door.dashboard(tq, dependencies=[Depends(lambda: None)]), prefix="/tasks")
    app.include_router(fastapi_door.router(tq), prefix="/ops")
    app.get("/", tags=["items"])(lambda: "here")
    async with Ask(transport=httpx.ASGITransport(app), base_url="http://test") as ask:
        for path in ("/", "/tasks/", "/ops/stats", "/openapi.json"):
            assert (await ask.get(path)).status_code == 200, path


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
