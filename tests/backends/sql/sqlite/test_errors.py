"""Errors of the database: an unavailable server, a missing folder, a file that is no database; no secrets in them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import exc, text

from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.engines import sync_engine
from aiotaskq.errors import (
    DatabaseUnavailable,
)
from tests.support.programs import open_files
from tests.support.rows import new

# ---- errors ---------------------------------------------------------------------------------------------------------


async def test_a_server_that_is_away() -> None:  # J9
    database = Database("postgresql://user:sesame@127.0.0.1:1/d")
    with pytest.raises(DatabaseUnavailable, match=r"postgresql://user:\*\*\*@127\.0\.0\.1:1/d") as raised:
        await database.read(lambda connection: connection.scalar(text("SELECT 1")))
    assert "sesame" not in str(raised.value) + repr(raised.value)
    await database.close()


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    backend = SqlBackend(f"sqlite:///{tmp_path / 'no' / 'a.db'}")
    message = r"cannot open sqlite:///.*/no/a\.db: No such file or directory; check the folder and its rights"
    with pytest.raises(DatabaseUnavailable, match=message):
        await backend.open()
    with pytest.raises(DatabaseUnavailable, match=message):
        await backend.push([new()])
    with pytest.raises(DatabaseUnavailable, match=message):
        sync_engine(f"sqlite:///{tmp_path / 'no' / 'a.db'}")
    (tmp_path / "no").mkdir()
    await backend.push([new()])  # put right, it goes on
    await backend.close()


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("not a database, but quite long enough to be looked at" * 100)
    for place, message in ((tmp_path, "unable to open"), (tmp_path / "a.db", "not a database; it belongs to")):
        database = Database(f"sqlite:///{place}")
        with pytest.raises(DatabaseUnavailable, match=message):
            await database.open()
        await database.close()
    assert open_files(tmp_path) == 0


async def test_params_are_not_in_error_texts(backend: SqlBackend, path: Path) -> None:  # J8
    secret = "sesame-open-yourself"
    texts = []
    for bad in (new(type=None, params={"p": secret}), new(run_at=2**70, params={"p": secret})):
        with pytest.raises(Exception, match=r".") as raised:
            await backend.push([bad])
        texts.append(_with_causes(raised.value))
    raw = sqlite3.connect(path)
    raw.execute("DROP TABLE task_queue")
    raw.close()
    with pytest.raises(DatabaseUnavailable, match="no such table") as raised_too:
        await backend.push([new(params={"p": secret})])
    texts.append(_with_causes(raised_too.value))
    assert not [text for text in texts if secret in text]


def _with_causes(error: BaseException | None) -> str:
    texts = []
    while error is not None:
        texts.append(f"{error!r} {error}")
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


# ---- the documented names -------------------------------------------------------------------------------------------


async def test_integrity_errors_are_about_the_row(backend: SqlBackend) -> None:
    with pytest.raises(exc.IntegrityError, match="NOT NULL"):
        await backend.push([new(type=None)])
