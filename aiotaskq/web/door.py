"""The endpoints of the operations in the table: method and path by the verb, schemas by the parameters."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import msgspec

from aiotaskq.operations import examples, table
from aiotaskq.web.endpoint import Call, Endpoint, Response, Success, respond
from aiotaskq.web.policy import actor_of
from aiotaskq.web.problem_details import status_of

METHODS = {
    "list": "GET",
    "get": "GET",
    "set": "PUT",
    "add": "POST",
    "push": "POST",
    "edit": "PATCH",
    "update": "PATCH",
    "delete": "DELETE",
}
"""Methods of the verbs that are no part of the path; the others are, and are POST where they change something."""


def endpoints(operations: table.Operations) -> list[Endpoint]:
    """Return the endpoints of the operations on one kind of thing."""
    found = [_endpoint(each) for each in operations.all.values()]
    # The name of a thing may be any text: first the paths without one, at last those that end with one.
    return sorted(found, key=lambda endpoint: ("{" in endpoint.path, endpoint.path.endswith("}")))


def _endpoint(operation: table.Operation) -> Endpoint:
    method = METHODS.get(operation.verb, "POST" if operation.changes else "GET")
    path = f"/{operation.noun}"
    verb = "" if operation.verb in METHODS else f"/{operation.verb.removesuffix(table.MANY)}"
    if operation.thing is not None:
        path += f"/{{{operation.thing}}}{verb}"
    elif method == "GET":  # behind the noun it would hide the thing of that name
        path = f"{verb}{path}"
    else:
        path += verb
    schema = _without_path(operation)
    types = {each.name: each.type for each in msgspec.structs.fields(operation.params)}

    async def run(call: Call) -> Response:
        given = call.body if operation.changes else call.query
        sent = {} if given is None else msgspec.structs.asdict(given)
        values = {**call.request.path, **{name: value for name, value in sent.items() if value is not msgspec.UNSET}}
        access = table.Access(call.tq, call.policy.show_args)
        params = table.read(operation, values)
        actor = await actor_of(call.policy.actor, call.request.original) if operation.changes else ""
        found = await table.perform(operation, access, params, "api", actor)
        if not operation.adds:
            return respond(found)
        location = f"{operation.noun}/{quote(msgspec.structs.astuple(found)[0], safe='')}"
        return respond(found, 201 if getattr(found, "created", True) else 200, Location=location)

    return Endpoint(
        name=operation.name,
        method=method,
        path=path,
        tag=f"aiotaskq {operation.noun}",
        summary=operation.summary.rstrip("."),
        description=operation.description,
        run=run,
        thing=types.get(operation.thing or "", str),
        query=None if operation.changes else schema,
        body=schema if operation.changes else None,
        example=examples.given(operation),
        successes=_successes(operation, examples.answer(operation)),
        own_problems=tuple(status_of(each) for each in operation.raises),
    )


def _successes(operation: table.Operation, example: Any) -> tuple[Success, ...]:
    kind = operation.answer
    said = _first_sentence(kind)
    if not operation.adds:
        return (Success(200, said, kind, example),)
    made = Success(201, f"{said}; Location is its path", kind, example)
    if "created" not in kind.__struct_fields__:
        return (made,)
    return made, Success(200, "It existed already", kind, example | {"created": False})


def _without_path(operation: table.Operation) -> type[msgspec.Struct] | None:
    """Return the parameters that are in the query or the body; None if there are none."""
    rest = [each for each in msgspec.structs.fields(operation.params) if each.name != operation.thing]
    name = "".join(part.title() for part in re.split("[._]", operation.name))
    return table.struct_of(name, rest, operation.params.__doc__) if rest else None


def _first_sentence(kind: type[msgspec.Struct]) -> str:
    return (kind.__doc__ or "").partition(".")[0]
