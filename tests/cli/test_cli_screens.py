"""The exact output of the command line: tables, JSON, and Chinese."""

from __future__ import annotations

import asyncio
import json
import re
import textwrap
from typing import Any

from aiotaskq.app.taskq import TaskQ
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.schedule import new_schedule
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from tests.support.command import Cli, prepared

DAY = 86_400
SECRET = "sw0rdfish"


def task(number: int, **fields: Any) -> Task:
    at = SystemClock().now() // SECOND - 3 * DAY
    given = {"type": "mail", "created_at": at, "run_at": 1_000, "seq": number, **fields}
    return Task(task_id=f"task-{number}", **given)


def fill(cli: Cli) -> None:
    """Five tasks, two schedules, a paused queue and two values, always the same."""
    failed = "ValueError: cannot reach postgresql://me:sw0rdfish@host/db\nmore\x1b[2J"
    tasks = [
        task(1, params={"to": SECRET, "n": 1}, extra={"own": SECRET}),
        task(2, status=Status.COMPLETED, started_at=5, completed_at=6, result={"sent": SECRET}, queue="slow"),
        task(3, status=Status.FAILED, completed_at=7, retry_count=3, error_message=failed),
        task(4, status=Status.FAILED, completed_at=8, type="audio", error_message="TypeError: no"),
        task(5, run_at=SystemClock().now() + (DAY + 3_600 + 1_800) * SECOND, type="发信"),
    ]
    now = 4_000_000_000 * SECOND
    schedules = [
        new_schedule("nightly", "report", "cron", {"key": SECRET}, None, "0 2 * * *", timezone="Asia/Shanghai",
                     task_id="schedule-1", now=now),
        new_schedule("often", "mail", "interval", None, 90, max_runs=3, task_id="schedule-2", now=now + SECOND),
    ]  # fmt: skip

    async def main() -> None:
        async with TaskQ(cli.url) as tq:
            await tq.queue.backend.push(tasks)
            await tq._scheduler.add(schedules)
            await tq.schedules.pause("schedule-2")
            await tq.pause("slow")
            await tq.values.set_public("greeting", {"text": "你好"})
            await tq.values.set_public("none", None)

    prepared(cli.home / "app.db")
    asyncio.run(main())


def text(shown: str) -> str:
    return textwrap.dedent(shown).lstrip("\n")


SCREENS = {
    ("tasks", "list"): """
        TASK_ID  TYPE   STATUS     ATTEMPT  AGE  DUE       RUN  QUEUE    ERROR
        task-5   发信   pending    0/4      3d   in 1d 1h       default
        task-4   audio  failed     0/4      3d                  default  TypeError: no
        task-3   mail   failed     3/4      3d                  default  ValueError: cannot reach postgresql://me:***@host/db
        task-2   mail   completed  1/4      3d             1s   slow
        task-1   mail   pending    0/4      3d   now            default
        """,
    ("tasks", "list", "--type", "mail", "--status", "pending", "--limit", "1"): """
        TASK_ID  TYPE  STATUS   ATTEMPT  AGE  DUE
        task-1   mail  pending  0/4      3d   now
        """,
    ("tasks", "list", "--queue", "nobody"): "no tasks\n",
    ("stats",): """
        QUEUE       STATE   PENDING  RUNNING  COMPLETED  FAILED  CANCELLED  EXPIRED
        default                   2        0          0       2          0        0
        slow        paused        0        0          1       0          0        0
        all queues                2        0          1       2          0        0
        """,
    ("queues", "list"): """
        QUEUE    STATE   PENDING  RUNNING
        default  open          2        0
        slow     paused        0        0
        """,
    ("schedules", "list", "--utc"): """
        SCHEDULE_ID  NAME     TYPE    WHEN                     NEXT                  RUNS  STATE
        schedule-1   nightly  report  0 2 * * * Asia/Shanghai  2096-10-02 18:00:00Z  0     active
        schedule-2   often    mail    every 1m 30s             2096-10-02 07:08:11Z  0/3   paused
        """,
    ("schedules", "preview", "--cron", "0 2 * * *", "--timezone", "Asia/Shanghai", "--after", "2026-01-01"): """
        Thu 2026-01-01 02:00:00+08:00
        Fri 2026-01-02 02:00:00+08:00
        Sat 2026-01-03 02:00:00+08:00
        Sun 2026-01-04 02:00:00+08:00
        Mon 2026-01-05 02:00:00+08:00
        """,
    ("values", "list"): "greeting\nnone\n",
    ("values", "get", "none"): "null\n",
    ("values", "get", "greeting"): '{\n  "text": "你好"\n}\n',
}


def test_outputs_as_text(cli: Cli) -> None:
    fill(cli)
    for command, shown in SCREENS.items():
        given = () if command[:2] == ("schedules", "preview") else ("--db", cli.url)
        out = cli.out(*command, *given)
        if command == ("stats",):
            out, _, age = out.rpartition("1 ready to run, the oldest for ")
            assert re.fullmatch(r"\d+d( \d+h)?\n", age)
        assert out == text(shown), command


def test_a_task_is_shown_without_its_params(cli: Cli) -> None:  # J8, J12
    fill(cli)
    shown = cli.out("tasks", "get", "task-3", "--db", cli.url)
    lines = [line.split(maxsplit=1) for line in shown.splitlines()]
    assert ["error", "ValueError: cannot reach postgresql://me:***@host/db"] in lines
    assert lines[lines.index(["error", "ValueError: cannot reach postgresql://me:***@host/db"]) + 1] == ["more\\x1b[2J"]
    assert "\x1b" not in shown
    shown = cli.out("tasks", "get", "task-1", "--db", cli.url)
    assert "params             hidden; tasks get --params shows them\n" in shown
    assert f'params             {{"to": "{SECRET}", "n": 1}}' in cli.out(
        "tasks", "get", "task-1", "--params", "--db", cli.url
    )


JSON = [
    ("tasks", "list"),
    *(("tasks", "get", f"task-{number}") for number in range(1, 6)),
    ("stats",),
    ("queues", "list"),
    ("schedules", "list"),
    ("values", "list"),
    ("db", "check"),
    ("check", "--late", "1e10"),
    ("doctor",),
    ("stats", "--watch", "--count", "1"),
]


def test_reading_commands_have_json_and_show_no_secrets(cli: Cli) -> None:  # J8, J9
    fill(cli)
    cli.monkeypatch.setenv("AIOTASKQ_WEB_TOKEN", SECRET)
    cli.monkeypatch.setenv("AIOTASKQ_SCHEDULES_URL_OLD", f"mysql://me:{SECRET}@host/db")
    for command in JSON:
        for form in ((), ("--json",)):
            out = cli.out(*command, "--db", cli.url, *form)
            assert SECRET not in out, command
            if form:
                json.loads(out)
    row = cli.json("tasks", "list", "--db", cli.url)["tasks"][0]
    assert {"task_id", "type", "status", "run_at", "fence"} <= row.keys()
    first, second = cli.json("schedules", "list", "--db", cli.url)["schedules"]
    assert (first["next_run_at"], first["enabled"], second["enabled"]) == ("2096-10-02T18:00:00Z", True, False)
    assert "params" not in first
    assert cli.json("schedules", "list", "--params", "--db", cli.url)["schedules"][0]["params"] == {"key": SECRET}
    assert cli.json("values", "get", "greeting", "--db", cli.url) == {
        "key": "greeting",
        "value": {"text": "你好"},
        "ttl": None,
    }
    every = ("schedules", "preview", "--cron", "0 2 * * *")
    assert cli.json(*every) == cli.json(*every)


def test_outputs_in_chinese(cli: Cli) -> None:
    fill(cli)
    cli.monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert cli.out("queues", "list", "--db", cli.url) == text(
        """
        队列     状态  等待  运行
        default  开放     2     0
        slow     暂停     0     0
        """
    )
    assert cli.fails("values", "get", "nothing", "--db", cli.url) == "错误：没有键 nothing\n"
    cli.monkeypatch.setenv("LC_ALL", "C")  # which wins
    assert cli.fails("values", "get", "nothing", "--db", cli.url) == "error: there is no value nothing\n"


def test_help_in_chinese_fits_the_terminal(cli: Cli) -> None:
    code, out, err = cli.process("db", "copy", "--help", LC_MESSAGES="zh_CN.UTF-8", COLUMNS="80")
    assert (code, err) == (0, "")
    assert out == text(
        """
        用法：python -m aiotaskq db copy [OPTIONS] {FROM} {TO}

          把任务、组、限制、定时计划和暂停的队列复制到另一个存储。中断后再运行就继续复
          制；可以重复执行。FROM 不变；请先停掉它的工作进程。公共键值不复制。

        参数：
          FROM  来源存储的 URL。  [必需]
          TO    目标存储的 URL。  [必需]

        选项：
          --running-as-pending  运行中的任务也复制，变为等待：它们会再次执行。不加时，只
                                要还有运行中的任务，就拒绝复制。
          --app MODULE:TQ       应用的 TaskQ，如 app:tq 指 app.py 里的 tq。  [环境变量：
                                AIOTASKQ_APP]
          --json                标准输出只打印 JSON。
          --help                显示本帮助。
        """
    )
    code, out, _ = cli.process("--help", LANG="zh_CN.UTF-8")
    assert code == 0 and "命令：" in out and "演示" in out


def test_wrong_usage_in_chinese(cli: Cli) -> None:
    cli.monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert cli.fails("run", code=2).startswith("错误：缺少 MODULE:TQ\n详见 aiotaskq run --help")
    assert "没有选项 --porx" in cli.fails("run", "app:tq", "--porx", code=2)
    assert "--port 的值不对" in cli.fails("run", "app:tq", "--port", "x", code=2)
    assert cli.fails("nonsense", code=2).startswith("错误：没有命令 nonsense\n")
    assert cli.fails("tasks", "lst", code=2).startswith("错误：没有命令 lst；是不是 list？\n")
    for words, says in [
        (["push", "a", "{}", "--delay", "-1"], "--delay 的值不对：不能小于 0"),
        (["push", "a", "{}", "--delay", "soon"], "--delay 的值不对：应为数字"),
        (["tasks", "list", "--limit", "x"], "--limit 的值不对：应为整数"),
        (["limits", "list", "--limit", "999999999"], "--limit 的值不对：不能大于 10000"),
        (["tasks", "list", "--limit"], "选项 --limit 需要一个值"),
        (["demo", "/no/where"], "FOLDER 的值不对：文件夹 /no/where 不存在"),
        (["web", "app:tq"], "多余的参数 app:tq"),
    ]:
        assert cli.fails(*words, code=2).startswith(f"错误：{says}\n")
