"""An application that migrates the database of aiotaskq with its own Alembic."""

from __future__ import annotations

import asyncio
import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from aiotaskq import TaskQ
from aiotaskq.backends.sql.engines import sync_engine
from aiotaskq.backends.sql.migrations import VERSION_TABLE
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.integrations.alembic import include_name
from aiotaskq.models import OUR_TABLES
from tests.support.command import Cli
from tests.support.servers import mariadb, postgresql

OURS = {*OUR_TABLES, VERSION_TABLE}
MODELS = """
import sqlalchemy as sa
metadata = sa.MetaData()
sa.Table("customer", metadata, sa.Column("id", sa.Integer, primary_key=True))
"""
LINE = "target_metadata=target_metadata"


SERVERS = {"postgresql": postgresql, "mysql": mariadb}
_numbers = itertools.count(1)


@pytest.fixture(params=["sqlite", *SERVERS])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of its own, for its tables are dropped."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/host.db"
        return
    server = SERVERS[request.param](durable=False)
    name = f"host_{next(_numbers)}"
    yield server.create(name)
    server.drop(name)


class Host:
    """A project as ``alembic init`` makes it, with one table; ``options`` go into each ``context.configure``."""

    def __init__(self, folder: Path, url: str, options: str) -> None:
        self.url = sync_engine(url).url.render_as_string(hide_password=False)
        self.folder = folder / "host"
        self.config = Config(folder / "host.ini", stdout=io.StringIO())
        command.init(self.config, str(self.folder))
        self.config.set_main_option("sqlalchemy.url", self.url.replace("%", "%%"))
        env = self.folder / "env.py"
        text = env.read_text()
        assert text.count(LINE) == 2 and "target_metadata = None" in text
        text = text.replace("target_metadata = None", f"{MODELS}\ntarget_metadata = metadata")
        text = text.replace("fileConfig(config.config_file_name)", "pass")  # logging is the test's
        env.write_text(f"from aiotaskq.integrations.alembic import include_name\n{text.replace(LINE, LINE + options)}")

    def revise(self) -> str:
        """Write the next revision by ``--autogenerate``; return what it does."""
        made = command.revision(self.config, "next", autogenerate=True)
        assert made is not None and not isinstance(made, list)
        return Path(made.path).read_text()

    def upgrade(self) -> None:
        command.upgrade(self.config, "head")

    def tables(self) -> set[str]:
        engine = sa.create_engine(self.url)
        try:
            return set(sa.inspect(engine).get_table_names())
        finally:
            engine.dispose()


async def test_autogenerate_leaves_our_tables_alone(url: str, tmp_path: Path) -> None:
    async with TaskQ(url) as tq:
        kept = (await tq.push("mail", {"to": "you"})).task_id

    def migrate() -> None:
        host = Host(tmp_path, url, ", include_name=include_name")
        first = host.revise()
        assert "create_table('customer'" in first
        assert not [name for name in OURS if name in first]
        host.upgrade()
        assert host.tables() >= {"customer", *OURS}
        second = host.revise()
        assert "drop" not in second and "create" not in second.replace("create_table('", "").lower().split("def ")[1]

    await asyncio.to_thread(migrate)
    async with TaskQ(url) as tq:
        assert (await tq.get(kept)).params == {"to": "you"}


async def test_without_the_filter_tables_are_dropped_and_the_error_says_what_to_do(url: str, tmp_path: Path) -> None:
    tq = TaskQ(url, poll_interval=0.05)
    async with tq:
        await tq.push("mail", {})

        def migrate() -> None:
            host = Host(tmp_path, url, "")
            first = host.revise()
            assert {name for name in OURS if f"drop_table('{name}')" in first} == OURS  # why the line is there
            host.upgrade()
            assert not host.tables() & OURS

        await asyncio.to_thread(migrate)
        store = (await tq.health())["store"]
        assert store is not None and "it was dropped after aiotaskq had made it" in store
        for call in (tq.push("mail", {}), tq.stats(), tq.get("x")):
            with pytest.raises(DatabaseUnavailable) as raised:
                await call
            said = str(raised.value)
            assert "task_queue" in said and "it was dropped after aiotaskq had made it" in said
            assert "aiotaskq.integrations.alembic" in said and "'aiotaskq db upgrade'" in said
    async with TaskQ(url) as again:  # all of them are gone, so they are made anew
        assert await again.find() == []


def test_a_filter_of_the_applications_own_is_composed_with_it() -> None:
    for name in OURS:
        assert not include_name(name, "table", {"schema_name": None})
        assert include_name(name, "table", {"schema_name": "other"})
        assert include_name(name, "column", {"schema_name": None, "table_name": "customer"})
    assert include_name("customer", "table", {"schema_name": None}) and include_name(None, "schema", {})

    def mine(name: str | None, type_: str, parents: dict[str, str | None]) -> bool:
        return include_name(name, type_, parents) and name != "customer"

    assert not mine("customer", "table", {}) and mine("order", "table", {}) and not mine("task_queue", "table", {})


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


async def test_missing_tables_are_reported_and_recreated(url: str, cli: Cli) -> None:
    async with TaskQ(url) as tq:
        await tq.values.set_public("kept", 1)
    engine = sync_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE task_queue"))
    engine.dispose()

    def use() -> None:
        for command_ in (["stats"], ["check"], ["doctor"], ["tasks", "list"]):
            code, out, err = cli.run(*command_, "--db", url)
            assert code == 1 and "tables are missing: task_queue; restore them from a backup" in out + err
        assert "were created again, empty: task_queue" in cli.out("db", "upgrade", "--db", url)
        assert "are up to date" in cli.out("db", "upgrade", "--db", url)
        assert cli.json("stats", "--db", url)["ready"] == 0
        assert cli.json("values", "get", "kept", "--db", url)["value"] == 1

    await asyncio.to_thread(use)
