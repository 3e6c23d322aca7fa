"""Binds the arguments of a call to the params of a task, by a function that is compiled once for each handler.

``inspect.Signature.bind`` interprets the signature at each call, which takes longer than all else that a push into
memory does. A function with the same parameters is bound by the interpreter, which also raises the TypeError.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from aiotaskq.core.parent import PARENT
from aiotaskq.runtime.handler import INJECTED, Handler

MISSING: Any = object()


def binder_of(handler: Handler) -> Callable[..., dict[str, Any]]:
    """Return the function that takes the arguments of the handler and returns the params that were given.

    It raises TypeError as the handler itself would. Parameters of resources, and ``parent``, are left out unless
    they are given.
    """
    taken, given, optional, others = [], [], [], None
    keyword_only = False
    injected = {*handler.injected, *([] if handler.parent is None else [PARENT])}
    for name, parameter in inspect.signature(handler.function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            others = name
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            taken.append("*")
        if parameter.default is parameter.empty and name not in injected:
            taken.append(name)
            given.append(name)
        else:
            taken.append(f"{name}={_MISSING}")
            optional.append(name)
    if others is not None:
        taken.append(f"**{others}")
    lines = [f"{_PARAMS} = {{{', '.join(f'{name!r}: {name}' for name in given)}}}"]
    for name in optional:
        absent = f"{name} is not {_MISSING}" + (f" and {name} is not {_INJECTED}" if name in injected else "")
        lines.append(f"if {absent}: {_PARAMS}[{name!r}] = {name}")
    if others is not None:
        lines.append(f"{_PARAMS}.update({others})")
    lines.append(f"return {_PARAMS}")
    source = f"def bind({', '.join(taken)}):\n" + "".join(f"    {line}\n" for line in lines)
    names: dict[str, Any] = {_MISSING: MISSING, _INJECTED: INJECTED}
    exec(compile(source, f"<params of {handler.name}>", "exec"), names)  # noqa: S102 - made of identifiers only
    bind: Callable[..., dict[str, Any]] = names["bind"]
    bind.__name__ = bind.__qualname__ = handler.name  # an error names it
    return bind


# Names that no parameter of a handler has.
_MISSING, _INJECTED, _PARAMS = "__aiotaskq_missing__", "__aiotaskq_injected__", "__aiotaskq_params__"
