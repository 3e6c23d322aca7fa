"""Redis behind sentinels: the URL, and what a fail-over leaves, with real servers and sentinels."""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from aiotaskq import TaskQ
from aiotaskq.backends import connect
from aiotaskq.backends.redis.address import Address, Sentinels
from aiotaskq.core.status import Status
from aiotaskq.core.task import TaskFilter
from aiotaskq.errors import DatabaseUnavailable, ValidationError
from tests.backends.redis.stores import every_verb, hears, opened
from tests.support.rows import LEASE, NOW, pushed
from tests.support.sentinels import ValkeySentinel
from tests.support.servers import Valkey
from tests.support.waiting import eventually, wait_until

USER = ("SETUSER", "app", "on", ">sesame-app", "~*", "&*", "+@all")
WATCHER = ("SETUSER", "watch", "on", ">sesame-watch", "&*", "+@all")


class Group:
    """A primary with replicas, and the sentinels that watch them."""

    def __init__(self, stack: contextlib.ExitStack, replicas: int, sentinels: int) -> None:
        self._stack = stack
        self.servers = [self.started(repl_diskless_sync_delay="0")]
        for _ in range(replicas):
            self.servers.append(self.started(replicaof=f"127.0.0.1 {self.servers[0].port}"))
        self.sentinels = [self._watcher(ValkeySentinel(self.servers[0], sentinels // 2 + 1)) for _ in range(sentinels)]
        for server in self.servers:
            server.ask("ACL", *USER)
        wait_until(lambda: all(len(each.ask("SENTINEL REPLICAS main")) == replicas for each in self.sentinels))
        wait_until(lambda: all(len(each.ask("SENTINEL SENTINELS main")) == sentinels - 1 for each in self.sentinels))
        self.replicated()

    def started(self, **settings: str) -> Valkey:
        server = Valkey(False, **settings)
        self._stack.callback(server.kill)
        return server

    def _watcher(self, sentinel: ValkeySentinel) -> ValkeySentinel:
        self._stack.callback(sentinel.kill)
        sentinel.ask("ACL", *WATCHER)
        return sentinel

    @property
    def primary(self) -> Valkey:
        """The server that the last sentinel takes for the primary."""
        _, port = self.sentinels[-1].primary()
        return next(server for server in self.servers if server.port == port)

    def replicated(self) -> None:
        """Wait until each replica that runs has all that was written until now."""
        primary = self.primary
        written = primary.ask("ROLE")[1]

        def has_it(server: Valkey) -> bool:
            role, *_, state, offset = server.ask("ROLE")
            return role == b"slave" and state == b"connected" and offset >= written

        wait_until(lambda: all(has_it(server) for server in self.servers if server is not primary))

    def url(self, login: str = "app:sesame-app", watcher: str = "sesame-watch") -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        options = f"prefix=s&sentinel_username=watch&sentinel_password={watcher}"
        return f"redis+sentinel://{login}@{hosts}/main?db=0&{options}"


@contextlib.contextmanager
def watched(replicas: int = 1, sentinels: int = 1) -> Iterator[Group]:
    with contextlib.ExitStack() as stack:
        yield Group(stack, replicas, sentinels)


async def until_it_works(verb: Callable[[], Any]) -> Any:
    """The answer of a verb that fails while there is no primary."""
    answers: list[Any] = []

    async def works() -> bool:
        with contextlib.suppress(DatabaseUnavailable):
            answers.append(await verb())
        return bool(answers)

    await eventually(works, pause=0.05)
    return answers[0]


# ---- the URL --------------------------------------------------------------------------------------------------------


def test_a_url_names_sentinels_and_their_primary() -> None:
    address = Address("rediss+sentinel://me:pw@a,[::1]:5,c:26380/main?db=3&prefix=p&ssl_cert_reqs=none")
    assert (address.prefix, address.options["db"], address.options["password"]) == ("p", 3, "pw")
    assert address.sentinels is not None
    assert address.sentinels._hosts == [("a", 26379), ("::1", 5), ("c", 26380)]
    assert address.sentinels._options["ssl"] and address.sentinels._options["ssl_cert_reqs"] == "none"
    assert "password" not in address.sentinels._options
    for url in ("redis://h/0", "valkey://h"):
        assert Address(url).sentinels is None
    plain = Address("valkey+sentinel://a/main?sentinel_password=x").sentinels
    assert plain is not None and plain._options["password"] == "x" and "ssl" not in plain._options


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://a:1,b:2",
        "redis+sentinel://a:1,b:2/",
        "redis+sentinel:///main",
        "redis+sentinel://a:1,,b:2/main",
        "redis+sentinel://a:port/main",
        "redis+sentinel://a:1/main/0",
        "redis+sentinel://a:1/main?db=x",
        "redis+cluster://a:1/0",
        "redis://a:1/0?sentinel_password=sesame",
    ],
)
def test_what_is_wrong_with_a_url_is_said(url: str) -> None:
    with pytest.raises(ValidationError, match=r"^url: .*sentinel") as raised:
        connect(url.replace("//a", "//me:sesame@a"))
    assert "sesame" not in str(raised.value)


# ---- a fail-over ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared() -> Iterator[Group]:
    """A group for the tests that change nothing in it."""
    with watched() as group:
        yield group


async def test_every_verb_works_and_a_sentinel_that_is_away_is_passed_over(shared: Group) -> None:
    async with opened(shared.url().replace("@", "@127.0.0.1:1,")) as backend, opened(shared.url()) as other:
        await every_verb(backend)
        await hears(other, backend)
        assert backend._redis.address.sentinels._hosts[0][1] == shared.sentinels[0].port


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda url: url.replace("/main", "/other"), r"no sentinel names a primary 'other' .*does not know that name"),
        (
            lambda url: url.replace("sesame-watch", "sesame-no"),
            r"no sentinel names a primary 'main' .*invalid username",
        ),
        (lambda url: url.replace("sesame-app", "sesame-no"), r"invalid username-password pair"),
        (lambda url: url.replace("@", "@127.0.0.1:1#"), r"no sentinel names a primary 'main' .*127.0.0.1:1: Error 111"),
    ],
)
async def test_why_there_is_no_primary_is_said(shared: Group, change: Any, said: str) -> None:
    url = change(shared.url())
    if "#" in url:  # that sentinel alone
        url = url.partition("#")[0] + "/main?" + url.partition("?")[2]
    with pytest.raises(DatabaseUnavailable, match=said) as raised:
        async with opened(url):
            pass
    assert "sesame" not in str(raised.value)


async def test_a_replica_that_a_sentinel_names_is_not_used(shared: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    replica = shared.servers[1]

    async def late(_self: Sentinels) -> dict[str, Any]:
        return {"host": "127.0.0.1", "port": replica.port}

    monkeypatch.setattr(Sentinels, "primary", late)
    with pytest.raises(DatabaseUnavailable, match="no primary yet, or no more"):
        async with opened(shared.url()):
            pass
    replica.ask("ACL", "SETUSER", "app", "-role")  # it may not ask: the first write says so
    with pytest.raises(DatabaseUnavailable, match="the server that the sentinels name is a replica"):
        async with opened(shared.url()) as backend:
            await pushed(backend)
    replica.ask("ACL", "SETUSER", "app", "+role")


async def test_a_fail_over() -> None:
    with watched() as group:
        async with TaskQ(group.url()) as tq, opened(group.url()) as other:
            backend = tq.queue.backend
            schedule = (await tq.schedules.add("n", "t", interval=3600)).task_id
            there = await pushed(backend, queue="there")
            (running,) = await backend.claim("o", NOW, 1, queues=["there"], lease_until=LEASE)
            group.replicated()
            former = group.primary
            former.kill()
            handle = await until_it_works(lambda: tq.push("t", task_id="after"))
            assert handle.task_id == "after" and group.primary is not former
            assert await backend.get([there.task_id]) == [running]
            assert [row.task_id for row in await tq.schedules.list()] == [schedule]
            assert await tq.schedules.run_now(schedule)
            await hears(other, backend)


@contextlib.asynccontextmanager
async def workers(url: str, ran: Counter[int]) -> AsyncIterator[TaskQ]:
    tq = TaskQ(url, lease=2.0, poll_interval=0.2)

    @tq.task(name="work")
    async def work(n: int) -> None:
        ran[n] += 1

    async with tq.running():
        yield tq


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_work_goes_on_through_fail_overs() -> None:
    ran: Counter[int] = Counter()
    number = 0
    with watched(replicas=2, sentinels=3) as group:
        async with workers(group.url(), ran) as one, workers(group.url(), ran):
            schedule = (await one.schedules.add("s", "work", params={"n": -1}, interval=1)).task_id

            async def push(count: int) -> None:
                nonlocal number
                for _ in range(count):
                    n = number = number + 1
                    await until_it_works(lambda: one.push("work", {"n": n}, task_id=f"task-{n}"))  # noqa: B023

            group.sentinels[0].kill()
            for how in ("kill", "ask", "stop", "kill"):
                await push(100)
                group.replicated()
                former = group.primary
                if how == "kill":
                    former.kill()
                elif how == "stop":
                    former.send(signal.SIGSTOP)
                else:
                    group.sentinels[-1].ask("SENTINEL FAILOVER main")
                    # Until the former primary is told to be a replica, it takes writes that are lost later.
                    await eventually(lambda: former.ask("ROLE")[0] == b"slave", pause=0.1)  # noqa: B023
                await push(100)
                await eventually(lambda: group.primary is not former, pause=0.1)  # noqa: B023
                await push(100)
                if how == "kill":
                    former.start()
                elif how == "stop":
                    former.send(signal.SIGCONT)
                # The former primary has become a replica, whatever it holds.
                await eventually(lambda: former.ask("ROLE")[0] == b"slave", pause=0.1)  # noqa: B023
            await eventually(lambda: all(ran[n] for n in range(1, number + 1)), pause=0.1)
            row = await one.schedules.get(schedule)
            fired = await one.find(scheduler_task_id=schedule, limit=10_000)
            assert len({task.task_id for task in fired}) == len(fired) == row.run_count > 0
            done = await one.queue.backend.find(TaskFilter(status=(Status.COMPLETED,)), 10_000)
            assert {f"task-{n}" for n in range(1, number + 1)} <= {task.task_id for task in done}
