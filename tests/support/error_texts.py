"""The texts of the errors that the library raises, read from its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from aiotaskq import errors
from aiotaskq.errors import AiotaskqError
from tests.support.programs import ROOT

LIBRARY_ROOMS = [
    path
    for path in sorted((ROOT / "aiotaskq").rglob("*.py"))
    if path.relative_to(ROOT / "aiotaskq").parts[0] not in ("cli", "examples", "testing")
]
RAISED = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, AiotaskqError)}
RAISED |= {"IllegalTransition", "Refused"}


def literal(node: ast.expr) -> list[str] | None:
    """The text between the values of a string or an f-string; None for another expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if not isinstance(node, ast.JoinedStr):
        return None
    pieces = [""]
    for part in node.values:
        if isinstance(part, ast.Constant):
            pieces[-1] += str(part.value)
        else:
            pieces.append("")
    return pieces


def raised() -> Iterator[tuple[str, str, list[str]]]:
    """Where the library makes an error, the name of its class, and the text between its values."""
    for path in LIBRARY_ROOMS:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RAISED):
                continue
            if node.args and path.parts[-2:] != ("web", "problem.py"):
                pieces = literal(node.args[0])
                if pieces is not None and sum(map(str.isalpha, "".join(pieces))) > 3:
                    yield f"{path.name}:{node.lineno}", node.func.id, pieces
