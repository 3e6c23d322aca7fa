"""The example applications in real web servers, over HTTP, while workers run; stopped and reloaded."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.from_thread import start_blocking_portal
from fastapi import FastAPI

from aiotaskq import Status, TaskQ
from aiotaskq.errors import ValidationError, WrongLoop
from aiotaskq.integrations.fastapi import router
from aiotaskq.web import http_protocol
from aiotaskq.web.server import serve, serve_until
from tests.support import nursery
from tests.support.backends import STORES
from tests.support.machine import watchdog, within
from tests.support.programs import ROOT
from tests.support.waiting import wait_until

ADMIN = {"x-admin": "yes"}
UVICORN = ["-m", "uvicorn", "tests.apps.fastapi_shop:app", "--timeout-graceful-shutdown", "1", "--log-level", "warning"]
SEVERAL = ["--workers", "2", "--timeout-worker-healthcheck", "120"]  # by default one that imports for 5 s is killed
AIOHTTP = ["-m", "tests.apps.aiohttp_shop"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def look(url: str) -> httpx.Response:
    """Ask again and again for a page: without reading certificates, which takes longer than the request."""
    return httpx.get(url, timeout=within(20), verify=False)


class Shop:
    """One application in a server, in processes of its own."""

    def __init__(self, folder: Path, command: list[str], **environment: str) -> None:
        self.folder = folder
        self.ledger = folder / "ledger.txt"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        port = ["--port", str(self.port)] if "uvicorn" in command else []
        path = os.pathsep.join([str(ROOT), str(folder)])
        self.popen: subprocess.Popen[str] = nursery.Popen(
            [sys.executable, *command, *port],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, "SHOP_PORT": str(self.port), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        with self.stopped_if_it_fails():
            wait_until(self.answers)

    @contextlib.contextmanager
    def stopped_if_it_fails(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.kill()
            raise

    def answers(self) -> bool:
        assert self.popen.poll() is None, self.popen.communicate()
        with contextlib.suppress(httpx.TransportError):
            return look(f"{self.url}/nothing").status_code == 404
        return False

    def lines(self) -> list[list[str]]:
        """What the ledger has: process, then words."""
        return [line.split() for line in self.ledger.read_text().splitlines()] if self.ledger.exists() else []

    def said(self, *words: str) -> list[str]:
        """The processes that wrote this, once for each time."""
        return [line[0] for line in self.lines() if line[1:] == list(words)]

    def end(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Send a signal to its first process, as a supervisor does; return the seconds until it has ended."""
        begin = time.monotonic()
        self.popen.send_signal(number)
        try:
            out, _ = self.popen.communicate(timeout=watchdog())
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        assert self.popen.returncode in (0, -number), (self.popen.returncode, out)
        assert "Traceback" not in out or "CancelledError" in out, out
        return time.monotonic() - begin

    def kill(self) -> None:
        """Whatever it does, end all of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        sys.stdout.write(self.popen.communicate()[0] or "")  # a failed test shows it


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Callable[..., Shop]]:
    shops: list[Shop] = []

    def start(command: list[str], **environment: str) -> Shop:
        shops.append(Shop(tmp_path, command, **environment))
        return shops[-1]

    yield start
    for each in shops:
        each.kill()


@pytest.mark.parametrize("command", [UVICORN, AIOHTTP], ids=["fastapi", "aiohttp"])
async def test_stopped_during_work_within_bounds_and_nothing_is_lost(  # D3
    shop: Callable[..., Shop], tmp_path: Path, command: list[str]
) -> None:
    first = shop(command, SHOP_DRAIN="0.3")
    answered = {}
    async with httpx.AsyncClient(base_url=first.url, headers=ADMIN, timeout=watchdog()) as ask:
        quick = (await ask.post("/orders/0")).json()["task_id"]
        assert (await ask.get(f"/result/{quick}")).json() == 0
        long = (await ask.post("/orders/1?seconds=60")).json()["task_id"]
        await asyncio.to_thread(wait_until, lambda: first.said("began", "1") != [])
        assert (await ask.get(f"/ops/tasks/{long}")).json()["status"] == "running"
        waiting = asyncio.create_task(ask.get(f"/result/{long}"))  # a request that would go on for ever

        async def order(number: int) -> None:
            with contextlib.suppress(httpx.TransportError):  # no answer is no promise
                answer = await ask.post(f"/orders/{number}?seconds=0.05")
                if answer.status_code == 200:
                    answered[number] = answer.json()["task_id"]

        orders = [asyncio.create_task(order(number)) for number in range(2, 40)]
        await asyncio.wait(orders[:10])
        seconds = await asyncio.to_thread(first.end)
        await asyncio.wait([*orders, waiting])
        waiting.exception()  # it was cut off, or answered with an error: both are right
    assert seconds < within(12)
    assert len(answered) >= 10
    assert len(first.said("down")) == 1  # the application's own resources were closed, after the workers

    async with TaskQ(f"sqlite:///{tmp_path / 'shop.db'}") as tq:
        tasks = {task.task_id: task for task in await tq.find()}
        assert {task.status for task in tasks.values()} <= {Status.PENDING, Status.COMPLETED}
        assert all((task.retry_count, task.crashes) == (0, 0) for task in tasks.values())
        assert tasks[long].status is Status.PENDING and not first.said("booked", "1")
        assert set(answered.values()) <= tasks.keys()

    second = shop(command, SHOP_LONGEST="0")
    assert httpx.get(f"{second.url}/result/{long}", timeout=watchdog()).json() == 1
    wait_until(lambda: all(second.said("booked", str(number)) for number in answered))
    assert second.end(signal.SIGINT if command is AIOHTTP else signal.SIGTERM) < within(12)


async def tab(url: str, page: str, updated: asyncio.Semaphore) -> None:
    """Follow a page as its script does, until the server ends."""
    async with httpx.AsyncClient(base_url=f"{url}/tasks/", headers=ADMIN, timeout=watchdog(), verify=False) as ask:
        await ask.get(page)
        with contextlib.suppress(httpx.TransportError):
            while True:
                answer = await ask.get("live", params={"page": page})
                assert answer.status_code == 200, answer.text
                updated.release()
                await asyncio.sleep(answer.json()["again"])


async def test_open_pages_hold_no_connection_of_the_application_and_delay_no_stop(shop: Callable[..., Shop]) -> None:
    running = shop(["-m", "uvicorn", "tests.apps.fastapi_shop:app", "--log-level", "warning"])
    updated, pages = asyncio.Semaphore(0), ["tasks", "queues", "workers", "", "activity"] * 3
    async with (
        httpx.AsyncClient(base_url=running.url, headers=ADMIN, timeout=watchdog(), verify=False) as ask,
        asyncio.TaskGroup() as group,
    ):
        for page in pages:
            group.create_task(tab(running.url, page, updated))
        for _ in pages * 2:
            await updated.acquire()
        begin = time.monotonic()
        assert (await ask.post("/login")).json() == "welcome"
        assert time.monotonic() - begin < within(1)
        while (await ask.get("/held")).json():  # between two updates
            await asyncio.sleep(0.01)
        later = {"type": "book", "params": {"order": 1}, "delay": 3600}
        waits = (await ask.post("/ops/tasks", json=later)).json()["task_id"]
        async with ask.stream("GET", f"/ops/tasks/{waits}/stream") as stream:
            assert stream.status_code == 200
            seconds = await asyncio.to_thread(running.end)
            assert await stream.aread()
    assert seconds < within(2)


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an empty database."""
    async with STORES[request.param](tmp_path) as store:
        yield store.url


async def test_two_processes_fire_each_schedule_once(database: str, shop: Callable[..., Shop]) -> None:
    both = shop([*UVICORN, *SEVERAL], SHOP_URL=database, SHOP_EVERY="1")
    await asyncio.to_thread(wait_until, lambda: len(set(both.said("up"))) == 2)
    async with httpx.AsyncClient(base_url=both.url, headers=ADMIN, timeout=watchdog()) as ask:
        await asyncio.gather(*(ask.post(f"/orders/{number}?seconds=0.1") for number in range(20)))
        await asyncio.to_thread(wait_until, lambda: len(both.said("tick")) >= 3)  # the real clock
        assert await asyncio.to_thread(both.end) < within(12)
    async with TaskQ(database) as tq:
        (schedule,) = await tq.schedules.list()
        ticks = await tq.find(type="tick")
        orders = await tq.find(type="book")
    assert len(ticks) == schedule.run_count >= 3
    created = [tick.created_at for tick in ticks]
    assert len(ticks) <= max(created) - min(created) + 2  # one a second; a late one may share its second with the next
    done = [tick for tick in ticks if tick.status is Status.COMPLETED]
    assert len(both.said("tick")) == len(done)  # each ran once
    for number in range(20):
        assert len(both.said("booked", str(number))) == 1
    assert {order.status for order in orders} == {Status.COMPLETED} and len(orders) == 20


def test_a_reload_gives_the_work_to_the_next_process(shop: Callable[..., Shop], tmp_path: Path) -> None:  # D3
    source = "from tests.apps.fastapi_shop import app\n\n\n@app.get('/version')\ndef version():\n    return {}\n"
    module = tmp_path / "reloaded.py"
    module.write_text(source.format(1))
    command = ["-m", "uvicorn", "reloaded:app", "--reload", "--reload-dir", str(tmp_path), "--log-level", "warning"]
    running = shop(command, SHOP_DRAIN="0.2")

    def version() -> int:
        with contextlib.suppress(httpx.TransportError):
            found: int = look(f"{running.url}/version").json()
            return found
        return 0

    assert version() == 1
    assert httpx.post(f"{running.url}/orders/1?seconds=60").status_code == 200
    wait_until(lambda: running.said("began", "1") != [])
    module.write_text(source.format(22))  # of another size: bytecode is told by the second of a change and the size
    wait_until(lambda: version() == 22)
    wait_until(lambda: len(set(running.said("began", "1"))) == 2)  # given back by the old process, begun by the new one
    assert running.end(signal.SIGINT) < within(12)


def test_a_push_joins_the_session_of_the_request(shop: Callable[..., Shop]) -> None:
    one = shop(UVICORN)
    assert httpx.post(f"{one.url}/orders/7?fail=true").status_code == 418
    assert httpx.post(f"{one.url}/orders/8").status_code == 200
    wait_until(lambda: one.said("booked", "8") != [])
    tasks = httpx.get(f"{one.url}/ops/tasks?params=true", headers=ADMIN).json()["tasks"]
    assert [task["params"]["order"] for task in tasks] == [8]  # rolled back, there was no task
    assert httpx.get(f"{one.url}/ops/tasks").status_code == 401  # the application's own dependency
    assert httpx.get(f"{one.url}/readyz").json()["parts"] == {"store": "ok", "workers": "ok", "scheduler": "ok"}
    assert httpx.get(f"{one.url}/deep/down/stats").json()["counts"]["completed"] == 1
    assert httpx.post(f"{one.url}/deep/down/queues/default/pause").status_code == 403
    assert "/ops/tasks/{task_id}/retry" in httpx.get(f"{one.url}/openapi.json").json()["paths"]
    assert one.end() < within(12)


SERVE = """
import sys
from aiotaskq import TaskQ
from aiotaskq.web.server import serve
serve(TaskQ("sqlite:///shop.db"), port=int(sys.argv[1]), token="0123456789abcdef", started=print)
print("stopped")
"""


def test_a_server_of_its_own_ends_by_a_signal(tmp_path: Path) -> None:  # D3, J4, J14
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-uc", SERVE, str(port)], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None and server.stdout.readline() == f"http://127.0.0.1:{port}\n"
        assert httpx.get(f"http://127.0.0.1:{port}/tasks").status_code == 401
        right = {"authorization": "Bearer 0123456789abcdef"}
        assert httpx.get(f"http://127.0.0.1:{port}/tasks", headers=right).json() == {"tasks": [], "next": None}
        with socket.create_connection(("127.0.0.1", port)) as client:  # a gigabyte is refused before it is sent
            head = ["POST /tasks HTTP/1.1", "host: x", "authorization: Bearer 0123456789abcdef"]
            head += ["content-type: application/json", "content-length: 1073741824", "", ""]
            client.sendall("\r\n".join(head).encode())
            client.settimeout(watchdog())
            assert client.recv(12) == b"HTTP/1.1 413"
        with pytest.raises(ValidationError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve(TaskQ(f"sqlite:///{tmp_path / 'other.db'}"), port=port)
        server.send_signal(signal.SIGTERM)
        out, _ = server.communicate(timeout=watchdog())
        assert (server.returncode, out) == (0, "stopped\n")
    finally:
        server.kill()
        server.communicate()


FEW_FILES = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))
"""
HALF = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nx-never-ends: "


def test_half_sent_requests_neither_block_clients_nor_flood_the_log(tmp_path: Path) -> None:  # J14
    port = free_port()
    log = tmp_path / "log"
    with log.open("w") as stream:
        command = [sys.executable, "-uc", FEW_FILES + SERVE, str(port)]
        server = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=stream, text=True)
    flood: list[socket.socket] = []
    try:
        assert server.stdout is not None and server.stdout.readline()
        for number in range(300):  # more than the server may have files
            source = f"127.0.0.{1 + number % 3 if sys.platform == 'linux' else 1}", 0
            one = socket.create_connection(("127.0.0.1", port), timeout=watchdog(), source_address=source)
            flood.append(one)
            one.sendall(HALF if number % 2 else b"nonsense\r\n\r\n")
            if number % 25 == 24:
                assert httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=watchdog()).status_code == 200
        right = {"authorization": "Bearer 0123456789abcdef"}
        assert httpx.get(f"http://127.0.0.1:{port}/tasks", headers=right, timeout=watchdog()).status_code == 200
        for _ in range(3):  # gone in the middle of a body
            with socket.create_connection(("127.0.0.1", port)) as one:
                head = ["POST /tasks HTTP/1.1", "host: x", "authorization: Bearer 0123456789abcdef"]
                head += ["content-type: application/json", "content-length: 9", "", "{"]
                one.sendall("\r\n".join(head).encode())
        assert len(os.listdir(f"/proc/{server.pid}/fd")) < 160 // 2 if sys.platform == "linux" else True
    finally:
        for one in flood:
            one.close()
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=watchdog())
        server.kill()
    assert server.returncode == 0
    assert log.stat().st_size < 2_000, log.read_text()[:4_000]


async def test_a_request_head_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # J14
    deadline = within(0.2)
    monkeypatch.setattr(http_protocol, "CLIENT_TIMEOUT", deadline)
    stop = asyncio.Event()
    urls: asyncio.Queue[str] = asyncio.Queue()
    async with (
        TaskQ(f"sqlite:///{tmp_path / 'head.db'}") as tq,
        asyncio.timeout(watchdog()),
        asyncio.TaskGroup() as group,
    ):
        group.create_task(serve_until(stop, tq, port=0, started=urls.put_nowait))
        port = int((await urls.get()).rpartition(":")[2])

        async def rest(*parts: bytes, pause: float = 0.0) -> bytes:
            """What the server says until it closes the connection, when it is sent these parts."""
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionError):
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(pause)
            try:
                return await reader.read()
            except ConnectionError:
                return b""
            finally:
                writer.close()

        whole = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
        assert await rest() == b""
        assert await rest(HALF) == b""
        assert await rest(*[HALF, *[b"x"] * 400], pause=deadline / 20) == b""  # a byte now and then is no progress
        assert (await rest(whole + HALF)).startswith(b"HTTP/1.1 200")  # nor is the second half of a second request
        assert (await rest(whole)).startswith(b"HTTP/1.1 200")
        body = (
            b"POST /tasks HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 31\r\n\r\n"
        )
        slow = [body, *[bytes([each]) for each in b'{"type": "x", "params": {}    }']]
        assert (await rest(*slow, pause=deadline / 10)).startswith(b"HTTP/1.1 201")  # a body has a deadline of its own
        stop.set()


def test_one_queue_in_two_loops_is_refused_and_never_hangs(tmp_path: Path) -> None:  # E12
    tq = TaskQ(f"sqlite:///{tmp_path / 'loops.db'}")
    app = FastAPI(lifespan=tq.lifespan)
    app.include_router(router(tq))

    async def ask(method: str, path: str, **options: Any) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.request(method, path, **options)

    for number in range(2):  # a loop in a thread for each test, as test clients have it, one after the other
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(app.router.lifespan_context(app)):
            push = {"type": "x", "params": {}, "delay": 60, "task_id": str(number)}
            assert portal.call(partial(ask, "POST", "/tasks", json=push)).status_code == 201
            assert app.state.aiotaskq is tq
            with pytest.raises(WrongLoop, match="open in another event loop"):
                asyncio.run(tq.push("x", {}))
            answer = asyncio.run(ask("GET", "/tasks"))
            assert (answer.status_code, answer.json()["code"]) == (503, "WrongLoop")
            assert len(portal.call(ask, "GET", "/tasks").json()["tasks"]) == number + 1
    answer = asyncio.run(ask("GET", "/tasks"))  # without the lifespan the queue is closed, and that is said
    assert (answer.status_code, answer.json()["code"]) == (503, "ClosedError")
