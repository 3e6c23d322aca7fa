"""Typed params and results: what an annotation accepts, and its values as JSON and back.

An annotation is looked at once, when its handler is registered. Plain JSON types need no conversion. Most other types
are converted by msgspec: dataclasses, Structs, TypedDict, NamedTuple, times, UUID, Decimal, Enum, bytes, sets, tuples
and paths (https://jcristharif.com/msgspec/supported-types.html). Pydantic converts its models, what is ``Annotated``
for it, and unions that msgspec refuses; it is imported only then.
"""

from __future__ import annotations

import collections.abc
import contextlib
import functools
import re
import sys
import traceback
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import msgspec
from msgspec import inspect as shape

from aiotaskq.core.errors import INT64, MAX_DEPTH, ValidationError, check_json, missing, shown

_PLAIN = (shape.AnyType, shape.NoneType, shape.BoolType)
_UNCHECKED = (shape.AnyType, shape.NoneType, shape.CustomType)
_HAVE_FIELDS = ("__dataclass_fields__", "__struct_fields__", "__total__", "_fields")
_MISFITS = (msgspec.ValidationError, TypeError, ValueError, RecursionError)
_SHOWN = 3  # how many errors of one value a message names


class Unsupported(Exception):
    """A type whose values cannot be written as JSON and read back; the text says which, and why."""


class Conversion(ABC):
    """The values of one annotation as JSON, and back."""

    @abstractmethod
    def store(self, path: str, value: Any) -> Any:
        """Return the JSON form of a value, which may be given in that form already.

        Raises ValidationError, with the path to the part that does not fit the annotation.
        """

    @abstractmethod
    def load(self, path: str, stored: Any) -> Any:
        """Return the value of a JSON form. Raises ValidationError as ``store``."""


def conversion_of(annotation: Any) -> Conversion | None:
    """Return the conversion for an annotation, a PlainCheck for a plain JSON type; None where nothing is checked.

    That is so for ``Any``, type variables, an Iterable of plain types, and None: the value is not used. Raises
    Unsupported, and MissingExtra where pydantic is needed and is not installed.
    """
    iterable = typing.get_origin(annotation) is collections.abc.Iterable
    if iterable:  # its values are stored as lists
        annotation = list[typing.get_args(annotation)]  # type: ignore[misc]
    if _is_for_pydantic(annotation):
        return _Pydantic(annotation)
    try:
        found = shape.type_info(annotation)
        if _is_plain(found):
            return None if iterable or isinstance(found, _UNCHECKED) else PlainCheck(annotation)
        strange = next(_strange(found, set()), None)
        made = _Msgspec(annotation)
    except (TypeError, NameError) as error:  # a union that msgspec cannot tell apart, or a name that does not exist
        return _by_pydantic(annotation, str(error))
    return made if strange is None else _by_pydantic(annotation, f"{strange.__qualname__} has no JSON form")


def check_of_all(annotations: Mapping[str, Any]) -> PlainCheck | None:
    """Return what checks a dict in one call by the annotations of its keys, which are plain JSON types."""
    return PlainCheck(struct_of(annotations)) if annotations else None


def struct_of(
    annotations: Mapping[str, Any], required: Collection[str] = (), *, closed: bool = False
) -> type[msgspec.Struct]:
    """Return what msgspec converts a dict to that has the ``required`` of these keys; ``closed``: and no others."""
    names = {f"f{place}": name for place, name in enumerate(annotations)}
    fields = [(each, annotations[name], *(() if name in required else (None,))) for each, name in names.items()]
    # Under other names: a parameter may be called as a method of Structs is.
    return msgspec.defstruct("Params", fields, rename=names, kw_only=True, gc=False, forbid_unknown_fields=closed)


def resolved(annotation: Any, names: Mapping[str, Any], local: Mapping[str, Any]) -> Any:
    """Return an annotation with the names in it looked up in the globals of its module, else in ``local``.

    Raises NameError, or whatever the evaluation of its text raises.
    """
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    return typing.get_type_hints(holder, {**local, **names}, include_extras=True)["it"]


def encodable(value: Any) -> Any:
    """Return the JSON form of a path or a pydantic model, for msgspec, which knows neither. Raises TypeError."""
    if isinstance(value, PurePath):
        return str(value)
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json", by_alias=True, round_trip=True)
    raise TypeError(f"{type(value).__qualname__} has no JSON form")


# ---- by msgspec -----------------------------------------------------------------------------------------------------


class _Msgspec(Conversion):
    def __init__(self, annotation: Any) -> None:
        self._annotation = annotation
        self._decode = msgspec.json.Decoder(annotation, dec_hook=_decodable).decode

    def store(self, path: str, value: Any) -> Any:
        try:
            data = msgspec.json.encode(value, enc_hook=encodable)
            self._decode(data)
        except _MISFITS as error:
            raise _misfit(path, error) from None
        return msgspec.json.decode(data)

    def load(self, path: str, stored: Any) -> Any:
        try:
            return msgspec.convert(stored, self._annotation, dec_hook=_decodable, str_keys=True)
        except _MISFITS as error:
            raise _misfit(path, error) from None


class PlainCheck(Conversion):
    """Checks what is stored, and converts nothing. A bool is an int, as in Python."""

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation

    def store(self, path: str, value: Any) -> Any:
        return value

    def load(self, path: str, stored: Any) -> Any:
        try:
            msgspec.convert(stored, self.annotation)
        except msgspec.ValidationError as error:
            try:
                msgspec.convert(_without_bools(stored), self.annotation)
            except msgspec.ValidationError:
                raise _misfit(path, error) from None
        return stored


def _without_bools(value: Any) -> Any:
    match value:
        case bool():
            return int(value)
        case list():
            return [_without_bools(each) for each in value]
        case dict():
            return {key: _without_bools(each) for key, each in value.items()}
    return value


def _decodable(kind: type, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, PurePath):
        return kind(value)
    if kind is object:
        return value
    raise TypeError(f"{kind!r} has no JSON form")


def _misfit(path: str, error: Exception) -> ValidationError:
    """Return the error with the whole path: msgspec ends its message with `` - at `$.items[2]```."""
    text, _, place = str(error).partition(" - at ")
    where = re.sub(r"`key` in (.*)", r"\1 (a key)", place).replace("`", "")
    return ValidationError(f"{path}{where.removeprefix('$')}: {text}")


def _is_plain(found: shape.Type) -> bool:
    """Whether every value of a type is what JSON gives back, so that nothing is converted or checked."""
    match found:
        case shape.IntType() | shape.FloatType() | shape.StrType():
            return all(getattr(found, name) is None for name in found.__struct_fields__)
        case shape.ListType(item_type=item):
            return found.min_length is None and found.max_length is None and _is_plain(item)
        case shape.DictType(key_type=shape.StrType() | shape.AnyType() as key, value_type=value):
            return found.min_length is None and found.max_length is None and _is_plain(key) and _is_plain(value)
        case shape.UnionType(types=members):
            return all(map(_is_plain, members))
        case shape.CustomType(cls=kind):
            return kind is object
    return isinstance(found, _PLAIN)


def _strange(found: Any, seen: set[int]) -> Iterator[Any]:
    """Yield the classes in a type that msgspec knows only by name."""
    if id(found) in seen:
        return
    seen.add(id(found))
    if isinstance(found, shape.CustomType):
        if found.cls is not object and not issubclass(found.cls, PurePath):
            yield found.cls
    elif isinstance(found, shape.Type | shape.Field):
        for name in found.__struct_fields__:
            yield from _strange(getattr(found, name), seen)
    elif isinstance(found, tuple):
        for each in found:
            yield from _strange(each, seen)


# ---- by pydantic ----------------------------------------------------------------------------------------------------


class _Pydantic(Conversion):
    def __init__(self, annotation: Any) -> None:
        try:
            import pydantic
        except ImportError:
            raise missing("pydantic", "pydantic") from None
        try:
            self._adapter: Any = pydantic.TypeAdapter(annotation)
        except Exception as error:  # a class of its own for each kind of schema that cannot be made
            raise Unsupported(str(error).partition("\n")[0]) from None

    def store(self, path: str, value: Any) -> Any:
        try:
            known = self._adapter.validate_python(value)
        except Exception as error:
            known = self._from_json(path, value, error)
        try:
            data = self._dumped(known)
            again = self._adapter.validate_json(data)
            same = type(again) is type(known) and (again == known or self._dumped(again) == data)
        except Exception as error:
            raise _refused(path, error) from None
        if not same:
            raise ValidationError(
                f"{path}: its JSON form would be read back as {type(again).__qualname__}, not as "
                f"{type(known).__qualname__}; use a type whose members differ in JSON"
            )
        return msgspec.json.decode(data)

    def _dumped(self, value: Any) -> bytes:
        return self._adapter.dump_json(value, by_alias=True, round_trip=True, warnings=False)  # type: ignore[no-any-return]

    def _from_json(self, path: str, value: Any, error: Exception) -> Any:
        """Return the value of what may be a JSON form: strict models read a date from JSON text, and from no other."""
        try:
            return self._adapter.validate_json(msgspec.json.encode(value))
        except Exception:
            raise _refused(path, error) from None

    def load(self, path: str, stored: Any) -> Any:
        try:
            return self._adapter.validate_json(msgspec.json.encode(stored))
        except Exception as error:
            raise _refused(path, error) from None


def _by_pydantic(annotation: Any, why: str) -> Conversion:
    try:
        return _Pydantic(annotation)
    except Unsupported:
        raise Unsupported(why) from None


def _refused(path: str, error: Exception) -> ValidationError:
    """Return the error of a validator, which may be any exception; those of pydantic have a list of places."""
    places: Callable[..., list[dict[str, Any]]] | None = getattr(error, "errors", None)
    if not callable(places):
        return ValidationError(f"{path}: {error}")
    found = places(include_url=False, include_context=False, include_input=False)
    texts = [
        f"{path}{''.join(f'[{step}]' if isinstance(step, int) else f'.{step}' for step in each['loc'])}: {each['msg']}"
        for each in found[:_SHOWN]
    ]
    return ValidationError("; ".join(texts) + (f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""))


def _is_for_pydantic(annotation: Any) -> bool:
    """Whether there is something in an annotation that only pydantic understands."""
    return any(
        hasattr(each, "__pydantic_core_schema__")
        or hasattr(each, "__get_pydantic_core_schema__")
        or type(each).__module__.partition(".")[0] in ("pydantic", "annotated_types")
        for each in _parts(annotation, set())
    )


def _parts(annotation: Any, seen: set[int]) -> Iterator[Any]:
    """Yield an annotation, its arguments and metadata, and those of the fields of its classes."""
    if id(annotation) in seen:
        return
    seen.add(id(annotation))
    yield annotation
    for each in typing.get_args(annotation):
        yield from _parts(each, seen)
    if hasattr(annotation, "__pydantic_core_schema__"):
        return
    if isinstance(annotation, type) and any(map(functools.partial(hasattr, annotation), _HAVE_FIELDS)):
        try:
            hints = typing.get_type_hints(annotation, include_extras=True)
        except Exception:  # reported when the conversion is made
            hints = {}
        for each in hints.values():
            yield from _parts(each, seen)


# ---- what a handler returns or raises, as values that every store can hold ------------------------------------------

MAX_RESULT = 64 * 1024 * 1024  # bytes of JSON


def describe(error: BaseException) -> str:
    """Return the error as text: ``Type: message`` in the first line, then the traceback."""
    try:
        message = str(error)
    except Exception as broken:  # the exception's own __str__ may raise
        message = f"<{type(broken).__name__} in __str__>"
    head = f"{type(error).__name__}: {message}" if message else type(error).__name__
    frames = traceback.format_tb(error.__traceback__, limit=-20)
    return head + ("\n\nTraceback (most recent call last):\n" + "".join(frames) if frames else "")


def storable(result: Any, conversion: Conversion | None = None) -> Any:
    """Return a handler's result as JSON values: tuples become lists, dataclasses, structs and models dicts, dates text.

    ``conversion`` is that of the return annotation. A result that does not fit it is stored as what it is, since the
    work is done.

    Raises ValidationError with the path to a part that cannot be stored. NUL and lone surrogates are escaped, not
    refused, since the work is done.
    """
    kind = type(result)
    if result is None or kind is bool or (kind is int and abs(result) <= INT64):
        return result
    if conversion is not None:
        with contextlib.suppress(ValidationError):
            result = conversion.store("result", result)
    plain = _stored("result", result)
    check_json("result", plain, limit=MAX_RESULT)
    return plain


def _stored(path: str, value: Any, depth: int = 0) -> Any:
    """Return JSON values of a value. What is nested too deeply stays as it is: ``check_json`` refuses it."""
    if value is None or type(value) in (bool, int, float) or depth > MAX_DEPTH:
        return value
    if isinstance(value, str):
        return value.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list | tuple):
        return [_stored(f"{path}[{number}]", item, depth + 1) for number, item in enumerate(value)]
    if not isinstance(value, dict):
        plain = _plain(path, value)
        return _stored(path, plain, depth) if isinstance(plain, str | list | dict) else plain
    found: dict[str, Any] = {}
    for key, item in value.items():
        (text,) = [key] if type(key) is str else _plain(path, {key: None})
        text = _stored(path, text)
        if text in found:
            raise ValidationError(f"{path}: two of its keys are the same text in JSON")
        place = f"{path}.{key}" if isinstance(key, str) else f"{path}[{shown(key)}]"
        found[text] = _stored(place, item, depth + 1)
    return found


def _plain(path: str, value: Any) -> Any:
    try:
        return msgspec.to_builtins(
            value, builtin_types=(bytes, bytearray, memoryview), str_keys=True, enc_hook=encodable
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise ValidationError(f"{path}: {error}") from None


MAX_TYPE = 100
"""Characters of a type that are shown."""


def error_type(error: str | None) -> str | None:
    """Return the type of an error text: what stands before its first colon or line break."""
    return None if error is None else error.partition(":")[0].partition("\n")[0][:MAX_TYPE]


def check_error_type(name: str, text: object) -> str:
    """Return the beginning of a type: an error text that begins so has a type that begins so.

    ``name`` begins the message. Raises ValidationError.
    """
    if not isinstance(text, str) or not 0 < len(text) <= MAX_TYPE or any(mark in text for mark in ":\n\0"):
        raise ValidationError(
            f"{name}: the beginning of an error's type is needed, such as ValueError: 1 to {MAX_TYPE} characters "
            "without a colon and a line break"
        )
    return text
