"""What is asked of a server before tasks are entrusted to it: its layout, its eviction policy, what it keeps."""

from __future__ import annotations

from aiotaskq.backends.redis.connection import LARGEST, MOST, RedisLink, is_refusal
from aiotaskq.backends.redis.fragments import FORMAT
from aiotaskq.backends.redis.scripts import OPEN
from aiotaskq.errors import DatabaseUnavailable, SchemaTooNew
from aiotaskq.log import log


async def check_format(link: RedisLink) -> None:
    """Raise SchemaTooNew if a newer version has written what is there."""
    found = int(await link.evaluate(OPEN, FORMAT))
    if found > FORMAT:
        raise SchemaTooNew(
            f"{link.shown}: format {found} of the prefix {link.address.prefix!r} is newer than {FORMAT}; upgrade"
        )


async def check_settings(link: RedisLink) -> None:
    """Refuse a server that evicts keys when it is full, and log what its persistence promises."""
    policy = await _setting(link, "maxmemory-policy")
    if policy not in (None, "noeviction") and not link.address.any_eviction:
        raise DatabaseUnavailable(
            f"{link.shown}: maxmemory-policy is {policy}, so tasks can vanish when memory is full; "
            "set maxmemory-policy to noeviction, or say eviction=any in the URL"
        )
    promise, safe = _promise(
        await _setting(link, "appendonly"), await _setting(link, "appendfsync"), await _setting(link, "save")
    )
    told = f"; maxmemory-policy {policy}" if policy is not None else "; its eviction policy could not be checked"
    write = log.info if safe else log.warning
    write("{}: {}{}", link.shown, promise, told)


async def read_limits(link: RedisLink) -> None:
    """Note how much the server takes at once; where we may not ask, what is usual is believed."""
    largest, most = await _setting(link, "proto-max-bulk-len"), await _setting(link, "client-query-buffer-limit")
    link.largest = LARGEST if largest is None else int(largest)
    link.most = MOST if most is None else int(most)


async def _setting(link: RedisLink, name: str) -> str | None:
    """Return a setting of the server, None where we are not allowed to ask."""
    try:
        answer = await link.execute("CONFIG", "GET", name)
    except Exception as error:
        if is_refusal(error):
            return None
        raise
    pairs = dict(answer) if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
    return next((_text(value) for key, value in pairs.items() if _text(key) == name), None)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _promise(appendonly: str | None, appendfsync: str | None, save: str | None) -> tuple[str, bool]:
    """What survives a crash of the server, and whether that is nearly everything."""
    if appendonly is None:
        return "what its persistence promises could not be checked (CONFIG GET is not allowed)", False
    if appendonly != "yes":
        if save:
            return "only snapshots are kept: a crash loses what was written since the last one; set appendonly", False
        return "nothing is kept on disk: a restart of the server loses every task; set appendonly", False
    if appendfsync == "always":
        return "every write is on disk before it is answered (appendfsync always)", True
    if appendfsync == "everysec":
        return "a power loss loses at most about 2 s of writes (appendfsync everysec)", True
    return "a power loss loses what the system has not written yet (appendfsync no)", False
