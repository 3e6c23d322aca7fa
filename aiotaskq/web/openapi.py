"""The OpenAPI document of the endpoints, and the parts of it that a framework puts into its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec

from aiotaskq.web.endpoint import JSON, Endpoint
from aiotaskq.web.problem_details import MEDIA_TYPE, Problem, make_problem

_NO_CONTROL = "^[^\\u0000-\\u001f\\u007f]+$"
_WORDS = {
    400: ("NotJson", "body: JSON is malformed"),
    401: ("NoToken", "a token is needed"),
    403: ("ReadOnly", "this API is read-only; nothing can be changed here"),
    404: ("NotFound", "there is no task 019ab0a4"),
    408: ("BodyTooSlow", "body: did not arrive within 10 s"),
    409: ("TaskConflict", "task 019ab0a4 has ended already: completed"),
    413: ("BodyTooLarge", "body: more than 524,288 bytes"),
    415: ("UnsupportedMediaType", "content-type: application/json is needed (got 'text/plain')"),
    422: ("ValidationError", "limit: Expected `int` >= 1"),
    429: ("TooManyGuesses", "too many wrong tokens; wait"),
    501: ("NotSupported", "this store cannot do that"),
    503: ("DatabaseUnavailable", "the store does not answer; try again later"),
    504: ("ResultTimeout", "worker w1 has not answered within 10 s"),
}


Describe = Callable[[Any], dict[str, Any]]
"""Returns a reference to the schema of a type, or the schema of one that has no name."""


def entry_of(endpoint: Endpoint, describe: Describe, also: Collection[int] = ()) -> dict[str, Any]:
    """Return an endpoint as OpenAPI has it, without id and tags; ``also`` are statuses of middleware in front of it."""
    summary, _, more = (endpoint.run.__doc__ or "").partition("\n")
    entry: dict[str, Any] = {"summary": summary.rstrip(".")}
    if description := " ".join(more.split()):
        entry["description"] = description
    thing = schema_of(endpoint.thing) | {"pattern": _NO_CONTROL}
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": thing}
        for name in re.findall(r"{(\w+)}", endpoint.path)
    ]
    if endpoint.query is not None:
        schema = schema_of(endpoint.query)
        required = schema.get("required", ())
        for name, each in schema["properties"].items():
            found.append({"name": name, "in": "query", "required": name in required, "schema": _not_null(each)})
    if found:
        entry["parameters"] = found
    if endpoint.body is not None:
        content = {JSON: {"schema": describe(endpoint.body), "example": endpoint.example}}
        entry["requestBody"] = {"required": True, "content": content}
    responses: dict[str, dict[str, Any]] = {}
    for success in endpoint.successes:
        made = responses[str(success.status)] = {"description": success.description}
        if success.type is not None:
            made["content"] = {success.media_type: {"schema": describe(success.type), "example": success.example}}
        if "Location" in success.description:
            made["headers"] = {"Location": {"schema": {"type": "string", "format": "uri-reference"}}}
    for status in sorted({*endpoint.problems, *also} - {each.status for each in endpoint.successes}):
        example = make_problem(status, *_WORDS[status])
        content = {MEDIA_TYPE: {"schema": describe(Problem), "example": msgspec.to_builtins(example)}}
        responses[str(status)] = {"description": example.title, "content": content}
    return entry | {"responses": responses}


def document(endpoints: Sequence[Endpoint], version: str, *, token: bool = False) -> dict[str, Any]:
    """Return a whole OpenAPI 3.1 document; its paths are relative to its own address.

    Its names begin with ``aiotaskq``, so that a host application can merge it into its own.
    """
    schemas, describe = named_schemas(endpoints)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        guarded = token and not endpoint.public
        entry: dict[str, Any] = {"operationId": f"aiotaskq_{endpoint.name}", "tags": [endpoint.tag]}
        entry |= entry_of(endpoint, describe, (401, 429) if guarded else ())
        if guarded:
            entry["security"] = [{"aiotaskq_token": []}]
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = entry
    components: dict[str, Any] = {"schemas": schemas}
    if token:
        components["securitySchemes"] = {"aiotaskq_token": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "aiotaskq operations", "version": version},
        "servers": [{"url": "."}],
        "paths": paths,
        "components": components,
    }


def named_schemas(endpoints: Sequence[Endpoint]) -> tuple[dict[str, Any], Describe]:
    """Return the schemas of all bodies and responses by name, and what refers to one of them."""
    kinds = list(dict.fromkeys(kind for endpoint in endpoints for kind in kinds_of(endpoint)))
    found, known = msgspec.json.schema_components(kinds, ref_template=f"{SCHEMAS}Aiotaskq{{name}}")
    references = dict(zip(kinds, found, strict=True))
    return {f"Aiotaskq{name}": schema for name, schema in known.items()}, references.__getitem__


def kinds_of(endpoint: Endpoint) -> list[Any]:
    """Return the types of the bodies of an endpoint's requests and responses."""
    kinds = [Problem if endpoint.problems else None, endpoint.body, *(each.type for each in endpoint.successes)]
    return [kind for kind in kinds if kind is not None]


SCHEMAS = "#/components/schemas/"


def schema_of(kind: Any) -> dict[str, Any]:
    """Return the JSON Schema of a type whose fields refer to no other: a query has no components."""
    schema = msgspec.json.schema(kind)
    named: dict[str, dict[str, Any]] = schema.pop("$defs", {})
    return named[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a query parameter, which is left out and never null."""
    if "anyOf" not in schema:
        return schema
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    kinds = [each for each in schema["anyOf"] if each != {"type": "null"}]
    return {**kinds[0], **rest} if len(kinds) == 1 else {"anyOf": kinds, **rest}
