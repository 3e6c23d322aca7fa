"""The small faults: in Python by its syntax tree, in Lua and SQL, which are texts, by their words."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.targets import Target

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = "aiotaskq"

COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.Add, ast.Pow: ast.Mult,
}  # fmt: skip
SWAPPED = {"min": "max", "max": "min", "any": "all", "all": "any", "first": "last"}
QUIET = re.compile(r"^(logger|log|warnings|self\.listeners|events?)\b|\.emit\(|^super\(\)")
"""Calls whose loss only a reader of logs, or a poll later, would notice."""


@dataclass(frozen=True)
class Fault:
    """A place in a file and what it is replaced with."""

    file: str
    line: int
    what: str
    start: int
    end: int
    new: str


def _offsets(source: str) -> Callable[[ast.AST], tuple[int, int]]:
    lines = [0]
    for line in source.encode().splitlines(keepends=True):
        lines.append(lines[-1] + len(line))

    def of(node: ast.AST) -> tuple[int, int]:
        begin, end = lines[node.lineno - 1] + node.col_offset, lines[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        return begin, end

    return of


def python_faults(file: str, source: str) -> Iterator[Fault]:
    """Yield every fault that the operators can put into a file of Python, except into annotations and texts."""
    tree, of = ast.parse(source), _offsets(source)
    for node in _worked(tree):
        for what, new in _changed(node):
            begin, end = of(node)
            text = ast.unparse(new)
            yield Fault(file, node.lineno, what, begin, end, f"({text})" if isinstance(new, ast.expr) else text)


def _worked(tree: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """Walk what runs: no annotations, no defaults of names in ``__all__``, no decorators, no type-checking blocks."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list", "type_params", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            ):
                continue
            if isinstance(child, ast.expr | ast.stmt):
                yield child
            if not isinstance(child, ast.JoinedStr | ast.Assert | ast.Raise):
                yield from _worked(child)


def _changed(node: ast.expr | ast.stmt) -> Iterator[tuple[str, ast.expr | ast.stmt]]:
    new = copy.deepcopy(node)
    match new:
        case ast.Compare(ops=[operator]) if type(operator) in COMPARED:
            new.ops = [COMPARED[type(operator)]()]
            yield "compared otherwise", new
        case ast.BoolOp():
            new.op = ast.Or() if isinstance(new.op, ast.And) else ast.And()
            yield "and / or", new
        case ast.UnaryOp(op=ast.Not()):
            yield "not left out", new.operand
        case ast.BinOp() if type(new.op) in COMPUTED and not isinstance(new.left, ast.Constant | ast.JoinedStr):
            new.op = COMPUTED[type(new.op)]()
            yield "computed otherwise", new
        case ast.Constant(value=bool()):
            yield "true / false", ast.Constant(not new.value)
        case ast.Constant(value=int()):
            yield "off by one", ast.Constant(new.value + 1)
        case ast.Call(func=ast.Name(id=name)) if name in SWAPPED:
            new.func = ast.Name(SWAPPED[name])
            yield "min / max", new
        case ast.IfExp():
            yield "the other value", ast.IfExp(ast.UnaryOp(ast.Not(), new.test), new.body, new.orelse)
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield "returned nothing", ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call() | ast.Await()) if not QUIET.search(ast.unparse(new)):
            yield "left out", ast.Pass()
        case ast.AugAssign() | ast.Delete() | ast.Continue() | ast.Break():
            yield "left out", ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "left out", ast.Pass()


# ---- faults in texts ------------------------------------------------------------------------------------------------

LUA_WORDS = [
    (r"==", "~="), (r"~=", "=="), (r"<=", "<"), (r">=", ">"), (r"(?<=\w) < (?=\w)", " <= "),
    (r"(?<=\w) > (?=\w)", " >= "),
    (r"\band\b", "or"), (r"\bor\b", "and"), (r"\bnot ", ""), (r"\btrue\b", "false"), (r"\bfalse\b", "true"),
    (r" \+ 1\b", " + 2"), (r"'-inf'", "'0'"), (r"'\+inf'", "'0'"),
]  # fmt: skip
STATEMENT = re.compile(r" *([a-z_.]+\(|[a-z_]+\[[^\]]+\] = |[a-z_]+ = )(?!.*\b(then|do|function)\b).*")
SQL = [
    (r"<=", "<"), (r">=", ">"), (r" < ", " <= "), (r" > ", " >= "), (r" = ", " <> "), (r"\bAND\b", "OR"),
    (r"\bOR\b", "AND"), (r"\bNOT ", ""), (r"\bASC\b", "DESC"), (r"\bNULL\b", "0"), (r" SKIP LOCKED", ""),
    (r" \+ 1\b", " + 2"),
]  # fmt: skip
IS_SQL = re.compile(r"\b(SELECT|UPDATE|INSERT|DELETE|WHERE|ORDER BY|AND|LIMIT|SET|FROM|WITH)\b")


def sql_faults(file: str, source: str) -> Iterator[Fault]:
    """Yield the faults in the SQL texts of a Python file: words turned round."""
    data, of, tree = source.encode(), _offsets(source), ast.parse(source)
    documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Constant) and isinstance(node.value, str)) or id(node) in documented:
            continue
        begin, end = of(node)
        for line in re.finditer(rb"[^\n]+", data[begin:end]):
            if IS_SQL.search(line[0].decode()):
                yield from _word_faults(file, data, begin + line.start(), line[0].decode(), SQL)


def lua_faults(file: str, source: str) -> Iterator[Fault]:
    """Yield the faults in a Lua file: words turned round, and a statement left out. Comments stay as they are."""
    data = source.encode()
    for line in re.finditer(rb"[^\n]+", data):
        code = line[0].decode().partition("--")[0]
        yield from _word_faults(file, data, line.start(), code, LUA_WORDS)
        if STATEMENT.fullmatch(code):
            begin, end = line.start(), line.start() + len(code.encode())
            yield Fault(file, 1 + data[:begin].count(b"\n"), f"nothing for {code.strip()}", begin, end, "")


def _word_faults(file: str, data: bytes, begin: int, code: str, words: Sequence[tuple[str, str]]) -> Iterator[Fault]:
    for pattern, new in words:
        for each in re.finditer(pattern, code):
            at = begin + len(code[: each.start()].encode())
            what = f"{new.strip() or 'nothing'} for {each[0].strip()}"
            yield Fault(file, 1 + data[:at].count(b"\n"), what, at, at + len(each[0].encode()), new)


# ---- trying them ----------------------------------------------------------------------------------------------------


def faults_of(target: Target, root: Path = ROOT) -> list[Fault]:
    """Return the faults of a target, in the order of the file."""
    source = (root / PACKAGE / target.file).read_text(encoding="utf-8")
    faults = lua_faults if target.file.endswith(".lua") else sql_faults if target.text else python_faults
    return list(dict.fromkeys(faults(target.file, source)))
