"""``aiotaskq store``: reads and writes public values."""

from __future__ import annotations

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.i18n import tr
from aiotaskq.cli.output import say, say_error, say_json
from aiotaskq.cli.store_access import read_json, with_tq
from aiotaskq.log import printable


def list_keys(url: str, *, as_json: bool) -> None:
    """Print the live keys, one a line."""
    keys = with_tq(url, lambda tq: tq.store.list_keys())
    if as_json:
        say_json(keys)
        return
    for key in keys:
        say(printable(key, 1_000))


def get(url: str, key: str, *, as_json: bool) -> int:
    """Print a value as JSON; return 1 where there is none."""

    async def work(tq: TaskQ) -> tuple[bool, object]:
        value = await tq.store.get_public(key)
        return value is not None or key in await tq.store.list_keys(), value

    there, value = with_tq(url, work)
    if not there:
        say_error(tr("there is no value {key}", key=printable(key)))
        return 1
    say_json({"key": key, "value": value}) if as_json else say_json(value)
    return 0


def put(url: str, key: str, value: str, *, ttl: float | None, as_json: bool) -> None:
    """Store a value."""
    given = read_json("value", value)
    with_tq(url, lambda tq: tq.store.set_public(key, given, ttl))
    say_json({"key": key, "stored": True}) if as_json else say(tr("stored {key}", key=printable(key)))


def delete(url: str, key: str, *, as_json: bool) -> int:
    """Delete a value; return 1 where there was none."""
    there = with_tq(url, lambda tq: tq.store.delete_public(key))
    if as_json:
        say_json({"key": key, "deleted": there})
    elif there:
        say(tr("deleted {key}", key=printable(key)))
    if not there:
        say_error(tr("there is no value {key}", key=printable(key)))
    return int(not there)
