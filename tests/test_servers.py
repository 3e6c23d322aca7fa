"""The servers of the tests themselves: they run beside each other, and none is in another's way."""

from __future__ import annotations

import contextlib

import pytest

from tests.servers import MariaDB, Unavailable, mariadb


def test_a_mariadb_that_starts_leaves_the_temporary_tables_of_others() -> None:
    import pymysql

    try:
        first = mariadb(durable=False)
    except Unavailable as reason:
        pytest.skip(str(reason))  # the contract suite fails for it
    with contextlib.closing(pymysql.connect(host="127.0.0.1", port=first.port, user="root")) as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TEMPORARY TABLE test.mine (a INT) ENGINE=Aria")
        MariaDB(durable=False)._remove()
        cursor.execute("DROP TABLE test.mine")
