"""Checks rows that other software wrote into the documented tables, and repairs values with one certain meaning.

No row is dropped. ``judge_task`` and ``judge_schedule`` are pure: they note what is invalid in a row and what to write.
Rows are read in pages, as raw values: SQLite stores text in a column of numbers, and bytes that are no
text; neither stops an adoption. Every repair can be repeated: a repaired value is valid.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, text

from aiotaskq.backends.base import InvalidRow
from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.names import Tables
from aiotaskq.core.coded import is_coded
from aiotaskq.core.cron_parser import Refused, clip_text
from aiotaskq.core.errors import INT32
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Attempt
from aiotaskq.errors import CronError, ValidationError
from aiotaskq.log import ERROR, log, printable

LIMIT: Final = 1_000  # findings in one report; the rest are counted
LOGGED: Final = 20  # findings with a log line
PAGE: Final = 1_000
LATEST: Final = 100_000_000_000  # seconds, the year 5138; a larger number is an epoch in a smaller unit
ADOPTED: Final = "adopted"  # owner of running tasks without a lease

TASK_COLUMNS: Final = (
    "task_id", "task_type", "params", "status", "priority", "retry_count", "max_retries", "created_at", "started_at",
    "completed_at", "error_message", "scheduler_task_id", "lease_owner", "attempts",
)  # fmt: skip
SCHEDULE_COLUMNS: Final = (
    "task_id", "name", "task_type", "params", "schedule_type", "interval_seconds", "cron_expression", "execute_at",
    "last_run_at", "next_run_at", "run_count", "max_runs", "enabled", "created_at", "updated_at", "description",
    "timezone", "version",
)  # fmt: skip

_attempts = msgspec.json.Decoder(tuple[Attempt, ...]).decode
_REFUSED: Final = "its {} cannot be read; it will be failed as undecodable when claimed, with the text kept"
_DAY: Final = 86_400
_STATUSES: Final = frozenset(str(status) for status in Status)
_UNITS: Final = (
    (LATEST * 1_000_000, 1_000_000_000, "nano"),
    (LATEST * 1_000, 1_000_000, "micro"),
    (LATEST, 1_000, "milli"),
)

Row = Mapping[str, Any]
"""A row as it is stored; text is a ``str``, or ``bytes`` that should be UTF-8."""
Tell = Callable[[str, str], None]
"""It takes a column, and what is wrong with its value."""


class Verdict:
    """What a row needs: the findings to report and the columns to write.

    The methods that judge a column return its value after the repair, or None where it has no valid one. They call
    ``report`` (default :meth:`keep`) with what is wrong with a value that stays.
    """

    def __init__(self, table: str, row: Row, write: bool) -> None:
        """``write`` is whether the changes are written, which a mere check does not do."""
        task_id = row["task_id"]
        if isinstance(task_id, bytes):
            task_id = task_id.decode(errors="backslashreplace")
        self._where = {"table": table, "id": "" if task_id is None else str(task_id)}
        self._write = write
        self.row = row
        self.findings: list[InvalidRow] = []
        self.changes: dict[str, Any] = {}
        self.enabled = False
        self.disabled: InvalidRow | None = None
        """Why the schedule cannot go on, if it did before."""

    def keep(self, column: str, problem: str, action: str = "kept as it is") -> None:
        """Report a value, by default one that stays."""
        self.findings.append(InvalidRow(**self._where, column=column, problem=problem, action=action))

    def set(self, column: str, value: Any, problem: str, why: str = "") -> None:
        """Report a value and replace it."""
        self.changes[column] = value
        self._written(column, problem, f"set to {value!r}{why}")

    def _written(self, column: str, problem: str, action: str) -> None:
        self.keep(column, problem, action if self._write else f"unchanged by this check; adoption does this: {action}")

    def stop(self, column: str, problem: str) -> None:
        """Report a value that stays, and disable the schedule: it cannot fire with it."""
        enabled = self.enabled
        self.disable(column, problem, "it cannot fire")
        if enabled:
            self.disabled = self.findings[-1]

    def disable(self, column: str, problem: str, why: str) -> None:
        """Report a value that stays, and disable the schedule."""
        if self.enabled:
            self.changes["enabled"] = self.enabled = False
            self._written(column, problem, f"kept as it is; enabled set to False, since {why}")
        else:
            self.keep(column, problem, "kept as it is; the schedule is disabled")

    def text(self, column: str, report: Tell | None = None, *, needed: bool = False) -> str | None:
        """Judge a text column."""
        raw = self.row[column]
        if isinstance(raw, str | bytes) and (raw or not needed):
            try:
                return raw if isinstance(raw, str) else raw.decode()
            except UnicodeDecodeError as error:
                (report or self.keep)(column, f"is no text (byte {error.start} of {len(raw)})")
        elif raw is not None or needed:
            (report or self.keep)(column, f"is {_shown(raw)}, not text")
        return None

    def number(self, column: str, default: int) -> int | None:
        """Judge an integer column; NULL becomes the documented default."""
        raw = self.row[column]
        if isinstance(raw, int):
            return raw
        if raw is None:
            self.set(column, default, "is NULL", ", the documented default")
            return default
        self.keep(column, f"is {_shown(raw)}, not a whole number")
        return None

    def epoch(self, column: str, report: Tell | None = None, *, needed: bool = False) -> int | None:
        """Judge a time in epoch seconds."""
        raw = self.row[column]
        if (raw is None and not needed) or (raw.__class__ is int and 0 <= raw <= LATEST):
            return raw
        if not isinstance(raw, int | float) or raw in (float("inf"), float("-inf")):
            (report or self.keep)(column, f"is {_shown(raw)}, not a time")
            return None
        value = int(raw)
        for over, factor, unit in _UNITS:
            if value > over:
                value //= factor
                self.set(column, value, f"is {raw}, which is {unit}seconds", f", divided by {factor}")
                return value
        if value != raw:
            self.set(column, value, f"is {raw}, not a whole number", ", without the fraction")
        if value < 0:
            self.keep(column, f"is negative ({value})")
        return value

    def params(self, report: Tell) -> None:
        """Judge params. Their contents are in no message."""
        raw = self.row["params"]
        if raw in (None, "", b""):
            self.keep("params", "is NULL" if raw is None else "is empty", "kept as it is, which means {}")
        elif not isinstance(raw, str | bytes):
            report("params", "is a number, not JSON")
        elif not is_coded(raw):
            try:
                if not isinstance(msgspec.json.decode(raw), dict):
                    report("params", "is JSON, but no object")
            except (msgspec.DecodeError, ValueError) as error:
                report("params", f"is not JSON ({printable(error, 100)})")
            except RecursionError:
                report("params", "is nested too deeply")

    def attempts(self) -> None:
        """Judge attempts, which only this package writes."""
        raw = self.row.get("attempts")
        if raw is not None and not is_coded(raw):
            try:
                _attempts(raw)
            except (msgspec.DecodeError, TypeError, ValueError, RecursionError) as error:
                self.keep("attempts", f"is not JSON ({printable(error, 100)})", _REFUSED.format("attempts"))


def judge_task(verdict: Verdict, now: int) -> None:
    """Judge a row of ``task_queue``; ``now`` in microseconds."""
    row, keep, put = verdict.row, verdict.keep, verdict.set
    verdict.text("task_id", needed=True)
    verdict.text("task_type", needed=True)
    verdict.params(lambda column, problem: keep(column, problem, _REFUSED.format(column)))
    verdict.attempts()
    status = verdict.text("status")
    if row["status"] is None:
        put("status", "pending", "is NULL", ", the documented default")
    elif status is not None and status not in _STATUSES:
        keep("status", f"is unknown ({_shown(status)})", "kept as it is; the task is never claimed")
    elif status == "running" and row["lease_owner"] is None:
        verdict.changes["lease_until"] = 1  # over: the reaper of a worker gives the task back, by the ordinary rule
        put("lease_owner", ADOPTED, "is NULL, but the status is running", "; the task is released and runs again")
    verdict.number("priority", 0)
    verdict.number("retry_count", 0)
    verdict.number("max_retries", 3)
    created = verdict.epoch("created_at", needed=True)
    if created is not None and created > now // SECOND + _DAY:
        keep("created_at", f"is in the future ({created})", "kept as it is; the task may run now")
    verdict.epoch("started_at")
    verdict.epoch("completed_at")
    verdict.text("error_message")
    verdict.text("scheduler_task_id")


def judge_schedule(verdict: Verdict, now: int, *, overdue: bool, adopting: bool) -> None:
    """Judge a row of ``scheduler_task``.

    Args:
        now: microseconds UTC.
        overdue: whether a missed run is reported, too.
        adopting: whether the database is the documented system's: its cron expressions mean what croniter reads.
    """
    row, keep, put, stop = verdict.row, verdict.keep, verdict.set, verdict.stop
    enabled = row["enabled"]
    if enabled in (0, 1):
        verdict.enabled = bool(enabled)
    else:
        put("enabled", False, f"is {_shown(enabled)}", "; resume_task(id) enables it")
    verdict.text("task_id", needed=True)
    verdict.text("name", needed=True)
    verdict.text("task_type", stop, needed=True)
    verdict.params(stop)
    verdict.text("description")
    verdict.epoch("created_at", needed=True)
    verdict.epoch("updated_at", needed=True)
    last_run_at = verdict.epoch("last_run_at")
    next_run_at = verdict.epoch("next_run_at", stop)
    execute_at = verdict.epoch("execute_at")
    run_count = verdict.number("run_count", 0) or 0
    max_runs = verdict.number("max_runs", 0) or 0
    kind = verdict.text("schedule_type")
    timing = _timing(verdict, kind, execute_at if next_run_at is None else next_run_at, adopting)
    if not verdict.enabled:
        return
    if next_run_at is not None:
        if overdue and next_run_at * SECOND < now:
            # No flood: nothing is fired here, and the default policy fires the latest of the missed runs.
            keep("next_run_at", f"is past ({next_run_at})", "kept as it is; the misfire policy decides (fire_once)")
    elif 0 < max_runs <= run_count or (kind == "once" and (run_count or last_run_at)):
        verdict.disable("next_run_at", "is NULL, and every run has been made", "it is finished")
    else:
        try:
            due = timing(now)
        except CronError as error:
            stop("cron_expression", f"has no next time: {printable(error, 300)}")
        except ValidationError as error:
            # The system's own zone is unknown: not the row's fault.
            keep(
                "next_run_at", f"is NULL: {printable(error, 300)}", "kept as it is; resume_task(id) plans the next run"
            )
        else:
            put("next_run_at", due // SECOND, "is NULL, but the schedule is enabled", ", its next run")
            verdict.changes["next_run_us"] = due % SECOND


def _timing(verdict: Verdict, kind: str | None, once: int | None, adopting: bool) -> Callable[[int], int]:
    """Judge the columns of a schedule's type; return the function from now to the first due time after it."""
    row, stop = verdict.row, verdict.stop
    if kind == "interval":
        seconds = row["interval_seconds"]
        if not isinstance(seconds, int) or not 1 <= seconds <= INT32:
            stop("interval_seconds", f"is {_shown(seconds)}, not a number of seconds from 1")
        return lambda now: now + int(seconds) * SECOND
    if kind == "cron":
        from aiotaskq.core.cron import Cron

        expression, zone = verdict.text("cron_expression") or "", verdict.text("timezone") or None
        # aiotaskq writes a zone and counts the version up, so that a row is rewritten once, however often it is judged.
        documented = adopting and zone is None and not row["version"]
        try:
            expression = _rewrite(verdict, expression) if documented else expression
            # Without a zone it is in the system's, which may be unknown now; the expression is judged anyway.
            Cron.parse(expression, zone or "UTC")
        except CronError as error:
            stop("cron_expression", f"is refused: {printable(error, 300)}")
        except ValidationError as error:
            stop("timezone", f"is refused: {printable(error, 300)}")
        return lambda now: Cron.parse(expression, zone).next_after(now)
    if kind != "once":
        stop("schedule_type", f"is unknown ({_shown(row['schedule_type'])})")
    elif once is None:
        stop("execute_at", f"is {_shown(row['execute_at'])}, but the schedule type is once")
    return lambda now: (once or 0) * SECOND


def _rewrite(verdict: Verdict, expression: str) -> str:
    """Return the expression that means here what ``expression`` means to croniter; write it where it differs."""
    from aiotaskq.backends.sql.migrations.adopt_cron import rewritten

    try:
        kept = rewritten(expression)
    except Refused as refused:
        raise CronError(f"cron_expression: {refused} (got {clip_text(expression)})") from None
    if kept != expression:
        verdict.set("cron_expression", kept, f"is {_shown(expression)}", ", which means here what croniter made of it")
        verdict.changes["version"] = 1
    return kept


def _shown(raw: object) -> str:
    """Return a value for a message, of a column whose contents are no secret."""
    text = raw.decode(errors="backslashreplace") if isinstance(raw, bytes) else raw
    return "NULL" if text is None else printable(repr(text), 40)


class Report:
    """Invalid rows: at most ``limit`` are kept, the others counted, so that a million do not fill the memory."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self.total = 0
        self._kept: list[InvalidRow] = []
        self._disabled = 0

    def add(self, rows: Sequence[InvalidRow]) -> None:
        """Add rows."""
        self.total += len(rows)
        self._kept += rows[: self.limit - len(self._kept)]

    def disable(self, verdict: Verdict) -> None:
        """Log at ERROR, by name and id, that an enabled schedule is disabled."""
        self._disabled += 1
        if verdict.disabled is not None and self._disabled <= self.limit:
            name, task_id = (printable(_shown(verdict.row[column]), 100) for column in ("name", "task_id"))
            why = f"its {verdict.disabled.column} {printable(verdict.disabled.problem, 400)}"
            _error(
                f"schedule {name} (id {task_id}) is disabled: {why}. Correct it by update_task, then call resume_task"
            )

    def rows(self) -> list[InvalidRow]:
        """Return the rows, and one more that counts those left out."""
        if self.total == len(self._kept):
            return list(self._kept)
        more = f"{self.total - len(self._kept):,} more findings"
        return [*self._kept, InvalidRow(table="", id="", column="", problem=more, action="treated alike; not listed")]

    def log(self) -> None:
        """Log the first rows, and how many there are, at WARNING; params are not logged."""
        for row in self._kept[:LOGGED]:
            problem, action = printable(row.problem, 400), printable(row.action)
            log.warning("adopted {} {}: {} {}; {}", row.table, printable(row.id, 40), row.column, problem, action)
        if self.total:
            log.warning("adopted the tables that were there: {} invalid values, no row was dropped", self.total)
        if self._disabled > self.limit:
            _error(f"{self._disabled - self.limit:,} more schedules are disabled; `aiotaskq schedules list` shows them")


def _error(message: str) -> None:
    """Log at ERROR; if no sink of the application's takes that, write to standard error."""
    if log.heard(ERROR):
        log.error("{}", message)
    else:
        sys.stderr.write(f"ERROR aiotaskq: {message}\n")


def adopt(connection: Connection, report: Report, now: int) -> None:
    """Repair the rows of both tables and give old tasks their place in the claim order."""
    examine(connection, report, now=now, write=True, adopting=True)
    # Push order becomes claim order. Only rows of other software have a `run_at` of 0; a row with a time of creation in
    # the future may run now. The upper bound also excludes text in SQLite, which compares as larger than numbers.
    for column, limit in (("run_at", now // SECOND), ("seq", LATEST)):
        update = f"UPDATE task_queue SET {column} = created_at * {SECOND}"
        connection.execute(text(f"{update} WHERE {column} = 0 AND created_at BETWEEN 1 AND {limit}"))


def examine(connection: Connection, report: Report, *, now: int, write: bool, adopting: bool) -> None:
    """Judge every row of both tables into ``report``, and with ``write`` do what the verdicts say.

    ``adopting`` is whether the documented system wrote the schedules.
    """
    # Schedules first: they are few, and the report is bounded.
    for table, columns in (("scheduler_task", SCHEDULE_COLUMNS), ("task_queue", TASK_COLUMNS)):
        if not Tables(connection).has_table(table):
            continue
        key, value, encoding = dialect_of(connection).raw(connection, table)
        for page in _pages(connection, table, key, value, encoding, columns):
            updates: dict[tuple[str, ...], list[dict[str, Any]]] = {}
            disabled: list[Verdict] = []
            for row_key, row in page:
                verdict = Verdict(table, row, write)
                if table == "task_queue":
                    judge_task(verdict, now)
                else:
                    judge_schedule(verdict, now, overdue=write, adopting=adopting)
                if verdict.disabled is not None:
                    disabled.append(verdict)
                report.add(verdict.findings)
                if verdict.changes:
                    values = {**verdict.changes, "row_key": row_key}
                    updates.setdefault(tuple(verdict.changes), []).append(values)
            if write:
                for names, parameters in updates.items():
                    assignments = ", ".join(f"{name} = :{name}" for name in names)
                    connection.execute(text(f"UPDATE {table} SET {assignments} WHERE {key} = :row_key"), parameters)
                for verdict in disabled:
                    report.disable(verdict)


def _pages(
    connection: Connection, table: str, key: str, value: str, encoding: str, columns: tuple[str, ...]
) -> Iterator[list[tuple[Any, dict[str, Any]]]]:
    """Yield the rows by pages, each with its key; a column that an old table lacks is NULL."""
    there = {column["name"] for column in Tables(connection).get_columns(table)}
    shown = ", ".join(value.format(name) if name in there else "NULL" for name in columns)
    query = f"SELECT {key}, {shown} FROM {table} {{}} ORDER BY {key} LIMIT {PAGE}"
    first, following = text(query.format("")), text(query.format(f"WHERE {key} > :last"))
    rows = connection.execute(first).all()
    while rows:
        yield [
            (row[0], dict(zip(columns, row[1:] if encoding == "UTF-8" else _utf8(row[1:], encoding), strict=True)))
            for row in rows
        ]
        rows = connection.execute(following, {"last": rows[-1][0]}).all()


def _utf8(values: Iterable[Any], encoding: str) -> list[Any]:
    """A SQLite file may be in UTF-16."""
    return [value.decode(encoding, "replace").encode() if isinstance(value, bytes) else value for value in values]
