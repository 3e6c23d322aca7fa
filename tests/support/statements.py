"""Calls a function at each statement of a store, also at those that SQLite's driver is given without SQLAlchemy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal
from unittest import mock

from sqlalchemy import Engine, event

from aiotaskq.backends.sql import statements


@contextmanager
def at_each_statement(
    engine: Engine, function: Callable[[str], object], when: Literal["before", "after"] = "before"
) -> Iterator[None]:
    """Call ``function`` with the text of each statement, on the thread that executes it."""

    def listen(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        function(statement)

    def in_driver(driver: Any, sql: str, parameters: Any) -> Any:
        if when == "before":
            function(sql)
        result = real(driver, sql, parameters)
        if when == "after":
            function(sql)
        return result

    real = statements.in_driver
    event.listen(engine, f"{when}_cursor_execute", listen)
    try:
        with mock.patch.object(statements, "in_driver", in_driver):
            yield
    finally:
        event.remove(engine, f"{when}_cursor_execute", listen)
