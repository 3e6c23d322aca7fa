"""TaskQ: the application's object, which wires a backend, queue, store, scheduler and worker."""

from __future__ import annotations

import asyncio
import functools
import operator
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Unpack, overload

from aiotaskq.app.groups import OWN, Calls, GroupHandle, Workflow, check_call, check_callbacks, group
from aiotaskq.app.handle import BlockingPush, MakesCalls, PushOptions, R, T, TaskCall, TaskHandle
from aiotaskq.app.internal import Internal
from aiotaskq.app.push import as_call, named_call, new_task_of, own_ids_of, session_of, tasks_of
from aiotaskq.app.running import Running
from aiotaskq.app.schedules import Schedules
from aiotaskq.app.settings import default_url, version_of
from aiotaskq.backends import connect
from aiotaskq.backends.blobs import with_blobs
from aiotaskq.backends.url import with_table_names
from aiotaskq.concurrency.clock import Clock, SteadyClock, StoreClock, SystemClock
from aiotaskq.concurrency.poller import Poller
from aiotaskq.core.codec import BlobStore, Codec, check_codec
from aiotaskq.core.edit import Debounce, check_rerun, copied
from aiotaskq.core.errors import MAX_ID, check_bool, check_key, check_params, check_seconds, kind_name
from aiotaskq.core.foreign_names import checks_options
from aiotaskq.core.groups import GroupState
from aiotaskq.core.masking import mask
from aiotaskq.core.plan import as_pushed, plan
from aiotaskq.core.tags import check_tag_names
from aiotaskq.core.task import Task
from aiotaskq.errors import AiotaskqError, DatabaseUnavailable, ValidationError
from aiotaskq.runtime.blobs import BlobSweep
from aiotaskq.runtime.params import fitted
from aiotaskq.runtime.public_values import PublicValues
from aiotaskq.runtime.queue.capacity import WhenFull
from aiotaskq.runtime.queue.groups import GroupStatus
from aiotaskq.runtime.queue.operations import Operations
from aiotaskq.runtime.queue.queue import Queue
from aiotaskq.runtime.retention import Auto, Retention

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend, InvalidRow

_options_of = operator.attrgetter("options")


class TaskQ(Running, Operations[TaskHandle[Any]]):
    """A task queue: ``TaskQ("sqlite:///app.db")`` inside the application, no server.

    Open it with ``async with tq`` (connect only), ``async with tq.running()`` (workers and scheduler embedded in the
    application) or ``await tq.run()`` (the same until a signal). Of blocks within each other the last one to end
    closes it; ``open()`` before the first one leaves that to ``close()``.
    """

    @checks_options("TaskQ", "constructor")
    def __init__(
        self,
        url: str | None = None,
        *,
        schedules: str | None = None,
        values: str | None = None,
        timezone: str | None = None,
        lease: float | timedelta = 60.0,
        heartbeat: float | timedelta | None = None,
        reap_interval: float | timedelta | None = None,
        poll_interval: float | timedelta = 1.0,
        check_interval: float | timedelta = 10.0,
        cleanup_interval: float | timedelta = 60.0,
        visibility: float | timedelta = 300.0,
        maxsize: int = 0,
        when_full: WhenFull = "wait",
        retention: float | timedelta | Auto | None = "auto",
        retention_failed: float | timedelta | None = None,
        keep_ended: int | None = None,
        schema: str | None = None,
        table_prefix: str | None = None,
        history: bool = True,
        history_tags: Sequence[str] = (),
        codec: Codec | None = None,
        blobs: BlobStore | None = None,
        version: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Wire a task queue; nothing is opened yet. All durations in seconds.

        Args:
            url: ``memory://``, ``sqlite:///file.db``, ``postgresql://``, ``mysql://``, ``redis://`` or
                ``redis+sentinel://``; default ``AIOTASKQ_DATABASE_URL``, else ``sqlite:///aiotaskq.db``.
            schedules: URL of the store that holds schedules; default the same place, for ``memory://`` and Redis the
                database of ``AIOTASKQ_DATABASE_URL`` where that variable names a SQL database.
            values: where public values live; default the same place.
            timezone: IANA name in which cron schedules are evaluated; default the system's.
            lease, heartbeat, reap_interval: how long a worker holds a task without a heartbeat, how often it sends one
                (default a quarter of the lease), and how often lost tasks are looked for (default a quarter, too).
            maxsize, when_full: bound of its ready tasks, and what a push to a full queue does; see ``Queue``.
            retention: how long workers keep tasks that ended otherwise than failed; None for ever. "auto" is 7 days on
                a durable store, and for ever in ``memory://`` and in a database that was adopted from other software.
                An ``idempotency_key`` protects as long as its task is kept.
            retention_failed: the same for dead letters; default for ever.
            keep_ended: how many ended tasks ``memory://`` keeps, and how many dead letters beside them; default 10,000.
            schema: the schema of PostgreSQL that has the tables, made where it is missing; default that of the
                connection. Also in a URL, as ``?schema=jobs``, as ``schedules`` and ``values`` need it.
            table_prefix: what the names of the tables begin with in SQLite and MySQL, as ``jobs_``; also in a URL. For
                Redis write ``?prefix=jobs``.
            history: whether workers write, once a minute, the sums of what their tasks did; see ``history()``.
            history_tags: names of tags, as ``("tenant",)``, for each value of which they write sums of its own, too:
                at most 500 values a minute, the others as ``other``.
            codec: what compresses or encrypts params, progress, results and attempts in a durable store, as
                ``Chain(Zlib(), Fernet(key))``; ``memory://`` does not use it.
            blobs: where params, results and attempts are that are long after the codec, as ``Folder("/srv/blobs")`` or
                ``S3("bucket")``; ``memory://`` does not use it. Params may then have 64 MB.
            version: of the application, as ``2.4.1`` or the id of a commit, at most 64 characters: workers and
                attempts that did not complete tell it. Default ``AIOTASKQ_VERSION``, else none.

        Raises:
            ValidationError: for an unknown scheme or a wrong value, MissingExtra when its driver is not installed,
                NotSupported for ``keep_ended`` where the store is another than ``memory://``, and for ``schema`` and
                ``table_prefix`` where it does not have them.
        """
        url = default_url() if url is None else url
        self.url = url = with_table_names(url, schema=schema, table_prefix=table_prefix)
        check_bool("history", history)
        tag_names = check_tag_names("history_tags", history_tags)
        codec = None if codec is None else check_codec(codec)
        if blobs is not None:
            codec = with_blobs(codec, blobs, lambda: self._clock.now())
        if not isinstance(clock, Clock | None):
            raise ValidationError(f"clock: a clock is needed, such as VirtualClock() (got {kind_name(clock)})")
        self._backend = connect(url, keep_ended=keep_ended, codec=codec)
        from aiotaskq.backends.base import holds_objects

        super().__init__(clock or _clock_of(self._backend), timezone, objects=holds_objects(self._backend))
        self._internal = Internal(
            self._registered,
            codec,
            {url: self._backend},
            lambda: self._scheduler,
            self._open_schedules,
            self._adopt,
            self._run_until,
            self._on_signal,
            tag_names,
        )
        self._schedules_url = schedules
        self._check_interval = check_seconds("check_interval", check_interval, zero=False)
        quarter = check_seconds("lease", lease, zero=False) / 4
        self._worker_options = {
            "lease": lease,
            "heartbeat": quarter if heartbeat is None else heartbeat,
            "reap_interval": quarter if reap_interval is None else reap_interval,
            "poll_interval": poll_interval,
            "history": history,
        }
        self.queue = Queue(
            self._backend,
            self._clock,
            hooks=self._registered.hooks,
            visibility=visibility,
            poll_interval=poll_interval,
            maxsize=maxsize,
            when_full=when_full,
            prepare=self._prepared,
            gated=self._gated,
            webhooks=self._registered.webhooks,
            version=version_of(version),
        )
        self.queue.handlers, self.queue.groups.make = self._registered.handlers, self._member_task
        self.queue.subscribed = functools.partial(tasks_of, self._registered)
        self.queue.wrapped = self._wrapped
        home = self._backend if values is None else self._store(values)
        self.values = PublicValues(home.values, self._clock, durable=home.durable, cleanup_interval=cleanup_interval)
        self._retention = Retention(
            self._backend,
            self._clock,
            ended=retention,
            failed=retention_failed,
            history=history,
            interval=cleanup_interval,
        )
        self._blob_sweep = BlobSweep(self._backend, self._clock)
        self._store_clock = self._clock if isinstance(self._clock, StoreClock) else None
        self._clock_poller = Poller("clock", self._look_at_clock, self._clock)

    def __repr__(self) -> str:
        return f"TaskQ({mask(self.url)!r})"

    @property
    def sync(self) -> BlockingPush:
        """Pushes from threads on this same task queue: ``tq.sync.push(…)`` in a ``def`` endpoint."""
        return BlockingPush(self, self._internal.bound)

    @property
    def schedules(self) -> Schedules:
        """The schedules: added, changed, paused, fired and listed."""
        return Schedules(self._scheduler, self._registered, self.timezone)

    @property
    def invalid_rows(self) -> list[InvalidRow]:
        """Rows of an adopted database with values outside their column's meaning; they are kept. Known once open."""
        return [row for backend in self._internal.backends.values() for row in backend.invalid_rows]

    # ---- pushing ----

    async def push(
        self, type: str | MakesCalls, params: dict[str, Any] | None = None, **options: Unpack[PushOptions]
    ) -> TaskHandle[Any]:
        """Push a task by the name of its type; when this returns on a durable store, the task is on disk.

        Options: ``delay`` or ``at``, ``priority``, ``queue``, ``timeout``, ``max_retries``, ``expires``, ``unique_key``
        (one pending or running task), ``idempotency_key`` (one task while its row is kept), ``task_id`` (an id of your
        own), ``if_ended`` ("retry": if that id has ended, it runs again), ``on_success`` and ``on_failure`` (the name
        of a task pushed in the same transaction, or a task function), ``session`` (the SQLAlchemy session or
        connection in whose transaction it is pushed; it exists when that is committed), ``debounce`` with ``max_wait``
        and ``merge``, or ``throttle``, and the ``key`` of either, ``after`` (handles or ids of tasks and groups that
        have to end before; a dict gives each its own rule) and ``after_rule`` (what becomes of it when one of them did
        not complete: ``cancel``, ``fail`` or ``run``).

        Raises ValidationError (also for params with which the registered handler cannot be called), UnknownHandler
        (when handlers are registered, but none under this name; see ``elsewhere``), TaskConflict (the id has ended and
        ``if_ended`` was not given, or its keys forbid it), NotFound (``after`` names what does not exist), QueueFull,
        NotSupported for a session where the store is not SQL, and DatabaseUnavailable: then it is not known whether
        the task was stored, and ``task_ids`` of the error holds its id, with which to repeat the push.
        """
        return await self.push_call(named_call(type, params, options, self._registered.handlers))

    async def push_call(self, call: TaskCall[T]) -> TaskHandle[T]:
        """Push one checked call, as made by ``f.call(…)``."""
        if self._store_clock is not None and self._store_clock.stale:
            await self._look_at_clock()
        rules: dict[str, Debounce] = {}
        task = new_task_of(call, self._registered, self._clock.now(), rules)
        if not call.options and not self._registered.push_middleware and self.queue.add_now(task):
            return TaskHandle(self.queue, task.task_id)
        options = call.options
        tasks = [task]
        (row,) = await self._push(tasks, options.get("session"), [call] if options else (), rules)
        return TaskHandle(self.queue, row.task_id, row is tasks[0])  # middleware may have put another one there

    def call(
        self, type: str | MakesCalls, params: dict[str, Any] | None = None, **options: Unpack[PushOptions]
    ) -> TaskCall[Any]:
        """Return a call by the name of its type, as ``f.call(…)`` does: for ``push_many``, groups and workflows.

        Options as of ``push``. Raises ValidationError for params with which the registered handler cannot be called.
        """
        return named_call(type, params, options, self._registered.handlers)

    async def push_many(
        self,
        calls: Iterable[TaskCall[Any] | tuple[str, dict[str, Any]] | Mapping[str, Any]],
        *,
        session: Any = None,
    ) -> list[TaskHandle[Any]]:
        """Push many in one transaction: all or none. ``session`` as for ``push``.

        Each is ``f.call(…)``, ``(type, params)``, or a dict with ``type``, ``params`` and options. Ids that run again
        (``if_ended``) are written after the others, in a transaction of their own unless there is a session. Raises as
        ``push``; then nothing was written."""
        if not isinstance(calls, Iterable):
            raise ValidationError(f"push_many: a list of calls is needed (got {type(calls).__name__})")
        checked = [as_call(call, self._registered.handlers) for call in calls]
        optional = checked if any(map(_options_of, checked)) else ()
        session = session_of(optional, session)
        if self._store_clock is not None and self._store_clock.stale:
            await self._look_at_clock()
        now, rules = self._clock.now(), dict[str, Debounce]()
        tasks = [new_task_of(call, self._registered, now, rules) for call in checked]
        stored = await self._push(tasks, session, optional, rules) if tasks else []
        return [TaskHandle(self.queue, row.task_id, row is task) for task, row in zip(tasks, stored, strict=True)]

    def _push(
        self, tasks: list[Task], session: Any, calls: Sequence[TaskCall[Any]], rules: Mapping[str, Debounce] = {}
    ) -> Awaitable[list[Task]]:
        push: Callable[[list[Task]], Awaitable[list[Task]]]
        if calls and (own_ids := own_ids_of(calls)):
            push = functools.partial(self.queue.push_known, own_ids=own_ids, session=session)
        elif not rules and not self._registered.push_middleware:
            return self.queue.add(tasks, session)
        else:
            push = functools.partial(self.queue.add, session=session)
        if rules:
            push = functools.partial(self.queue.push_debounced, push=push, rules=rules, session=session)
        return self._wrapped(push)(tasks)

    async def fork(self, task_id: str, *, from_step: str) -> TaskHandle[Any]:
        """Push a copy of a task that continues at one of its steps, as ``charge`` or ``charge#2``: what was done before
        that is taken over. The task itself stays as it is.

        Raises NotFound for a task or a step that does not exist, and as ``push``.
        """
        verbs = self.queue.step_verbs
        new = await verbs.forked(await self.get(task_id), from_step)
        try:
            gated = self._gated(new)
            (row,) = await self._push([gated], None, ())
        except DatabaseUnavailable:
            raise  # the task may be stored, or still be: its steps are left to the sweep for steps without a task
        except Exception:
            await verbs.forget(new)
            raise
        return TaskHandle(self.queue, row.task_id, row is gated)

    async def rerun(self, task_id: str, params: dict[str, Any] | None = None) -> TaskHandle[Any]:
        """Push a copy of an ended task, as a new one of the same type, queue, priority, retries, limits and follow-ups.

        ``params`` replace those of the ended task, which stays as it is. The copy is in no group. Where the ended task
        has a unique key, the handle may be of another task that has it (``created`` is False).

        Raises NotFound, TaskConflict for a task that has not ended, or cannot be decoded and gets no other params, and
        ValidationError for params that the registered handler does not accept, and for other params of a task with
        limits that its type does not declare here.
        """
        ended = await self.get(task_id)
        check_rerun(ended, params is not None)
        handler = self._registered.handlers.get(ended.type)
        values = fitted(handler, ended.params if params is None else check_params(params))
        new = copied(ended, values, self._clock.now(), self._gated)
        (row,) = await self._push([new], None, ())
        return TaskHandle(self.queue, row.task_id, row is new)

    def handle(self, task_id: str) -> TaskHandle[Any]:
        """Return the handle of a task by id, pushed by any process."""
        return TaskHandle(self.queue, task_id, False)

    # ---- groups ----

    def _member_task(self, call: Any) -> Task:
        check_call("add_to_group", call, optional=False)
        return self._task_of(call, self._clock.now())

    def _task_of(self, call: TaskCall[Any], now: int) -> Task:
        for name in OWN:
            if call.options.get(name) is not None:
                raise ValidationError(f"{name}: a task of a group, and its callback, cannot have it")
        task = new_task_of(call, self._registered, now)
        if task.unique_key is not None or task.idempotency_key is not None:
            raise ValidationError(f"{task.type}: a task with debounce, throttle or a key cannot be in a group")
        return task

    @overload
    async def group(
        self,
        calls: Calls[T],
        *,
        then: None = None,
        on_failure: TaskCall[Any] | None = None,
        name: str | None = None,
        group_id: str | None = None,
        budget: Mapping[str, float] | None = None,
        session: Any = None,
    ) -> GroupHandle[list[T]]: ...
    @overload
    async def group(
        self,
        calls: Calls[Any],
        *,
        then: TaskCall[R],
        on_failure: TaskCall[Any] | None = None,
        name: str | None = None,
        group_id: str | None = None,
        budget: Mapping[str, float] | None = None,
        session: Any = None,
    ) -> GroupHandle[R]: ...

    async def group(
        self,
        calls: Calls[Any],
        *,
        then: TaskCall[Any] | None = None,
        on_failure: TaskCall[Any] | None = None,
        name: str | None = None,
        group_id: str | None = None,
        budget: Mapping[str, float] | None = None,
        session: Any = None,
    ) -> GroupHandle[Any]:
        """Push calls that run side by side, and count them, in one transaction: all or none.

        Args:
            calls: ``f.call(…)``, and groups or chains as members.
            then: the call that is pushed when all have completed, in the transaction that ends the last one; its result
                is that of the group. Its handler gets the results of the members as the parameter
                ``results: list[T] = injected()``.
            on_failure: the same when all have ended, and not all have completed. Both read what came of the members by
                ``current_task().results()``.
            name: what lists of groups show; it need not be unique.
            group_id: an id of your own, at most 36 characters: a group with this id is pushed once.
            budget: how much the members, and those of the groups in it, may use up, by the names of
                ``current_task().usage()``. When a sum reaches its budget, the members that have not started wait, and
                so do retries, until ``GroupHandle.set_budget`` raises it or the group is cancelled; running ones go
                on.
            session: the SQLAlchemy session or connection in whose transaction it is pushed.

        Raises:
            ValidationError: also for a call with an id or keys of its own; UnknownHandler, DatabaseUnavailable, and
                NotSupported where the store cannot join the session.
        """
        made: Workflow[Any] = group(calls, then=then, on_failure=on_failure, name=name, budget=budget)
        return await self.start(made, group_id=group_id, session=session)

    async def start(self, workflow: Workflow[R], *, group_id: str | None = None, session: Any = None) -> GroupHandle[R]:
        """Push a workflow, a chain or a group in one transaction: all or none. The arguments and errors of ``group``.

        Raises ValidationError for a cycle, too, whose names are in the error.
        """
        if not isinstance(workflow, Workflow):
            raise ValidationError(
                f"start: a Workflow, chain(…) or group(…) is needed (got {type(workflow).__name__}); "
                "for a list of calls use tq.group"
            )
        if group_id is not None:
            check_key("group_id", group_id, MAX_ID)
        if self._store_clock is not None and self._store_clock.stale:
            await self._look_at_clock()
        now = self._clock.now()
        made = plan(workflow.outline(lambda call: self._task_of(call, now), group_id), now)
        check_callbacks(workflow, self._registered.handlers)
        created = True

        async def push(tasks: Sequence[Task]) -> list[Task]:
            nonlocal created
            created = await self.queue.groups.push(as_pushed(made, tasks), session)
            return [task if created else task.replace() for task in tasks]

        await self._wrapped(push)(list(made.tasks))
        return GroupHandle(self.queue, made.groups[0].group_id, created)

    def group_handle(self, group_id: str) -> GroupHandle[Any]:
        """Return the handle of a group by id, pushed by any process."""
        return GroupHandle(self.queue, group_id, False)

    async def groups(
        self, *, status: GroupStatus | Iterable[GroupStatus] | None = None, limit: int = 100, after: str | None = None
    ) -> list[GroupState]:
        """List groups, the newest first; ``after`` continues behind that group id.

        ``status`` is ``running``, ``completed``, ``failed`` or ``cancelled``, or a list of these. Raises
        ValidationError, and NotFound when there is no such group (any more).
        """
        return await self.queue.groups.find(status, limit, after)

    # ---- operating ----

    @property
    def _operated(self) -> Queue:
        return self.queue

    def _retried(self, task: Task) -> TaskHandle[Any]:
        return TaskHandle(self.queue, task.task_id, False)

    async def health(self, timeout: float | timedelta = 5.0) -> dict[str, str | None]:
        """Return what is wrong with each part, None if nothing: ``store``; ``workers`` and ``scheduler`` if they run.

        A store that does not answer within ``timeout`` seconds has a problem. Raises
        ValidationError for a wrong timeout; opens what a push opens.
        """
        found: dict[str, str | None] = {"store": None}
        seconds = check_seconds("timeout", timeout)
        try:
            async with asyncio.timeout(seconds):
                for backend in self._internal.backends.values():
                    await backend.ping()
        except TimeoutError:
            found["store"] = f"it did not answer within {seconds:g} s"
        except AiotaskqError as error:
            found["store"] = str(error)
        if self.worker is not None:
            found["workers"] = self.worker.problem
            if "_scheduler" in self.__dict__ and self._scheduler.running:
                failures = self._scheduler.failures
                found["scheduler"] = f"{failures} checks for due schedules failed in a row" if failures else None
        return found


def _clock_of(backend: Backend) -> Clock:
    if not backend.durable:
        return SteadyClock()  # nothing outlives the process, and a clock that cannot be set back is at hand
    return SystemClock() if backend.shared == "host" else StoreClock()


def check_taskq(argument: str, tq: object) -> None:
    """Raise ValidationError unless ``tq`` is a task queue of an event loop; ``argument`` begins the message."""
    if not isinstance(tq, TaskQ):
        kind = kind_name(tq)
        raise ValidationError(
            f"{argument}: an aiotaskq.TaskQ is needed (got {kind}); make it with `from aiotaskq import TaskQ`, and "
            "push with tq.sync.push(…) or task.push_sync(…) in `def` endpoints and threads"
        )
