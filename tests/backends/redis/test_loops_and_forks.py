"""Redis: event loops, forks, closing, and the optional dependency."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from aiotaskq.backends import connect
from aiotaskq.backends.listeners import READY
from aiotaskq.backends.redis.address import Address
from aiotaskq.backends.redis.backend import RedisBackend
from aiotaskq.errors import ClosedError, ValidationError, WrongLoop
from tests.backends.redis.stores import opened, run_program
from tests.support.programs import ROOT
from tests.support.rows import NOW
from tests.support.servers import Server
from tests.support.waiting import eventually

LOOPS = """
import asyncio, sys
from aiotaskq.backends import connect
from tests.support.rows import new, NOW

backend = connect(sys.argv[1])

async def use(number):
    await backend.watch()
    await backend.push([new()])
    assert await backend.count_ready(NOW) == number
    if number == 3:
        await backend.close()

for number in (1, 2, 3):
    asyncio.run(use(number))  # the first two end with everything open
print("done")
"""


def test_usable_again_in_another_loop(url: str) -> None:
    assert run_program(LOOPS, url) == "done\n"


async def test_open_in_another_loop_is_refused(backend: RedisBackend) -> None:
    def elsewhere() -> None:
        asyncio.run(backend.count_ready(NOW))

    with pytest.raises(WrongLoop, match="another event loop"):
        await asyncio.to_thread(elsewhere)
    assert await backend.count_ready(NOW) == 0


async def test_closed_stays_closed_and_opens_again(backend: RedisBackend) -> None:
    await backend.watch()
    await backend.close()
    await backend.close()
    for verb in (backend.count_ready(NOW), backend.watch(), backend.ping()):
        with pytest.raises(ClosedError):
            await verb
    backend.listeners.notify(READY)  # no listener is left, and none is needed
    await backend.open()
    assert await backend.count_ready(NOW) == 0


async def test_nothing_is_left_behind(url: str, server: Server) -> None:
    def clients() -> int:
        return len(server.execute("CLIENT LIST")[0][0].splitlines())

    await eventually(lambda: clients() == 1)
    tasks = asyncio.all_tasks()
    async with opened(url) as backend:
        await backend.watch()
        await asyncio.gather(*(backend.ping() for _ in range(50)))
        assert 1 < clients() <= 12  # its connections, the listening one, and the one that asks
    assert asyncio.all_tasks() == tasks
    await eventually(lambda: clients() == 1)


FORK = """
import asyncio, gc, os, sys
from aiotaskq.backends import connect
from tests.support.rows import new, NOW

backend = connect(sys.argv[1])

async def use(count):
    if sys.argv[2] == "watching":
        await backend.watch()
    await asyncio.gather(*(backend.push([new()]) for _ in range(10)))
    assert await backend.count_ready(NOW) >= count

async def in_child():
    await use(20)
    gc.collect()  # what was the parent's must not be closed here: they share the sockets, and what watches them

async def parent():
    await use(10)
    while len(asyncio.all_tasks()) > 1 + (sys.argv[2] == "watching"):
        await asyncio.sleep(0.01)  # until the hints are out: nothing holds the connections then but the pool
    child = os.fork()
    if child == 0:
        asyncio.run(in_child())
        os._exit(0)
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        await use(20)
        if pid:
            assert status == 0, status
            await use(40)  # on every connection
            assert await backend.count_ready(NOW) % 10 == 0
            await backend.close()
            return

asyncio.run(parent())
print("both work")
"""


@pytest.mark.parametrize("how", ["watching", "not watching"])
def test_after_a_fork_both_work(url: str, how: str) -> None:  # E1, E2
    assert run_program(FORK, url, how) == "both work\n"


def test_without_the_extra_one_line_says_so() -> None:
    code = "import sys; sys.modules['redis'] = None\nfrom aiotaskq import TaskQ\nTaskQ('redis://localhost/0')"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    last = run.stderr.strip().splitlines()[-1]
    assert "MissingExtra: redis is not installed; install the extra redis" in last


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_the_schemes(scheme: str) -> None:
    assert isinstance(connect(f"{scheme}://localhost:1/0"), RedisBackend)
    address = Address(f"{scheme}://me:word@host:7/3?socket_timeout=2&prefix=p")
    assert (address.prefix, address.root) == ("p", "{p}:")
    options = {name: address.options[name] for name in ("host", "port", "db", "username", "password", "socket_timeout")}
    assert options == {"host": "host", "port": 7, "db": 3, "username": "me", "password": "word", "socket_timeout": 2.0}
    with pytest.raises(ValidationError, match=r"^url: max_connections is an option of a pool"):
        Address(f"{scheme}://host?max_connections=4")
    assert Address("rediss://host").options["connection_class"].__name__ == "SSLConnection"
