"""Adopted cron rows: each keeps the times that croniter alone gives, or is disabled and named."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from croniter import CroniterBadDateError, CroniterError, croniter

from aiotaskq.backends.sql.migrations.adopt_cron import rewritten
from aiotaskq.core.cron import Cron
from aiotaskq.core.cron_parser import Refused
from aiotaskq.core.firing import fire
from aiotaskq.core.schedule import Schedule
from aiotaskq.log import output
from tests.backends.sql.migrations.legacy import (
    NOW,
    NOW_S,
    check,
    child,
    contents,
    found,
    legacy,
    put,
    raw,
    row,
    upgrade,
)
from tests.support.cron import BOUNDS, DAYS, MONTHS, random_field
from tests.support.logs import logged
from tests.support.machine import within

S = 1_000_000
COUNT = 50
START = NOW_S + 7

# What people wrote, and what is in the row afterwards; None is the same text.
KEPT: dict[str, str | None] = {
    "0 2 * * *": None,
    "* * * * *": None,
    "*/5 * * * *": None,
    "*/1 * * * *": None,
    "5/10 * * * *": None,
    "0,15,30,45 * * * *": None,
    "*/10 9-17 * * 1-5": None,
    "0 9 * * mon-fri": None,
    "0 9 * * MON,Wed,fri": None,
    "0 9 15W * *": None,
    "0 9 w31 2 ?": "0 9 w31 2 *",
    "0 9 1w * * 30": "30 0 9 1w * *",
    "0 0 1 jan *": None,
    "0 0 1 JAN-MAR *": None,
    "0 0 * * 7": None,
    "0 0 * * 5-7": None,
    "0 0 * * 0-7": None,
    "0 0 * * sun-sat": None,
    "0 0 13 * 5": None,  # either
    "0 0 */2 * 5": None,
    "0 0 1-31 * *": None,
    "0 0 29 2 *": None,
    "0 0 L * *": None,
    "0 0 15,L * *": None,
    "0 0 * * L5": None,
    "0 0 * * mon#1": None,
    "0 0 * * 1#1,3#3": None,
    "@hourly": None,
    "@daily": None,
    "@midnight": None,
    "@weekly": None,
    "@monthly": None,
    "@yearly": None,
    "@Annually": None,
    "0 9 * * mon-sun": "0 9 * * *",  # ranges that wrap around
    "0 0 * * fri-sun": "0 0 * * 0,5-6",
    "0 0 * * sat-sun": "0 0 * * 0,6",
    "0 0 * * fri-mon": "0 0 * * 0-1,5-6",
    "0 0 1 nov-mar *": "0 0 1 1-3,11-12 *",
    "0 0 * oct-jan/2 mon": "0 0 * 10,12 mon",
    "0 22-6 * * *": "0 0-6,22-23 * * *",
    "50-10/5 * * * *": "0-10/5,50,55 * * * *",
    "0 0 25-5 * *": "0 0 1-5,25-31 * *",
    "0 0 ? * *": "0 0 * * *",
    "0 0 1 * ?": "0 0 1 * *",
    "0 0 ? * mon-sun,1": "0 0 * * 0-6,1",
    "3-3 * * * *": "* * * * *",  # one value, which croniter reads as all of them
    "0 0 * * 7-7": "0 0 * * *",
    "59/15 * * * *": "59 * * * *",
    "*/90 * * * *": "0 * * * *",
    "*,5 * * * *": "* * * * *",
    "0 0 5-L * *": "0 0 5-31 * *",
    "0 0 * * mon-wed#2": "0 0 * * 1#2,2#2,3#2",
    "0 0 8 * mon#2": "0 0 * * 1#2",  # croniter looks at the date in vain
    "0 0 * * 0-6,1#2": "0 0 * * 1#2",
    "0 0 1-31 * 5": "0 0 * * *",
    "0 0 */1 * */2": "0 0 * * */2",
    "0 0 * * * 30": "30 0 0 * * *",  # seconds last
    "*/5 * * * * */15": "*/15 */5 * * * *",
    "0 12 * * mon-fri 0": "0 0 12 * * mon-fri",
    "30 9 ? * fri-mon 5-5": "* 30 9 * * 0-1,5-6",
    "0 6 1 1 * 0 *": "0 0 6 1 1 *",  # any year
    "0\t6  1 * *": "0 6 1 * *",
}
LOST = {
    "61 * * * *": "minute 61 is not in 0-59",
    "0 0 0 1 * 5": "day of month 0 is not in 1-31",
    "": "0 fields",
    "@reboot": "'@reboot' is unknown",
    "0 0 31 2 *": "day of month 31 never occurs in month 2",
    "0 0 30 2 * 5": "day of month 30 never occurs in month 2",
    "0 0 1 * mon#2": "croniter finds no date: day of month 1 is never day of week mon#2",
    "0 0 15W * 1": "day of week 1 cannot be kept beside day of month 15W",
    "0 0 1W,15 * *": "W (nearest weekday) is beside one date",
    "0 0 1 1 * 0 2030": "year 2030 cannot be kept",
    "R * * * *": "croniter draws it anew at each start",
    "H * * * *": "nothing is chosen at random",
    "0 0 15 * *,mon#1": "to match together, which cannot be written",
    "0 0 * * 1,5#2": "mixes 1 with a weekday's n-th",
    ",".join(map(str, range(60))) + " * * * *": "more than 100",
}


def by_croniter(expression: str, start: int, count: int = COUNT) -> list[int]:
    """What the older system did: croniter alone, with its default settings."""
    walk = croniter(expression, start)
    return [int(walk.get_next()) for _ in range(count)]


def by_us(expression: str, start: int, count: int = COUNT) -> list[int]:
    cron, at, dues = Cron.parse(expression, "UTC"), start * S, []
    for _ in range(count):
        at = cron.next_after(at)
        dues.append(at // S)
    return dues


def put_table(path: Path) -> dict[str, str]:
    """Write all expressions to the documented tables; return them by id."""
    ids = {f"c{number}": text for number, text in enumerate([*KEPT, *LOST])}
    for task_id, text in ids.items():
        put(path, "scheduler_task", task_id, name=f"name of {task_id}", schedule_type="cron", cron_expression=text)
    return ids


def schedules(path: Path) -> list[Any]:
    with raw(path) as connection:
        query = "SELECT task_id, cron_expression, enabled, next_run_at, version, timezone FROM scheduler_task"
        return connection.execute(f"{query} ORDER BY task_id").fetchall()


@pytest.fixture
def log() -> Iterator[list[str]]:
    with logged("ERROR", "{level} {message}") as lines:
        yield lines


def test_adopted_expressions_go_on_as_croniter_read_them(path: Path, engine: sa.Engine) -> None:
    legacy(path)
    ids = put_table(path)
    upgrade(engine)
    assert len(KEPT) >= 50
    for task_id, text in ids.items():
        after = row(path, "scheduler_task", task_id)
        if text in LOST:
            assert (after["enabled"], after["cron_expression"]) == (0, text)
            continue
        assert (after["enabled"], after["cron_expression"]) == (1, KEPT[text] or text)
        assert after["next_run_at"] == NOW_S + 10  # as the older system planned it
        assert by_us(after["cron_expression"], START) == by_croniter(text, START), text


def test_a_disabled_schedule_is_logged_once_at_error(
    path: Path, engine: sa.Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    output(None)
    legacy(path)
    ids = put_table(path)
    put(path, "scheduler_task", "off", schedule_type="cron", cron_expression="61 * * * *", enabled=0)
    odd = upgrade(engine)
    said = capfd.readouterr().err.splitlines()
    lost = {task_id: text for task_id, text in ids.items() if text in LOST}
    assert len(said) == len(lost)  # and nothing of what was disabled before
    for line, (task_id, text) in zip(said, lost.items(), strict=True):
        assert line.startswith(f"ERROR aiotaskq: schedule 'name of {task_id}' (id '{task_id}') is disabled: its cron_")
        assert LOST[text] in line and "update_task" in line
        assert LOST[text] in found(odd, task_id)["cron_expression"][0]
    assert upgrade(engine) == []
    assert capfd.readouterr().err == ""


def test_an_application_that_has_asked_for_the_log_gets_the_error_there(
    path: Path, engine: sa.Engine, capfd: pytest.CaptureFixture[str], log: list[str]
) -> None:
    legacy(path)
    put(path, "scheduler_task", "c", name="nightly\n", schedule_type="cron", cron_expression="0 0 15W * 1")
    upgrade(engine)
    assert len(log) == 1 and log[0].startswith("ERROR schedule 'nightly\\n' (id 'c') is disabled: its cron_expr")
    assert "ERROR aiotaskq" not in capfd.readouterr().err


def test_a_thousand_are_named_and_the_others_counted(
    path: Path, engine: sa.Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    output(None)
    legacy(path)
    with raw(path) as connection:
        columns = "task_id, name, task_type, schedule_type, cron_expression, created_at, updated_at"
        connection.executemany(
            f"INSERT INTO scheduler_task ({columns}) VALUES (?, 'n', 't', 'cron', '0 0 15W * 1', 1, 1)",
            [(f"s{number}",) for number in range(1_003)],
        )
    upgrade(engine)
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1_001 and said[-1].startswith("ERROR aiotaskq: 3 more schedules are disabled")


def test_the_check_predicts_the_adoption_and_later_reads_our_own_order(path: Path, engine: sa.Engine) -> None:
    legacy(path)
    put(path, "scheduler_task", "c", schedule_type="cron", cron_expression="0 12 * * mon-fri 0")
    before = contents(path)
    problem, action = found(check(engine), "c")["cron_expression"]
    assert problem == "is '0 12 * * mon-fri 0'"
    assert "adoption does this: set to '0 0 12 * * mon-fri'" in action
    assert contents(path) == before
    upgrade(engine)
    assert check(engine) == []
    put(path, "scheduler_task", "new", schedule_type="cron", cron_expression="0 0 12 * * mon-fri")
    assert check(engine) == []


def test_adoption_can_be_repeated(path: Path, engine: sa.Engine) -> None:
    legacy(path)
    put_table(path)
    upgrade(engine)
    expected = schedules(path)
    with raw(path) as connection:  # as if the process had died before the last step
        connection.execute("UPDATE aiotaskq_version SET version_num = '0001_documented'")
    upgrade(engine)
    assert schedules(path) == expected


def test_a_row_of_our_own_is_not_read_as_croniters(path: Path, engine: sa.Engine) -> None:
    upgrade(engine)
    ours = {"schedule_type": "cron", "cron_expression": "30 0 12 * * mon-fri"}
    put(path, "scheduler_task", "zone", timezone="UTC", **ours)
    put(path, "scheduler_task", "written", version=1, **ours)
    before = schedules(path)
    with raw(path) as connection:
        connection.execute("DELETE FROM aiotaskq_version")
    assert upgrade(engine) == []
    assert schedules(path) == before


def test_kill_in_the_middle(path: Path, engine: sa.Engine) -> None:
    legacy(path)
    put_table(path)
    original = contents(path)
    code = (
        "import os, signal\n"
        "@sa.event.listens_for(engine, 'after_cursor_execute')\n"
        "def kill(connection, cursor, statement, *args):\n"
        "    if statement.startswith('UPDATE scheduler_task'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "upgrade()\n"
    )
    process = child(path, code)
    process.communicate(timeout=within(50))
    assert process.returncode == -signal.SIGKILL
    assert contents(path) == original
    upgrade(engine)
    rows = {task_id: expression for task_id, expression, *_ in schedules(path)}
    assert list(rows.values()).count("30 0 0 * * *") == 1


def test_overdue_rows_do_not_flood(path: Path, engine: sa.Engine) -> None:
    legacy(path)
    texts = ["* * * * * *", "3-3 * * * *", "0 0 * * mon-sun", "*/5 * ? * * */15"]
    for number, text in enumerate(texts * 10):
        put(path, "scheduler_task", f"s{number}", schedule_type="cron", cron_expression=text,
            next_run_at=NOW_S - 86_400 * 400)  # fmt: skip
    upgrade(engine)
    for task_id, expression, enabled, next_run_at, _, _ in schedules(path):
        schedule = Schedule(
            task_id=task_id, name="n", task_type="t", schedule_type="cron", cron_expression=expression, timezone="UTC",
            created_at=1, updated_at=1, next_run_at=next_run_at,
        )  # fmt: skip
        firing = fire(schedule, NOW)
        assert enabled and len(firing.tasks) == 1
        assert (firing.schedule.next_run_at or 0) > NOW_S


# ---- random expressions that croniter accepts -----------------------------------------------------------------------


def random_part(rng: random.Random, index: int) -> str:
    """An element of a list as croniter has it: any two values make a range."""
    low, high = BOUNDS[index]
    names = {4: ["", *MONTHS], 5: [*DAYS, "sun"]}.get(index)

    def word() -> str:
        number = rng.randint(low, high)
        return str(number) if names is None or rng.random() < 0.5 else names[number]

    kinds = [word()] * 4 + [f"{word()}-{word()}"] * 4 + [f"{word()}-{word()}/{rng.randint(1, high)}"] * 3
    kinds += [f"*/{rng.randint(1, high * 2)}", f"{word()}/{rng.randint(1, high)}", "*"]
    if index == 3:
        kinds += ["L", "15W", f"{word()}-L"]
    if index == 5:
        kinds += [f"{word()}#{rng.randint(1, 5)}"] * 2 + [f"L{rng.randint(0, 7)}", "mon-wed#2"]
    return rng.choice(kinds)


def random_of_croniter(rng: random.Random) -> str:
    def field(index: int) -> str:
        draw = rng.random()
        if draw < 0.35:
            return "*"
        if index in (3, 5) and draw < 0.45:
            return "?"
        if draw < 0.5:
            return random_field(rng, index)
        return ",".join(random_part(rng, index) for _ in range(rng.choice((1, 1, 1, 2, 3))))

    indexes = [1, 2, 3, 4, 5] + [0] * (rng.random() < 0.3)
    return " ".join(field(index) for index in indexes) + " *" * (len(indexes) == 6 and rng.random() < 0.1)


def agree(expression: str, start: int) -> str:
    """Compare an expression; return what became of it."""
    try:
        walk = croniter(expression, start)
    except CroniterError:
        with pytest.raises(Refused):
            rewritten(expression)
        return "invalid"
    try:
        kept = rewritten(expression)
    except Refused as refused:
        reason = str(refused)
    else:
        assert by_us(kept, start) == by_croniter(expression, start), (expression, kept, start)
        return "kept" if kept == expression else "rewritten"
    if "finds no date" in reason or "never occurs" in reason:
        with pytest.raises(CroniterBadDateError):
            walk.get_next()
        return "never"
    written = ("is random", "to match together", "cannot be kept", "more than 100")
    assert any(words in reason for words in written), (expression, reason)
    return "disabled"


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.timeout(1_800)])])
def test_random_expressions_go_on_as_croniter_read_them(count: int) -> None:
    rng, outcomes = random.Random(count), list[str]()
    while len(outcomes) < count:
        expression = random_of_croniter(rng)
        if len(expression) <= 100:
            outcomes.append(agree(expression, rng.randrange(631_152_000, 2_840_140_800)))  # 1990 to 2060
    assert outcomes.count("kept") + outcomes.count("rewritten") > count * 0.8
    assert outcomes.count("disabled") < count * 0.05
