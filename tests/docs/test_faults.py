"""The catalogue of faults: ``tests/faults.md`` explains every code that a comment cites, and no other."""

from __future__ import annotations

import io
import re
import tokenize

from tests.support.programs import ROOT

CODE = re.compile(r"(?<![\w*/.'\"-])(?:[A-F][1-9]\d?|G-\d\d?|[HIJ][1-9]\d?)(?![\w'\"-])")


def comments(source: str) -> str:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return "\n".join(token.string for token in tokens if token.type == tokenize.COMMENT)


def test_the_catalogue_explains_each_cited_fault_and_no_other() -> None:
    explained = re.findall(r"^- \*\*(\S+)\*\* \S", (ROOT / "tests/faults.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(explained) == len(set(explained))
    files = [path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    cited = {code for path in files for code in CODE.findall(comments(path.read_text(encoding="utf-8")))}
    assert cited == set(explained)


def test_the_package_cites_no_fault_by_its_code() -> None:
    """The package is read without the tests."""
    for path in (ROOT / "aiotaskq").rglob("*.*"):
        if path.suffix in (".py", ".lua", ".md"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"\((?:[A-J]|G-)\d{1,2}(?:, (?:[A-J]|G-)\d{1,2})*\)", text), path
