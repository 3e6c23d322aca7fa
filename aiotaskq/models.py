"""The tables: the two documented ones with added columns, the public store's, and the paused queues'.

Documented columns keep their names, types and units (epoch seconds); added instants are integer microseconds UTC.
``Base.metadata.create_all(bind=engine)`` makes the same tables as the migrations do.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Float, Index, Integer, String, Text, false, text, true
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = ["Base", "PublicValue", "QueueState", "SchedulerTask", "TaskQueue"]


class Base(DeclarativeBase):
    """The declarative base of aiotaskq's tables; an application may add its own to it, as the old one's did."""


class TaskQueue(Base):
    """A row of ``task_queue``: one task."""

    __tablename__ = "task_queue"

    task_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    task_type: Mapped[str] = mapped_column(String(100))
    params: Mapped[str | None] = mapped_column(Text)
    status: Mapped[str | None] = mapped_column(String(20), default="pending", server_default="pending")
    priority: Mapped[int | None] = mapped_column(Integer, default=0, server_default=text("0"))
    retry_count: Mapped[int | None] = mapped_column(Integer, default=0, server_default=text("0"))
    max_retries: Mapped[int | None] = mapped_column(Integer, default=3, server_default=text("3"))
    created_at: Mapped[int] = mapped_column(BigInteger)
    started_at: Mapped[int | None] = mapped_column(BigInteger)
    completed_at: Mapped[int | None] = mapped_column(BigInteger)
    error_message: Mapped[str | None] = mapped_column(Text)
    scheduler_task_id: Mapped[str | None] = mapped_column(String(36))
    # Added. Each has a server default or may be NULL, so that a writer that knows only the documented columns works.
    queue: Mapped[str] = mapped_column(String(100), default="default", server_default="default")
    run_at: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    seq: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    expires_at: Mapped[int | None] = mapped_column(BigInteger)
    timeout: Mapped[float | None] = mapped_column(Float(53))
    fence: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    crashes: Mapped[int] = mapped_column(Integer, default=0, server_default=text("0"))
    lease_owner: Mapped[str | None] = mapped_column(String(100))
    lease_until: Mapped[int | None] = mapped_column(BigInteger)
    unique_key: Mapped[str | None] = mapped_column(String(255))
    # The unique key while the task is pending or running, else NULL: uniqueness among live rows as a plain unique
    # index, since MySQL has no partial ones.
    live_key: Mapped[str | None] = mapped_column(String(255))
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    result: Mapped[str | None] = mapped_column(Text)
    progress: Mapped[str | None] = mapped_column(Text)
    cancel_requested: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    on_success: Mapped[str | None] = mapped_column(String(100))
    on_failure: Mapped[str | None] = mapped_column(String(100))
    extra: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        Index("ix_task_queue_claim", "status", "priority", "run_at", "seq", "queue"),
        Index("ix_task_queue_lease", "status", "lease_until"),
        Index("ix_task_queue_due", "status", "run_at"),
        Index("ix_task_queue_expiry", "status", "expires_at"),
        Index("ix_task_queue_newest", "seq"),
        Index("ix_task_queue_scheduler", "scheduler_task_id", "status"),
        Index("uq_task_queue_idempotency_key", "idempotency_key", unique=True),
        Index("uq_task_queue_live_key", "live_key", unique=True),
    )


class SchedulerTask(Base):
    """A row of ``scheduler_task``: one schedule."""

    __tablename__ = "scheduler_task"

    task_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    task_type: Mapped[str] = mapped_column(String(100))
    params: Mapped[str | None] = mapped_column(Text)
    schedule_type: Mapped[str] = mapped_column(String(20))
    interval_seconds: Mapped[int | None] = mapped_column(Integer)
    cron_expression: Mapped[str | None] = mapped_column(String(100))
    execute_at: Mapped[int | None] = mapped_column(BigInteger)
    last_run_at: Mapped[int | None] = mapped_column(BigInteger)
    next_run_at: Mapped[int | None] = mapped_column(BigInteger)
    run_count: Mapped[int | None] = mapped_column(Integer, default=0, server_default=text("0"))
    max_runs: Mapped[int | None] = mapped_column(Integer, default=0, server_default=text("0"))
    enabled: Mapped[bool | None] = mapped_column(Boolean, default=True, server_default=true())
    created_at: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[int] = mapped_column(BigInteger)
    description: Mapped[str | None] = mapped_column(Text)
    # Added.
    # The microseconds within the second `next_run_at`: together they are the due time.
    next_run_us: Mapped[int] = mapped_column(Integer, default=0, server_default=text("0"))
    timezone: Mapped[str | None] = mapped_column(String(64))
    misfire: Mapped[str] = mapped_column(String(20), default="fire_once", server_default="fire_once")
    overlap: Mapped[str] = mapped_column(String(20), default="allow", server_default="allow")
    catch_up: Mapped[int | None] = mapped_column(BigInteger)
    priority: Mapped[int] = mapped_column(Integer, default=0, server_default=text("0"))
    queue: Mapped[str] = mapped_column(String(100), default="default", server_default="default")
    max_retries: Mapped[int] = mapped_column(Integer, default=3, server_default=text("3"))
    timeout: Mapped[float | None] = mapped_column(Float(53))
    declared: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    # Rises with every write: the compare-and-swap looks at this one number.
    version: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))

    __table_args__ = (Index("ix_scheduler_task_due", "enabled", "next_run_at", "next_run_us"),)


class PublicValue(Base):
    """A row of ``aiotaskq_public``: one public value, as JSON. ``expires_at`` in microseconds, NULL for never."""

    __tablename__ = "aiotaskq_public"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    value: Mapped[str] = mapped_column(Text)
    expires_at: Mapped[int | None] = mapped_column(BigInteger)

    __table_args__ = (Index("ix_aiotaskq_public_expiry", "expires_at"),)


class QueueState(Base):
    """A row of ``aiotaskq_queue``: a queue that is paused, for every process."""

    __tablename__ = "aiotaskq_queue"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    paused: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
