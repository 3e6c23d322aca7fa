"""Examples for the documentation: what an operation is given; and what it answers, made from the type of the answer."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from aiotaskq.operations.table import MANY, Operation


class Values(msgspec.Struct):
    """What ``examples.json`` holds."""

    given: dict[str, dict[str, Any]]
    """Parameters beside the thing, by the name of an operation that changes something."""
    fields: dict[str, Any]
    """Values of fields, by their names."""
    answers: dict[str, dict[str, Any]]
    """Values of fields of one answer, or of what is made from it, where those differ from the common ones."""
    after: dict[str, dict[str, Any]]
    """Values of fields of the answer to one operation, where those differ."""


@functools.cache
def _values() -> Values:
    return msgspec.json.decode(Path(__file__).with_name("examples.json").read_bytes(), type=Values)


def given(operation: Operation) -> dict[str, Any] | None:
    """Return an example of the parameters beside the thing; None where there need not be any."""
    found = _values().given.get(operation.name)
    return (found or {}) | {"dry_run": True} if operation.name.endswith(MANY) else found


def answer(operation: Operation) -> Any:
    """Return an example of the answer as JSON."""
    found = _example("", inspect.type_info(operation.answer)) | _values().after.get(operation.name, {})
    if operation.name.endswith(MANY):
        found["dry_run"] = True
    return msgspec.to_builtins(msgspec.convert(found, operation.answer))


def _example(name: str, kind: inspect.Type) -> Any:
    """Return an example of a field, as short as its type allows where none is written down for its name."""
    match kind:
        case inspect.Metadata():
            return _example(name, kind.type)
        case inspect.StructType():
            own: dict[str, Any] = {}
            for each in reversed(kind.cls.__mro__):
                own |= _values().answers.get(each.__name__, {})
            known = {*own, *_values().fields}
            fields = [each for each in kind.fields if each.required or each.name in known]
            return {
                each.name: own[each.name] if each.name in own else _example(each.name, each.type) for each in fields
            }
        case inspect.ListType(item_type=inspect.StructType()):
            return [_example(name, kind.item_type)]
    if name in _values().fields:
        return _values().fields[name]
    match kind:
        case inspect.UnionType():
            return None if kind.includes_none else _example(name, kind.types[0])
        case inspect.EnumType():
            return next(iter(kind.cls)).value
        case inspect.LiteralType():
            return kind.values[0]
        case inspect.StrType() | inspect.AnyType():
            return name
    return {inspect.ListType: [], inspect.DictType: {}, inspect.BoolType: False}.get(type(kind), 0)
