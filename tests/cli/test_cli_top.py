"""``aiotaskq top``: what it draws at two sizes in both languages, what its keys do, and all of it in a process."""

from __future__ import annotations

import asyncio
import termios
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli import top
from aiotaskq.cli.i18n import width
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.alerts import ALERTS
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.operations.queues import StatsView
from tests.cli.screen_rows import HOUR, QUEUES, fill
from tests.support.command import Cli, Terminal, prepared

SIZES = pytest.mark.parametrize(("columns", "rows"), [(80, 24), (160, 50), (60, 10), (20, 3)])
NOW = 1_800_000_000 * SECOND


@pytest.fixture
def page(cli: Cli) -> top.Page:
    """What is read of a store with everything: two reads, ten tasks ended and one was pushed in the 2 s between."""
    cli.monkeypatch.setattr(SystemClock, "now", lambda _clock: NOW)
    cli.monkeypatch.setattr(SystemClock, "ticks", lambda _clock: 2 * SECOND * len(seen))
    seen: deque[tuple[int, StatsView]] = deque()
    prepared(cli.home / "app.db")

    async def read() -> top.Snapshot:
        await fill(cli.url, NOW)
        async with TaskQ(cli.url) as tq:
            await tq.limits.set("tenant:42", cap=5)
            await tq.limits.set("很长的限制名称", cap=2)
            await tq.limits.pause("tenant:42", 600)
            alerts = {
                "dead_letters": [NOW - 90 * SECOND, "tasks that have failed for good: 12"],
                "no_worker": [NOW - HOUR, "no worker claims the ready tasks of: mail"],
            }
            await tq.values.set_public(ALERTS, alerts)
            await top.look(tq, seen)
            ended: Any = {"status": Status.COMPLETED, "completed_at": 9}
            await tq.queue.backend.push([Task(task_id=f"new-{n}", type="t", seq=n, **ended) for n in range(10)])
            await tq.push("mail")
            return await top.look(tq, seen)

    return top.Page("sqlite:///app.db", asyncio.run(read()))


def text(page: top.Page, columns: int, rows: int) -> list[str]:
    return ["".join(piece for piece, _ in line) for line in top.drawn(page, columns, rows)]


@SIZES
@pytest.mark.parametrize("language", ["C", "zh_CN.UTF-8"])
def test_the_page_fills_the_terminal(cli: Cli, page: top.Page, columns: int, rows: int, language: str) -> None:
    cli.monkeypatch.setenv("LANG", language)
    for panel in range(len(top.PANELS)):
        for help in (False, True):
            lines = text(msgspec.structs.replace(page, panel=panel, help=help), columns, rows)
            assert list(map(width, lines)) == [columns] * rows, panel


def test_what_is_on_the_page(cli: Cli, page: top.Page) -> None:
    small, large = ("\n".join(text(page, *size)) for size in ((80, 24), (160, 50)))
    for said in (
        "aiotaskq top  sqlite:///app.db ",
        "3 ready to run, the oldest for",
        "7 run in 0 slots of 0 workers, 1 needed, 6 pushed and 5 ended per second",
        "alert for 1m 30s: tasks that have failed for good: 12",
        "alert for 1h: no worker claims the ready tasks of: mail",
        *("QUEUES 3", "TASKS 15", "FAILED 7", "LIMITS 2", "WORKERS 1"),
        *("37/100", "ConnectionError: the mail ", "paused for 10m", "over for 44s", "p pause or resume"),
    ):
        assert said in small, said
        assert said in large, said
    assert small.index("9h 25m") < small.index("7h 53m"), "of running tasks the oldest is the first"
    assert QUEUES[1] in large and "tenant:42" in large and "render-host-17.eu" in large
    assert next(line for line in large.splitlines() if line.startswith("default  ")).split()[-2:] == ["5.5", "5.0"]
    cli.monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    small = "\n".join(text(page, 80, 24))
    for said in ("队列 3", "工作进程 1 ", "每秒推送 6、结束 5", "告警已持续1小时：没有工作进程领取", "q 退出"):
        assert said in small, said


def test_the_chosen_panel_gets_room_and_the_chosen_row_is_seen(page: top.Page) -> None:
    def failures() -> int:
        return sum(" ValueError" in line or " ConnectionError" in line for line in text(page, 80, 24))

    assert failures() == 2
    for _ in range(2):
        assert top.press(page, "\t") is None
    assert failures() == 6
    for _ in range(6):
        top.press(page, "\x1b[B")
    (chosen,) = [line for line in top.drawn(page, 80, 24) if line[0][1] == "reverse"]
    assert chosen[0][0].startswith(page.snapshot.failed[6].task_id[:8])


def test_keys(page: top.Page) -> None:
    assert top.press(page, "c") is None and page.question is None, "a queue cannot be cancelled"
    assert top.press(page, "p") == ("queues.resume", QUEUES[1])
    assert top.press(page, "j") is None and top.press(page, "p") == ("queues.pause", "default")
    top.press(page, "\t")
    first, second, *_ = [task.task_id for task in page.snapshot.tasks]
    assert top.press(page, "j") is None and top.press(page, "c") is None
    assert text(page, 80, 24)[-1].startswith(f"cancel task {second}? y/n")
    page.snapshot.tasks.insert(0, page.snapshot.tasks.pop())  # the row has moved
    assert top.press(page, "n") is None and text(page, 80, 24)[-1].startswith("nothing was done")
    assert top.press(page, "c") is None and top.press(page, "y") == ("tasks.cancel", second)
    top.press(page, "k")
    assert top.press(page, "c") is None and top.press(page, "Y") == ("tasks.cancel", first)
    assert top.press(page, "\t") is None and top.press(page, "r") == ("tasks.retry", page.snapshot.failed[0].task_id)
    assert top.press(page, "?") is None and page.help
    assert top.press(page, "r") is None and not page.help, "a key that closes the help does nothing else"
    top.press(page, "\t")
    assert top.press(page, "p") == ("limits.resume", "tenant:42")
    assert top.press(page, "\x1b[6~") is None and top.press(page, "p") == ("limits.pause", "很长的限制名称")
    page.snapshot.limits.pop()  # what was chosen is gone
    assert top.press(page, "p") == ("limits.resume", "tenant:42")
    top.press(page, "\t")
    assert top.press(page, "\t") is None and page.panel == 0
    assert top.press(page, "\x1b[Z") is None and page.panel == 4


def test_read_only(page: top.Page) -> None:
    page.read_only = True
    for key in ("p", "\t", "c", "\t", "r", "\t", "p"):
        assert top.press(page, key) is None and page.question is None
        said = text(page, 80, 24)[-1]
        assert said.startswith("nothing is changed here: --read-only") is (key != "\t")
        assert not any(word in said for word in ("pause", "cancel", "retry"))


def test_it_needs_a_terminal(cli: Cli) -> None:
    prepared(cli.home / "app.db")
    assert "top needs a terminal; stats --watch also writes into a pipe" in cli.fails("top", "--db", cli.url, code=2)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for each in opened:
        each.close()


def test_it_changes_what_keys_choose_and_restores_the_terminal(cli: Cli, terminals: list[Terminal]) -> None:
    prepared(cli.home / "app.db")
    cli.store(
        Task(task_id="waits", type="mail"),
        *(Task(task_id=f"broke-{n}", type="mail", seq=n, status=Status.FAILED, completed_at=9) for n in range(2)),
    )
    screen = Terminal(cli, "top", "--db", cli.url)
    terminals.append(screen)
    screen.wait_for("TASKS 1")
    screen.type("p")
    screen.wait_for("done: queues.pause default")
    screen.type("\tc")
    screen.wait_for("cancel task waits? y/n")
    screen.type("y")
    screen.wait_for("done: tasks.cancel waits")
    screen.type("\t\x1bOBr")  # the older one
    screen.wait_for("done: tasks.retry broke-0")
    screen.type("?")
    screen.wait_for("Any key closes this.")
    assert not termios.tcgetattr(screen.fd)[3] & termios.ECHO
    screen.type("xq")
    assert screen.end() == 0
    assert termios.tcgetattr(screen.fd)[3] & termios.ECHO
    assert screen.drawn.rindex("\x1b[?1049l") > screen.drawn.rindex("\x1b[?1049h"), "the other screen is left"
    assert "Traceback" not in screen.drawn
    changes = cli.json("audit", "--db", cli.url)["entries"]
    made = [(each["action"], each["door"], each["targets"]) for each in reversed(changes)]
    assert made == [
        ("queues.pause", "cli", ["default"]),
        ("tasks.cancel", "cli", ["waits"]),
        ("tasks.retry", "cli", ["broke-0"]),
    ]


def test_it_ends_with_its_terminal_or_by_a_signal(cli: Cli, terminals: list[Terminal]) -> None:
    prepared(cli.home / "app.db")
    for end, code in ((Terminal.press_ctrl_c, 130), (lambda screen: screen.process.terminate(), 0)):
        screen = Terminal(cli, "top", "--db", cli.url, "--read-only")
        terminals.append(screen)
        screen.wait_for("WORKERS 0")
        end(screen)
        assert screen.end() == code
        assert termios.tcgetattr(screen.fd)[3] & termios.ECHO and "Traceback" not in screen.drawn


async def test_errors_are_said_on_the_page(cli: Cli, page: top.Page) -> None:
    async with TaskQ(cli.url) as tq:
        said = await top._do(tq, "tasks.retry", "nobody")
    assert said == "error: there is no task nobody"
    page.error = top._error(DatabaseUnavailable("postgresql://me:secret@host: gone"))
    assert text(page, 80, 24)[-1].startswith("error: postgresql://me:***@host: gone")
