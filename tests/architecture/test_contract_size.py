"""How much a store has to write: the methods and flags of the contract in ``aiotaskq/backends``, counted.

A number here may fall. Where it has to rise, the new method cannot stand on those that there are: say why.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

from aiotaskq import backends
from aiotaskq.backends.base import Backend
from aiotaskq.backends.flow import transaction
from aiotaskq.backends.flow.transaction import Store

ROOT = Path(__file__).parents[2]
VERBS = 47
"""What stores are asked for outside of transactions."""
ROWS = 23
"""What they are asked for inside of one."""
FLAGS = {"durable", "shared", "suspends"}
SMALL = 675
"""Lines of a store that has all of it, and no speed; without its imports."""
OTHERS = ("aiotaskq.backends.memory", "aiotaskq.backends.sql", "aiotaskq.backends.redis")


def abstract(module: object) -> list[str]:
    """The abstract methods that a module declares."""
    name = getattr(module, "__name__", "")
    kinds = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == name]
    return [
        f"{kind.__name__}.{method}"
        for kind in kinds
        for method, value in vars(kind).items()
        if getattr(value, "__isabstractmethod__", False)
    ]


def test_a_store_has_so_many_methods_to_write() -> None:
    names = [each.name for each in pkgutil.iter_modules(backends.__path__) if not each.ispkg]
    found = [method for name in names for method in abstract(importlib.import_module(f"aiotaskq.backends.{name}"))]
    assert "Backend.push" in found and len(found) <= VERBS, found
    assert len(abstract(transaction)) <= ROWS, abstract(transaction)
    verbs = [name for name in vars(Store) if not name.startswith("_")]
    assert "transact" in verbs and len(verbs) <= 5, verbs


def test_a_store_has_so_many_flags() -> None:
    kinds = ("bool", "ClassVar[bool]", "ClassVar[str]")
    declared = {name for name, kind in Backend.__annotations__.items() if kind.startswith(kinds)}
    plain = {name for name, value in vars(Backend).items() if isinstance(value, bool)}
    assert declared | plain == FLAGS


def test_the_small_store_stands_on_the_contract_alone() -> None:
    files = (ROOT / "tests/support/small_store").glob("*.py")
    nodes = [node for file in files for node in ast.parse(file.read_text()).body]
    modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    assert "aiotaskq.backends.base" in modules
    assert not [name for name in modules if name.startswith(OTHERS)]
    code = [node for node in nodes if not isinstance(node, ast.Import | ast.ImportFrom)]
    assert sum((node.end_lineno or 0) - node.lineno + 1 for node in code) <= SMALL
