"""What differs between SQL databases is in ``backends/sql/dialects``: no other module asks which one it talks to."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import aiotaskq
from aiotaskq.backends.sql.dialects import dialect_named
from aiotaskq.backends.sql.dialects.base import Dialect
from aiotaskq.backends.url import SQL

PACKAGE = Path(aiotaskq.__file__).parent
DIALECTS = PACKAGE / "backends" / "sql" / "dialects"
# The column types say how MySQL spells them; SQLAlchemy itself calls the function for its dialect.
TYPES = PACKAGE / "models.py"
NAMES = {*SQL, *SQL.values()}
ASKING = {"is_sqlite", "is_postgresql", "is_mysql", "is_mariadb"}
# A relative path in a URL is made absolute before SQLAlchemy is imported; the extras happen to have such names; the
# settings of Django's databases are translated.
OTHERS = {PACKAGE / name for name in ("app/settings.py", "core/errors.py", "integrations/django/borrowed.py")}


def checks(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and code of each place that asks for the name of a dialect, or compares something with one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (
            node.attr in ASKING or (node.attr == "name" and ast.unparse(node.value).endswith("dialect"))
        ):
            yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Compare):
            literals = {
                inner.value
                for side in (node.left, *node.comparators)
                for inner in ast.walk(side)
                if isinstance(inner, ast.Constant)
            }
            if literals & NAMES:
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Dict) and any(
            isinstance(key, ast.Constant) and key.value in NAMES for key in node.keys
        ):
            yield node.lineno, ast.unparse(node)


@pytest.mark.parametrize(
    "code",
    [
        "connection.dialect.name",
        "self.dialect.is_mariadb",
        "url.get_backend_name() == 'postgresql'",
        "name in ('mysql', 'mariadb')",
        "{'sqlite': 1}[name]",
    ],
)
def test_a_check_is_found(code: str) -> None:
    assert list(checks(ast.parse(code)))


def test_no_other_module_asks_which_database_it_is() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {code}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if DIALECTS not in path.parents and path not in {TYPES, PACKAGE / "backends" / "url.py", *OTHERS}
        for line, code in checks(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize("scheme", SQL)
def test_each_scheme_has_a_dialect(scheme: str) -> None:
    dialect = dialect_named(scheme)
    assert isinstance(dialect, Dialect) and dialect.name in SQL


def test_each_module_of_dialects_is_in_the_table() -> None:
    modules = {path.stem for path in DIALECTS.glob("*.py")} - {"__init__", "base"}
    assert modules == set(SQL.values())
