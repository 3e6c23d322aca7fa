"""The Django project, and its database of each kind."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests.integrations.django.project import default
from tests.support.servers import mariadb, postgresql

SETTINGS = "tests.apps.django_shop.settings"


@pytest.fixture(scope="module", autouse=True)
def _django() -> Iterator[None]:
    """The project, and its time zone as that of the process, which Django sets and does not restore."""
    import django
    import pymysql
    from django.conf import settings

    pymysql.install_as_MySQLdb()
    before = {name: os.environ.get(name) for name in ("TZ", "DJANGO_SETTINGS_MODULE")}
    os.environ["DJANGO_SETTINGS_MODULE"] = SETTINGS
    django.setup()
    os.environ["TZ"] = settings.TIME_ZONE
    time.tzset()
    yield
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    time.tzset()


@pytest.fixture(params=["sqlite", "postgresql", "mysql"], scope="module")
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database of each kind, with the tables of the project and those that ``migrate`` makes beside them."""
    if request.param == "sqlite":
        place = {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path_factory.mktemp("shop") / "shop.db"}
    else:
        server = (postgresql if request.param == "postgresql" else mariadb)(durable=False)
        url = make_url(server.create(request.module.__name__.rpartition(".")[2]))
        place = {
            "ENGINE": f"django.db.backends.{request.param}",
            "NAME": url.database,
            "USER": url.username,
            "PASSWORD": url.password or "",
            "HOST": url.host,
            "PORT": url.port,
        }
    with default(place):
        yield request.param


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Path]:
    """A file as the database."""
    with default({"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "shop.db"}):
        yield tmp_path / "shop.db"
