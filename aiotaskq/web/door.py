"""The endpoints of the operations in the table: method and path by the verb, schemas by the parameters."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from aiotaskq.operations import table
from aiotaskq.web.operation import ApiResponse, Call, Operation, Success, respond

METHODS = {"list": "GET", "get": "GET", "set": "PUT", "edit": "PATCH", "delete": "DELETE"}
"""Methods of verbs that are no part of the path; the others are POST, and ``add`` and ``push`` are no part, either."""
WITHOUT_PART = {*METHODS, "add", "push"}


def endpoints(operations: table.Operations) -> list[Operation]:
    """Return the endpoints of the operations on one kind of thing."""
    return [_endpoint(each) for each in operations.all.values()]


def _endpoint(operation: table.Operation) -> Operation:
    method = METHODS.get(operation.verb, "POST" if operation.changes else "GET")
    path = f"/{operation.noun}"
    if operation.thing is not None:
        path += f"/{{{operation.thing}}}"
    if operation.verb not in WITHOUT_PART:
        path += f"/{operation.verb}"
    given, answer = operation.example
    schema = _without_path(operation)

    async def run(call: Call) -> ApiResponse:
        values = {**call.path, **_options(call.query), **_options(call.body)}
        access = table.Access(call.tq, call.policy.show_args, call.targets)
        return respond(await table.perform(operation, access, table.read(operation, values), "api", await call.actor()))

    return Operation(
        name=operation.name,
        method=method,
        path=path,
        tag=f"aiotaskq {operation.noun}",
        summary=operation.summary.rstrip("."),
        description=operation.description,
        run=run,
        query=None if operation.changes else schema,
        body=schema if operation.changes else None,
        example=given,
        successes=(Success(200, operation.answer.__name__, operation.answer, answer),),
        tells=True,
    )


def _without_path(operation: table.Operation) -> type[msgspec.Struct] | None:
    """Return the parameters that are in the query or the body; None if there are none."""
    rest: list[Any] = []
    for each in msgspec.structs.fields(operation.params):
        if each.name == operation.thing:
            continue
        if each.required:
            rest.append((each.name, each.type))
        else:
            rest.append((each.name, each.type, each.default))
    if not rest:
        return None
    name = "".join(part.title() for part in operation.name.split("."))
    doc = {"__doc__": operation.params.__doc__}
    return msgspec.defstruct(name, rest, forbid_unknown_fields=True, namespace=doc)


def _options(given: Any) -> dict[str, Any]:
    values = {} if given is None else {name: getattr(given, name) for name in given.__struct_fields__}
    return {name: value for name, value in values.items() if value is not UNSET}
