"""Checks of a server before the first command: format of the namespace, eviction policy, persistence, size limits."""

from __future__ import annotations

from aiotaskq.backends.redis.connection import MAX_ARGUMENT, MAX_COMMAND, RedisConnections
from aiotaskq.backends.redis.scripts import FORMAT
from aiotaskq.errors import DatabaseUnavailable, SchemaTooNew
from aiotaskq.log import log

# isort: split
from redis.exceptions import ResponseError


async def check_format(redis: RedisConnections) -> None:
    """Raise SchemaTooNew if a newer version has written the namespace."""
    await redis.execute("SET", f"{redis.root}format", FORMAT, "NX")
    found = int(await redis.execute("GET", f"{redis.root}format"))
    if found > FORMAT:
        raise SchemaTooNew(
            f"{redis.shown}: format {found} of the prefix {redis.address.prefix!r} is newer than {FORMAT}; upgrade"
        )


async def check_settings(redis: RedisConnections) -> None:
    """Raise DatabaseUnavailable if the server evicts keys when it is full; log what its persistence promises."""
    policy = await _setting(redis, "maxmemory-policy")
    if policy not in (None, "noeviction") and not redis.address.any_eviction:
        raise DatabaseUnavailable(
            f"{redis.shown}: maxmemory-policy is {policy}, so tasks can vanish when memory is full; "
            "set maxmemory-policy to noeviction, or put eviction=any into the URL"
        )
    promise, safe = _promise(
        await _setting(redis, "appendonly"), await _setting(redis, "appendfsync"), await _setting(redis, "save")
    )
    eviction = f"; maxmemory-policy {policy}" if policy is not None else "; its eviction policy could not be checked"
    write = log.info if safe else log.warning
    write("{}: {}{}", redis.shown, promise, eviction)


async def read_limits(redis: RedisConnections) -> None:
    """Read the server's size limits; its defaults count where CONFIG GET is not allowed."""
    argument, command = await _setting(redis, "proto-max-bulk-len"), await _setting(redis, "client-query-buffer-limit")
    redis.max_argument = MAX_ARGUMENT if argument is None else int(argument)
    redis.max_command = MAX_COMMAND if command is None else int(command)


async def _setting(redis: RedisConnections, name: str) -> str | None:
    """Return a setting of the server, None where CONFIG GET is not allowed."""
    try:
        answer = await redis.execute("CONFIG", "GET", name)
    except ResponseError:
        return None
    return answer[1].decode() if answer else None


def _promise(appendonly: str | None, appendfsync: str | None, save: str | None) -> tuple[str, bool]:
    """Return a sentence on what survives a crash of the server, and whether that is nearly everything."""
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
