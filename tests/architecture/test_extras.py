"""The extras install only libraries that the package uses, and the error about a missing one names the command."""

from __future__ import annotations

import ast
import contextlib
import itertools
import re
import shlex
import tomllib
from importlib import metadata

import pytest

from aiotaskq.core.errors import REQUIREMENTS, missing
from tests.support.programs import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = PROJECT["optional-dependencies"]
MODULES = {
    "prometheus-client": "prometheus_client",
    "opentelemetry-api": "opentelemetry",
    "django-tasks": "django_tasks",
    "pydantic-ai-slim": "pydantic_ai",
    "backports.zstd": "backports",
}
BY_NAME = {"pymysql", "psycopg"}  # SQLAlchemy imports its drivers by the name in the URL


def test_the_table_is_that_of_pyproject() -> None:
    assert {name: list(wanted) for name, wanted in REQUIREMENTS.items()} == {
        name: wanted for name, wanted in DECLARED.items() if name != "all"
    }
    assert DECLARED["all"] == [f"aiotaskq[{','.join(REQUIREMENTS)}]"]


def test_the_package_imports_what_its_extras_install() -> None:
    imported = set(BY_NAME)
    for path in (ROOT / "aiotaskq").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
            elif isinstance(node, ast.Import):
                imported.update(alias.name.partition(".")[0] for alias in node.names)
    for extra, wanted in REQUIREMENTS.items():
        names = [re.split(r"[\[<>=;]", requirement)[0] for requirement in wanted]
        assert [name for name in names if MODULES.get(name, name) not in imported] == [], extra


@pytest.mark.parametrize("extra", REQUIREMENTS)
def test_the_command_installs_libraries_and_no_project_of_the_users(extra: str) -> None:
    said = str(missing("something", extra))
    command = shlex.split(said.partition(": ")[2])
    assert command == ["pip", "install", *REQUIREMENTS[extra]]
    assert "aiotaskq" not in said and "-e" not in command


def test_each_requirement_says_from_which_release_on() -> None:
    """``nox -s lowest`` installs those releases and runs tests with them."""
    wanted = [*PROJECT["dependencies"], *itertools.chain(*REQUIREMENTS.values())]
    assert [requirement for requirement in wanted if not re.search(r">=\d", requirement)] == []


def test_the_manual_names_the_licences_that_bind_more_than_that_of_aiotaskq() -> None:
    """The licence of an installed library may change with a release: its own metadata decides."""
    pages = [ROOT / "pyproject.toml", *(ROOT / "aiotaskq" / "docs" / page for page in ("stores.md", "zh/stores.md"))]
    copyleft = set()
    for requirement in itertools.chain(PROJECT["dependencies"], *REQUIREMENTS.values()):
        name = re.split(r"[\[<>=;]", requirement)[0]
        with contextlib.suppress(metadata.PackageNotFoundError):  # of another version of Python
            about = metadata.metadata(name)
            if "GPL" in str([about["License-Expression"], about["License"], about.get_all("Classifier")]):
                copyleft.add(name)
    assert copyleft == {"psycopg"}
    for page in pages:
        assert [text for text in page.read_text().split("\n\n") if "psycopg" in text and "LGPL-3.0" in text], page


def test_no_text_for_users_installs_their_own_project_or_the_one_of_the_public_index() -> None:
    for path in (ROOT / "aiotaskq").rglob("*.py"):
        if path.name != "errors.py":
            text = path.read_text()
            assert "pip install -e" not in text and "aiotaskq[" not in text, path
