"""An application as users write it: the layout of FastAPI's full-stack template, run as a project of its own.

It has blocking SQLModel sessions, ``def`` endpoints that push with the session, migrations by Alembic, and tests with
``TestClient``. Everything runs in processes, in a copy of ``tests/apps/fullstack``.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from aiotaskq import Status, TaskQ
from aiotaskq.backends.sql.engines import sync_engine
from aiotaskq.backends.sql.migrations import VERSION_TABLE
from aiotaskq.models import OUR_TABLES
from tests.support import nursery
from tests.support.machine import watchdog, within
from tests.support.programs import ROOT
from tests.support.servers import postgresql

_numbers = itertools.count(1)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of its own, as the application is told of it."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/shop.db"
        return
    server = postgresql(durable=False)
    name = f"shop_{next(_numbers)}"
    yield server.create(name).replace("postgresql://", "postgresql+psycopg://")
    server.drop(name)


class Project:
    """A checkout of the application."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder / "checkout"
        self.url = url
        shutil.copytree(
            ROOT / "tests" / "apps" / "fullstack", self.folder, ignore=shutil.ignore_patterns("__pycache__", ".*_cache")
        )
        # Those of this run, such as PYTEST_ADDOPTS and AIOTASKQ_…, are not the project's.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "AIOTASKQ_"))}
        self.environment = {**kept, "PYTHONPATH": str(ROOT), "DATABASE_URL": url, "LC_ALL": "C.UTF-8"}
        self.environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # nor are plugins, but for ours

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return nursery.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str) -> str:
        """Run Python to its end, which must be well; return what it says."""
        program = self.start(*arguments)
        try:
            said, _ = program.communicate(timeout=watchdog())
        finally:
            program.kill()
        assert program.returncode == 0, said
        return said

    def alembic(self, *arguments: str) -> str:
        return self.run("-m", "alembic", *arguments)

    def revise(self, name: str) -> str:
        """Write the next revision by ``--autogenerate``; return what it does."""
        self.alembic("revision", "--autogenerate", "-m", name)
        (written,) = (self.folder / "app" / "alembic" / "versions").glob(f"*_{name}.py")
        return written.read_text().partition("def upgrade")[2]

    def rows(self, query: str) -> list[tuple[object, ...]]:
        engine = sync_engine(self.url)
        try:
            with engine.connect() as connection:
                return [tuple(row) for row in connection.execute(sa.text(query))]
        finally:
            engine.dispose()


@pytest.fixture
def project(tmp_path: Path, url: str) -> Project:
    return Project(tmp_path, url)


def test_its_own_tests_pass_without_a_database(tmp_path: Path) -> None:
    project = Project(tmp_path, f"sqlite:///{tmp_path}/shop.db")
    said = project.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pytest_aiotaskq")
    assert re.search(r"^(\d+) passed", said, re.MULTILINE), said
    assert not (tmp_path / "shop.db").exists(), "no test opens the task queue of the application"


def test_its_migrations_leave_our_tables_alone(project: Project) -> None:
    project.alembic("upgrade", "head")
    project.run("-c", "import asyncio; from app.tasks import tq; asyncio.run(tq.open())")
    assert project.revise("nothing").count("pass") == 2, "the models are as the first revision says"
    project.alembic("upgrade", "head")

    models = project.folder / "app" / "models.py"
    field = "    full_name: str | None = Field(default=None, max_length=255)\n"
    text = models.read_text()
    assert text.count(field) == 1
    models.write_text(text.replace(field, f"{field}    phone: str | None = Field(default=None, max_length=30)\n"))
    revision = project.revise("phone")
    assert re.findall(r"op\.(\w+)\('(\w+)'", revision) == [("add_column", "customer"), ("drop_column", "customer")]
    project.alembic("upgrade", "head")
    assert project.rows("SELECT phone FROM customer") == []
    for table in (*OUR_TABLES, VERSION_TABLE):
        assert project.rows(f"SELECT count(*) FROM {table}") != [], table


REQUESTS = """
import warnings
warnings.simplefilter("error")
from fastapi.testclient import TestClient
from app.main import app
with TestClient(app) as client:
    def post(path, status, **body):
        answer = client.post(f"/api/v1/customers/{path}", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()
    ann = post("", 201, email="ann@example.com", full_name="Ann")["id"]
    post("", 409, email="ann@example.com")
    for article in ("tea", "milk", "cups"):
        post(f"{ann}/orders/", 201, article=article)
    post(f"{ann}/orders/", 409, article="one too many")
    first = post("newsletter", 202)["task_id"]
    assert post("newsletter", 202)["task_id"] == first, "one newsletter at a time"
    assert client.get(f"/api/v1/tasks/{first}").json()["status"] == "pending"
    assert client.get("/readyz").status_code == 200
"""


def test_a_worker_runs_what_the_endpoints_have_pushed(project: Project) -> None:
    project.alembic("upgrade", "head")
    assert project.run("-c", REQUESTS) == ""
    pushed = {"send_welcome_mail": 1, "ship_order": 3, "send_newsletter": 1}

    async def counted(status: Status) -> dict[str, int]:
        async with TaskQ(project.url) as tq:
            types = [task.type for task in await tq.find(status=status)]
            return {type: types.count(type) for type in sorted(set(types))}

    assert asyncio.run(counted(Status.PENDING)) == dict(sorted(pushed.items())), "what was rolled back is no task"
    assert project.rows("SELECT article FROM \"order\" WHERE article LIKE 'one%'") == []

    worker = project.start("-m", "aiotaskq", "run", "app.tasks:tq", "--drain", "5")
    try:

        async def until_all_ended() -> None:
            async with TaskQ(project.url, poll_interval=0.05) as tq:
                for task in await tq.find():
                    await tq.handle(task.task_id).result(timeout=within(30))

        asyncio.run(until_all_ended())
        worker.send_signal(signal.SIGTERM)
        said, _ = worker.communicate(timeout=watchdog())
    finally:
        worker.kill()
    assert worker.returncode == 0, said
    assert asyncio.run(counted(Status.COMPLETED)) == dict(sorted(pushed.items()))
    assert project.rows('SELECT count(*) FROM "order" WHERE shipped_at IS NOT NULL') == [(3,)]
    assert project.rows("SELECT subject FROM mail ORDER BY subject") == [("News",), ("Welcome, Ann",)]
