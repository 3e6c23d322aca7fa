"""The tables as ORM models: the two documented ones with added columns, and those of this package.

Documented columns keep their names, types and units (epoch seconds); added instants are integer microseconds UTC.
``Base.metadata.create_all(bind=engine)`` creates the same tables as the migrations.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BigInteger, Boolean, Float, Index, Integer, String, Text, false, text, true
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aiotaskq.core.gate import PARKED

__all__ = ["Base", "SchedulerTask", "TaskQueue"]


class Name(String):
    """A short text that is compared by bytes: "A" is not "a", and a trailing blank makes another name."""

    inherit_cache = True


class LongText(Text):
    """A text without a limit of its own; MySQL's TEXT ends at 64 KB."""

    inherit_cache = True


def mysql_collation(dialect: Any) -> str:
    """Return the collation that compares bytes and does not ignore trailing blanks."""
    # Known once connected: the URL of a MariaDB is mostly mysql://.
    return "utf8mb4_nopad_bin" if dialect.is_mariadb else "utf8mb4_0900_bin"


@compiles(Name, "mysql", "mariadb")
def _mysql_name(type_: Name, compiler: Any, **_options: Any) -> str:
    return f"VARCHAR({type_.length}) CHARACTER SET utf8mb4 COLLATE {mysql_collation(compiler.dialect)}"


@compiles(LongText, "mysql", "mariadb")
def _mysql_text(_type: LongText, compiler: Any, **_options: Any) -> str:
    return f"LONGTEXT CHARACTER SET utf8mb4 COLLATE {mysql_collation(compiler.dialect)}"


PARTIAL: Final = ("sqlite", "postgresql")
"""The databases that have indexes over some of the rows, by SQLAlchemy's names."""
WHOLE: Final = ("mysql", "mariadb")
"""Those that have not."""
_ON = "aiotaskq_on"


def partial(rows: str, name: str, *columns: str, unique: bool = False, **words: str) -> Index:
    """Return an index over some of the rows; over all of them where a database has no such indexes.

    ``words`` say which rows on one of ``PARTIAL``, if not the same, or in other words.
    ``backends.sql.claim_statements.ENDED`` says why live rows and ended rows have indexes of their own.
    """
    postgresql, sqlite = [text(words.get(each, rows)) for each in ("postgresql", "sqlite")]
    return Index(name, *columns, unique=unique, postgresql_where=postgresql, sqlite_where=sqlite)


def on(dialects: tuple[str, ...], index: Index) -> Index:
    """Return an index that is created on these databases alone."""
    index.info[_ON] = dialects
    return index.ddl_if(dialect=dialects)  # type: ignore[arg-type]  # several, too: the annotation has one


def indexes_of(table: Any, partial: bool) -> list[Index]:
    """Return the indexes that a table has, by name; ``partial`` is ``Dialect.partial_indexes``."""
    here = PARTIAL if partial else WHOLE
    found = [index for index in table.indexes if index.info.get(_ON, here) == here]
    return sorted(found, key=lambda index: str(index.name))


class Base(DeclarativeBase):
    """The declarative base of aiotaskq's tables; an application may add its own tables to it."""


# With a plus no range of an index begins or ends there: it would be taken for that of what is due.
SQLITE_READY = f"+run_at < {PARKED}"
SQLITE_AT_GATE = f"(live_gate IS NOT NULL OR status = 'pending' AND run_at >= {PARKED})"
_PENDING = "status = 'pending'"
_RUNNING = "status = 'running'"
# PostgreSQL drops a condition from a query if the rows of a partial index imply it. Before version 18 it then reads the
# whole of an index whose first column has no condition left. A range of one value implies no equality.
_PENDING_RANGE = "status >= 'pending' AND status <= 'pending'"
_RUNNING_RANGE = "status >= 'running' AND status <= 'running'"
_ENDED = "coalesce(status, '') NOT IN ('pending', 'running')"


class TaskQueue(Base):
    """A row of ``task_queue``: one task."""

    __tablename__ = "task_queue"

    task_id: Mapped[str] = mapped_column(Name(36), primary_key=True)
    task_type: Mapped[str] = mapped_column(Name(100))
    params: Mapped[str | None] = mapped_column(LongText)
    status: Mapped[str | None] = mapped_column(Name(20), default="pending", server_default="pending")
    priority: Mapped[int | None] = mapped_column(Integer, default=0, server_default=text("0"))
    retry_count: Mapped[int | None] = mapped_column(Integer, default=0, server_default=text("0"))
    max_retries: Mapped[int | None] = mapped_column(Integer, default=3, server_default=text("3"))
    created_at: Mapped[int] = mapped_column(BigInteger)
    started_at: Mapped[int | None] = mapped_column(BigInteger)
    completed_at: Mapped[int | None] = mapped_column(BigInteger)
    error_message: Mapped[str | None] = mapped_column(LongText)
    scheduler_task_id: Mapped[str | None] = mapped_column(Name(36))
    # Added. Each has a server default or may be NULL, so that a program that knows only the documented columns works.
    queue: Mapped[str] = mapped_column(Name(100), default="default", server_default="default")
    run_at: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    due_at: Mapped[int | None] = mapped_column(BigInteger)
    seq: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    expires_at: Mapped[int | None] = mapped_column(BigInteger)
    timeout: Mapped[float | None] = mapped_column(Float(53))
    fence: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    crashes: Mapped[int] = mapped_column(Integer, default=0, server_default=text("0"))
    lease_owner: Mapped[str | None] = mapped_column(Name(100))
    lease_until: Mapped[int | None] = mapped_column(BigInteger)
    began_at: Mapped[int | None] = mapped_column(BigInteger)
    ended_at: Mapped[int | None] = mapped_column(BigInteger)
    unique_key: Mapped[str | None] = mapped_column(Name(255))
    # The unique key while the task is pending or running, else NULL: uniqueness among live rows as a plain unique
    # index, since MySQL has no partial ones.
    live_key: Mapped[str | None] = mapped_column(Name(255))
    idempotency_key: Mapped[str | None] = mapped_column(Name(255))
    result: Mapped[str | None] = mapped_column(LongText)
    progress: Mapped[str | None] = mapped_column(LongText)
    # What its runs have used up, as a JSON object of numbers; NULL for nothing.
    usage: Mapped[str | None] = mapped_column(LongText)
    cancel_requested: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    on_success: Mapped[str | None] = mapped_column(Name(100))
    on_failure: Mapped[str | None] = mapped_column(Name(100))
    extra: Mapped[str | None] = mapped_column(LongText)
    # The runs that did not complete, as a JSON list; NULL until there is one.
    attempts: Mapped[str | None] = mapped_column(LongText)
    # The gates to pass, its group, its parents and its children, as JSON; NULL without any.
    flow: Mapped[str | None] = mapped_column(LongText)
    # The gate at which it is parked, or the last one that it has passed. Without a width: by the widths of the columns
    # PostgreSQL guesses how many rows a new table has, and for too few it would read all to find some by their ids.
    gate: Mapped[str | None] = mapped_column(LongText)
    # The same while the task is pending or running, else NULL: MySQL has no partial indexes, and this one must not grow
    # with ended rows.
    live_gate: Mapped[str | None] = mapped_column(Name(255))
    # The number of its parents for whose end it waits, parked; NULL for none, which takes no space in a row.
    waits: Mapped[int | None] = mapped_column(Integer)

    __table_args__ = (
        # In claim order; with the last columns, a claim reads no row that it does not return.
        partial(
            *(_PENDING, "ix_task_queue_ready"),
            *("status", "priority", "run_at", "seq", "task_id", "queue", "expires_at"),
            # Without parked rows, new ones are the last. Before others, a full page of the index would be cut in the
            # middle, and left half empty.
            postgresql=f"{_PENDING_RANGE} AND run_at < {PARKED}",
            sqlite=f"{_PENDING} AND {SQLITE_READY}",
        ),
        on(
            PARTIAL,
            partial(
                *(f"{_PENDING} AND expires_at IS NOT NULL", "ix_task_queue_expires", "status", "expires_at"),
                postgresql=f"{_PENDING_RANGE} AND expires_at IS NOT NULL",
            ),
        ),
        on(
            PARTIAL,
            partial(_RUNNING, "ix_task_queue_held", "status", "lease_owner", "lease_until", postgresql=_RUNNING_RANGE),
        ),
        # Both in one: without partial indexes, each change of a status writes all indexes that begin with it.
        on(WHOLE, Index("ix_task_queue_overdue", "status", "lease_owner", "lease_until", "expires_at")),
        # Ended rows: counted by status and queue, purged by age, listed newest first.
        partial(_ENDED, "ix_task_queue_ended", "status", "queue", "completed_at"),
        partial(_ENDED, "ix_task_queue_listed", "status", "seq", "task_id"),
        partial("scheduler_task_id IS NOT NULL", "ix_task_queue_fired", "scheduler_task_id", "status"),
        # In the order of pushes. PostgreSQL writes an entry for each version of a row, so there of pending ones alone.
        # With the last columns, it counts them by queue, parked ones as well. On MySQL the list above has them all.
        on(
            PARTIAL,
            Index(
                *("ix_task_queue_pushed", "seq", "task_id"),
                postgresql_where=text(_PENDING_RANGE),
                postgresql_include=["status", "queue"],
            ),
        ),
        # The tasks at a gate: those that have passed it, then the parked ones in claim order. On SQLite also those that
        # are parked at none, since no other index has them.
        partial(
            *("live_gate IS NOT NULL", "ix_task_queue_gate"),
            *("live_gate", "run_at", "priority", "due_at", "seq"),
            sqlite=SQLITE_AT_GATE,
        ),
        partial("idempotency_key IS NOT NULL", "uq_task_queue_idempotency_key", "idempotency_key", unique=True),
        partial("live_key IS NOT NULL", "uq_task_queue_live_key", "live_key", unique=True),
        # A claim skips the dead entries of rows that were claimed before, until they are vacuumed: by default only
        # when a fifth of all rows are dead.
        {"postgresql_with": {"autovacuum_vacuum_scale_factor": 0.01, "autovacuum_vacuum_threshold": 2000}},
    )


class SchedulerTask(Base):
    """A row of ``scheduler_task``: one schedule."""

    __tablename__ = "scheduler_task"

    task_id: Mapped[str] = mapped_column(Name(36), primary_key=True)
    name: Mapped[str] = mapped_column(Name(255))
    task_type: Mapped[str] = mapped_column(Name(100))
    params: Mapped[str | None] = mapped_column(LongText)
    schedule_type: Mapped[str] = mapped_column(Name(20))
    interval_seconds: Mapped[int | None] = mapped_column(Integer)
    cron_expression: Mapped[str | None] = mapped_column(Name(100))
    execute_at: Mapped[int | None] = mapped_column(BigInteger)
    last_run_at: Mapped[int | None] = mapped_column(BigInteger)
    next_run_at: Mapped[int | None] = mapped_column(BigInteger)
    run_count: Mapped[int | None] = mapped_column(Integer, default=0, server_default=text("0"))
    max_runs: Mapped[int | None] = mapped_column(Integer, default=0, server_default=text("0"))
    enabled: Mapped[bool | None] = mapped_column(Boolean, default=True, server_default=true())
    created_at: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[int] = mapped_column(BigInteger)
    description: Mapped[str | None] = mapped_column(LongText)
    # Added.
    # The microseconds within the second `next_run_at`: together they are the due time.
    next_run_us: Mapped[int] = mapped_column(Integer, default=0, server_default=text("0"))
    timezone: Mapped[str | None] = mapped_column(Name(64))
    misfire: Mapped[str] = mapped_column(Name(20), default="fire_once", server_default="fire_once")
    overlap: Mapped[str] = mapped_column(Name(20), default="allow", server_default="allow")
    catch_up: Mapped[int | None] = mapped_column(BigInteger)
    # Seconds.
    jitter: Mapped[int] = mapped_column(Integer, default=0, server_default=text("0"))
    calendar: Mapped[str | None] = mapped_column(Name(64))
    calendar_rule: Mapped[str] = mapped_column(Name(20), default="skip_holidays", server_default="skip_holidays")
    # Windows, as a JSON list; NULL without any.
    blackout: Mapped[str | None] = mapped_column(LongText)
    blackout_policy: Mapped[str] = mapped_column(Name(20), default="skip", server_default="skip")
    priority: Mapped[int] = mapped_column(Integer, default=0, server_default=text("0"))
    queue: Mapped[str] = mapped_column(Name(100), default="default", server_default="default")
    max_retries: Mapped[int] = mapped_column(Integer, default=3, server_default=text("3"))
    timeout: Mapped[float | None] = mapped_column(Float(53))
    # Those of its tasks, as a JSON object; NULL without any.
    tags: Mapped[str | None] = mapped_column(LongText)
    declared: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    # Rises with every write, for the compare-and-swap.
    version: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    # Tasks that were fired and not yet pushed into a queue in another store, as a JSON list.
    outbox: Mapped[str | None] = mapped_column(LongText)
    # The last firings and skips, as JSON; see ``core.firing_record``.
    history: Mapped[str | None] = mapped_column(LongText)

    __table_args__ = (Index("ix_scheduler_task_due", "enabled", "next_run_at", "next_run_us"),)


class SideRowModel(Base):
    """A row of ``aiotaskq_side``: a text beside the tasks; see ``backends.side_rows.SideRow``."""

    __tablename__ = "aiotaskq_side"

    # Of what it is a part: ``value``, ``audit``, ``history``, ``note``, ``step``, ``tag``, ``event``, ``wait``,
    # ``worker`` or ``version``.
    kind: Mapped[str] = mapped_column(Name(20), primary_key=True)
    # The task that it goes with, or the event for which a task waits; empty for nothing.
    owner: Mapped[str] = mapped_column(Name(255), primary_key=True)
    # Sorted by bytes, so that those with one prefix lie next to each other.
    name: Mapped[str] = mapped_column(
        Name(400).with_variant(String(400, collation="C"), "postgresql"), primary_key=True
    )
    value: Mapped[str] = mapped_column(LongText)
    # In microseconds UTC, NULL for never.
    expires_at: Mapped[int | None] = mapped_column(BigInteger)

    __table_args__ = (
        partial("expires_at IS NOT NULL", "ix_aiotaskq_side_expiry", "kind", "expires_at"),
        partial("kind = 'tag'", "ix_aiotaskq_side_tag", "kind", "name", "owner"),
    )


class QueueState(Base):
    """A row of ``aiotaskq_queue``: a queue that is paused, for every process."""

    __tablename__ = "aiotaskq_queue"

    name: Mapped[str] = mapped_column(Name(100), primary_key=True)
    paused: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())


class GateRow(Base):
    """A row of ``aiotaskq_gate``: a gate that tasks pass before they can be claimed, locked while it lets some pass.

    Instants are in microseconds UTC. How many tasks hold a slot is counted in ``task_queue`` and ``aiotaskq_slot``.
    """

    __tablename__ = "aiotaskq_gate"

    key: Mapped[str] = mapped_column(Name(255), primary_key=True)
    cap: Mapped[int | None] = mapped_column(BigInteger)
    fair_window: Mapped[int | None] = mapped_column(BigInteger)
    # Microseconds for each token of a rate.
    interval_us: Mapped[int | None] = mapped_column(BigInteger)
    burst: Mapped[int] = mapped_column(BigInteger, default=1, server_default=text("1"))
    max_waiting: Mapped[int | None] = mapped_column(BigInteger)
    # Whether an operator has set the bounds.
    fixed: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    tat: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    # Starts until then are accounted for in tat.
    charged_until: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    closed_until: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    next_at: Mapped[int | None] = mapped_column(BigInteger)

    __table_args__ = (Index("ix_aiotaskq_gate_next", "next_at"),)


class SlotRow(Base):
    """A row of ``aiotaskq_slot``: a gate that a task has passed before the one in ``task_queue.gate``."""

    __tablename__ = "aiotaskq_slot"

    gate: Mapped[str] = mapped_column(Name(255), primary_key=True)
    task_id: Mapped[str] = mapped_column(Name(36), primary_key=True)

    __table_args__ = (Index("ix_aiotaskq_slot_task", "task_id"),)


class GroupRow(Base):
    """A row of ``aiotaskq_group``: a group of tasks, with a count of the members that have not ended.

    Instants are in microseconds UTC.
    """

    __tablename__ = "aiotaskq_group"

    group_id: Mapped[str] = mapped_column(Name(36), primary_key=True)
    name: Mapped[str | None] = mapped_column(Name(100))
    total: Mapped[int] = mapped_column(Integer)
    remaining: Mapped[int] = mapped_column(Integer)
    failed: Mapped[int] = mapped_column(Integer)
    cancelled: Mapped[int] = mapped_column(Integer)
    # Its dead letters, and its callbacks that have not ended.
    needed_by: Mapped[int] = mapped_column(Integer, default=0, server_default=text("0"))
    # How often it has ended, counted from 1, the present time included.
    generation: Mapped[int] = mapped_column(Integer)
    parent_id: Mapped[str | None] = mapped_column(Name(36))
    # The tasks that its end pushes, as JSON.
    then_task: Mapped[str | None] = mapped_column(LongText)
    failure_task: Mapped[str | None] = mapped_column(LongText)
    cancel_requested: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    # The tasks that wait for its end, as JSON: an array of ids and rules; NULL for none.
    children: Mapped[str | None] = mapped_column(LongText)
    # What its members have used up, and may use up, each as a JSON object of numbers; NULL for nothing.
    usage: Mapped[str | None] = mapped_column(LongText)
    budget: Mapped[str | None] = mapped_column(LongText)
    created_at: Mapped[int] = mapped_column(BigInteger)
    ended_at: Mapped[int | None] = mapped_column(BigInteger)

    __table_args__ = (
        Index("ix_aiotaskq_group_ended", "ended_at"),
        Index("ix_aiotaskq_group_created", "created_at", "group_id"),
    )


class MemberRow(Base):
    """A row of ``aiotaskq_member``: a member of a group, a task or another group."""

    __tablename__ = "aiotaskq_member"

    group_id: Mapped[str] = mapped_column(Name(36), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    member_id: Mapped[str] = mapped_column(Name(36))
    name: Mapped[str | None] = mapped_column(Name(100))
    is_group: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())


OUR_TABLES = tuple(Base.metadata.tables)
"""The names of the tables of this package. An application may have more on ``Base``."""
