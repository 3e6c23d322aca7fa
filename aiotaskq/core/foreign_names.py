"""Names that other libraries have and people type first, with what says the same here, and the page of the manual.

The libraries are Celery, dramatiq, arq, RQ, huey, taskiq, APScheduler, procrastinate and SAQ. Errors about an unknown
attribute, option, command, or option of a command look here.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar, cast

from aiotaskq.core.errors import ValidationError

F = TypeVar("F", bound=Callable[..., Any])

NAMES: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "function": {
        "f.push(…)": ("tasks", "delay send kiq defer defer_async enqueue aenqueue"),
        "f.options(delay=60).push(…)": ("tasks", "apply_async send_with_options enqueue_in schedule"),
        "f.options(…).push(…)": ("tasks", "kicker configure using"),
        "f.options(at=…).push(…)": ("tasks", "enqueue_at schedule_by_time"),
        "f(…)": ("tasks", "apply call_local fn"),
        "tq.push_many([f.call(…), …])": ("tasks", "map starmap chunks batch_defer"),
        "raise an exception (backoff=…), or current_task().snooze(60)": ("tasks", "retry"),
        "tq.handle(id)": ("tasks", "AsyncResult"),
        "f.call(…)": ("workflows", "s si signature subtask message message_with_options"),
        "f.options(session=session).push(…)": ("transactions", "delay_on_commit"),
        '@tq.schedule(cron="0 2 * * *")': ("schedules", "schedule_by_cron schedule_by_interval"),
    },
    "queue": {
        'f.push(…), or tq.push("type", {…})': ("tasks", "send_task enqueue_job enqueue kick"),
        'tq.push("type", {…}, delay=60)': ("tasks", "enqueue_in enqueue_at"),
        "@tq.task": ("tasks", "actor job shared_task register_task db_task context_task"),
        "tq.handle(id)": ("tasks", "AsyncResult fetch_job result job_manager"),
        "tq.cancel(id)": ("tasks", "revoke abort"),
        'tq.find(status="pending")': ("tasks", "queued_jobs jobs pending get_queue_jobs"),
        'tq.find(status="failed")': ("tasks", "failed_job_registry failed_jobs"),
        "tq.purge(…)": ("tasks", "flush empty"),
        "@tq.middleware": ("tasks", "before_process after_process add_middleware"),
        '@tq.schedule(cron="0 2 * * *")': (
            "schedules",
            "periodic_task periodic cron cron_jobs scheduled_job add_periodic_task add_schedule",
        ),
        "@tq.schedule(…), or tq.schedules.add(…)": ("schedules", "add_job"),
        "tq.schedules.list()": ("schedules", "get_jobs print_jobs"),
        "tq.schedules.get(name)": ("schedules", "get_job"),
        "tq.schedules.delete(name)": ("schedules", "remove_job"),
        "tq.schedules.pause(name)": ("schedules", "pause_job"),
        "tq.schedules.resume(name)": ("schedules", "resume_job"),
        "tq.schedules.update(name, …)": ("schedules", "modify_job reschedule_job"),
        "tq.run()": ("workers", "worker_main run_worker run_worker_async work listen"),
        "async with tq, or tq.running()": ("workers", "startup connect open_async"),
        "tq.close()": ("workers", "shutdown stop disconnect close_async"),
        "@tq.resource": ("workers", "on_startup on_event on_shutdown"),
        "tq.workers": ("workers", "control"),
        '@tq.on("failed")': ("alerts", "signal"),
        "@tq.task(limit=Limit(1))": ("limits", "lock_task"),
        "an import of each module with tasks, below tq = TaskQ(…)": ("migration", "autodiscover_tasks"),
        "TaskQ(…) and its arguments": ("migration", "conf"),
    },
    "handle": {
        "handle.result(timeout=5)": ("tasks", "get wait wait_result return_value join output"),
        "handle.status()": ("tasks", "ready state successful failed is_ready is_finished done"),
        "handle.task_id": ("tasks", "id job_id message_id"),
        "handle.cancel()": ("tasks", "revoke abort delete forget"),
        "handle.progress()": ("tasks", "info meta"),
        "handle.task()": ("tasks", "traceback exc_info refresh"),
    },
    "context": {
        "current_task().task": ("tasks", "request message job get"),
        "raise an exception (backoff=…), or current_task().snooze(60)": ("tasks", "retry"),
        "current_task().progress(done, total)": ("tasks", "update_state update_progress save_meta meta"),
        "current_task().task.retry_count": ("tasks", "job_try attempts retries"),
        "current_task().cancel_requested": ("tasks", "is_aborted should_abort"),
    },
    "task option": {
        "current_task() in the handler": ("tasks", "bind pass_context context ctx"),
        "retry_on=…": ("tasks", "autoretry_for retry_when dont_autoretry_for throws"),
        "max_retries=3": ("tasks", "retries max_tries retry retry_kwargs retry_on_error"),
        "backoff=Backoff(base=1)": ("tasks", "retry_backoff default_retry_delay retry_delay min_backoff"),
        "backoff=Backoff(limit=600)": ("tasks", "retry_backoff_max max_backoff"),
        "backoff=Backoff(jitter=True)": ("tasks", "retry_jitter"),
        "timeout=30": ("tasks", "time_limit soft_time_limit job_timeout"),
        "expires=3600": ("tasks", "max_age ttl"),
        "queue=…": ("tasks", "queue_name routing_key"),
        "name=…": ("tasks", "actor_name task_name"),
        "f.options(unique_key=…).push(…)": ("tasks", "queueing_lock unique"),
        "@tq.middleware": ("tasks", "base"),
        "rate=Rate(10, per=60)": ("limits", "rate_limit"),
        "limit=Limit(1)": ("limits", "lock max_instances concurrency max_concurrency concurrency_limit"),
        "TaskQ(…, retention=3600)": ("stores", "ignore_result result_expires result_ttl keep_result"),
        "TaskQ(…, retention_failed=3600)": ("stores", "failure_ttl"),
        "TaskQ(…, codec=…)": ("stores", "serializer"),
        '@tq.schedule(cron="0 2 * * *")': ("schedules", "cron schedule run_every"),
        "nothing: a task is always settled after its run": ("migration", "acks_late reject_on_worker_lost"),
    },
    "Django task": {
        "task.enqueue(…)": ("django", "delay push send kiq defer"),
        "task.using(run_after=…).enqueue(…)": (
            "django",
            "apply_async options send_with_options enqueue_in enqueue_at schedule",
        ),
        "task.using(…).enqueue(…)": ("django", "kicker configure"),
        "task.enqueue(…) in atomic()": ("django", "delay_on_commit apply_async_on_commit"),
        "task.func(…)": ("django", "apply call_local fn run"),
        "tq.call(task, {…})": ("django", "s si signature subtask message"),
        "task.get_result(id)": ("django", "AsyncResult"),
        "raise an exception (backoff=…), or current_task().snooze(60)": ("django", "retry"),
    },
    "option of a Django task": {
        "takes_context=True": ("django", "bind pass_context context ctx"),
        "queue_name=…": ("django", "queue routing_key"),
        "task.using(run_after=…)": ("django", "countdown eta delay at _defer_by _defer_until"),
        "nothing: its name is the path of the function": ("django", "name task_name actor_name"),
        "tq.push(task, {…}, task_id=…)": ("django", "task_id job_id _job_id"),
        "unique_key=…": ("django", "queueing_lock unique"),
        '@schedule(cron="0 2 * * *")': ("django", "cron schedule run_every"),
    },
    "push option": {
        "delay=60": ("tasks", "countdown _defer_by schedule_in"),
        "at=…": ("tasks", "eta _defer_until schedule_at scheduled run_after"),
        "on_success=…": ("tasks", "link"),
        "on_failure=…": ("tasks", "link_error"),
        "unique_key=…": ("tasks", "_job_id queueing_lock lock"),
        "task_id=…": ("tasks", "job_id"),
        "queue=…": ("tasks", "routing_key queue_name _queue_name"),
        "expires=3600": ("tasks", "_expires ttl"),
        "timeout=30": ("tasks", "time_limit soft_time_limit job_timeout"),
        "max_retries=3": ("tasks", "retries retry max_tries"),
        "priority=-1": ("tasks", "at_front"),
        "f.push(…)": ("tasks", "args kwargs"),
        "Workflow().add(…, after=[…])": ("workflows", "depends_on"),
    },
    "schedule option": {
        'cron="0 2 * * *"': (
            "schedules",
            "second minute hour day week month crontab expression day_of_week day_of_month month_of_year weekday",
        ),
        "interval=60": ("schedules", "seconds minutes hours days weeks every run_every"),
        "at=…": ("schedules", "run_date eta run_at time"),
        'cron="0 2 * * *", interval=60 or at=…': ("schedules", "trigger"),
        "params={…}": ("schedules", "args kwargs"),
        "name=…": ("schedules", "id schedule_id periodic_id"),
        "catch_up=3600": ("schedules", "misfire_grace_time"),
        'misfire="fire_once"': ("schedules", "coalesce"),
        'overlap="skip"': ("schedules", "max_instances unique"),
        'timezone="Asia/Shanghai"': ("schedules", "tz zoneinfo cron_offset"),
        "TaskQ(…, schedules=…)": ("schedules", "jobstore"),
    },
    "package": {
        "TaskQ(…)": ("tasks", "Celery Broker Huey App AsyncQueue Dramatiq Procrastinate"),
        "@tq.task, of tq = TaskQ(…)": ("tasks", "task shared_task actor job async_task"),
        "@tq.schedule(cron=…), of tq = TaskQ(…)": ("schedules", "schedule cron crontab periodic_task Cron CronTrigger"),
        "aiotaskq run, or async with tq.running()": ("workers", "Worker"),
        "raise an exception (backoff=…), or current_task().snooze(60)": ("tasks", "Retry"),
        "handle.result()": ("tasks", "AsyncResult"),
    },
    "constructor": {
        'TaskQ("redis://…")': (
            "stores",
            "broker broker_url backend result_backend redis connection redis_settings connector dsn database_url",
        ),
        "TaskQ(…, schedules=…)": ("stores", "jobstores jobstore"),
        "TaskQ(…, retention=3600)": ("stores", "result_expires result_ttl keep_result"),
        "tq.run(concurrency=20)": ("workers", "concurrency max_jobs workers threads"),
        "aiotaskq.testing.inline(tq)": ("testing", "task_always_eager immediate is_async"),
        "an import of each module with tasks": ("migration", "include imports functions"),
    },
    "command": {
        "run": ("command-line", "worker beat scheduler start multi consumer work app"),
        "push": ("command-line", "enqueue add call send defer"),
        "stats": ("command-line", "status info inspect report monitor"),
        "tasks retry": ("command-line", "requeue failed"),
        "tasks cancel": ("command-line", "revoke abort"),
        "tasks list": ("command-line", "list ls result jobs queue"),
        "tasks delete": ("command-line", "purge flush clear"),
        "db upgrade": ("command-line", "migrate schema"),
        "check": ("command-line", "healthchecks"),
        "workers": ("command-line", "control"),
        "limits": ("command-line", "gates rates"),
        "web": ("dashboard", "dashboard ui serve flower"),
        "groups": ("workflows", "workflows"),
        "schedules": ("schedules", "cron"),
    },
    "command of a group": {
        "list": ("command-line", "ls"),
        "delete": ("command-line", "rm remove purge empty flush"),
        "run or run-now": ("command-line", "fire trigger run run-job now"),
        "retry": ("command-line", "requeue reschedule"),
        "cancel": ("command-line", "revoke abort kill"),
        "show or get": ("command-line", "get show info inspect status"),
        "add": ("command-line", "create new"),
        "pause or quiet": ("command-line", "disable stop"),
        "resume or wake": ("command-line", "enable unpause start"),
    },
    "option of a command": {
        "--concurrency 20": ("command-line", "-c -t --threads --workers -w --max-async-tasks"),
        "aiotaskq run app:tq": ("command-line", "-A --app"),
        "--queues mail,default": ("command-line", "-Q -q --queue"),
        "--log-level DEBUG": ("command-line", "-l --loglevel --logging-level -v --verbose"),
        "--processes 4": ("command-line", "-p -P --pool --worker-type -k"),
        "--db redis://…": ("command-line", "-u --url --redis -b --broker"),
        "nothing: every worker runs the schedules": ("command-line", "-B --beat"),
        "--drain 25": ("command-line", "--shutdown-timeout --wait-tasks-timeout"),
        "--help": ("command-line", "-h -?"),
        "--version": ("command-line", "-V"),
    },
}
"""By the place of the names: what says the same here, the page of the manual about it, and the names elsewhere."""


_BASES = {"option of a Django task": "task option"}
"""Places whose other names are those of another place."""


class Word(NamedTuple):
    """What says the same here, and the page of the manual about it."""

    here: str
    page: str


def word(place: str, name: str) -> Word | None:
    """Return what a name of another library is here; None if the table has it not."""
    for here, (page, names) in NAMES[place].items():
        if name in names.split():
            return Word(here, page)
    return word(_BASES[place], name) if place in _BASES else None


def unknown_options(where: str, place: str, unknown: Collection[str], known: Collection[str]) -> ValidationError:
    """Return the error of a call with options that there are not."""
    for name in sorted(unknown):
        if (found := word(place, name)) is not None:
            return ValidationError(
                f"{where}: there is no option {name!r}; here: {found.here} ('aiotaskq docs {found.page}')"
            )
        import difflib

        if close := difflib.get_close_matches(name, known, n=1, cutoff=0.7):
            return ValidationError(f"{where}: unknown option {name}; did you mean {close[0]}?")
    return ValidationError(f"{where}: unknown option {', '.join(sorted(unknown))}; use {', '.join(known)}")


def checks_options(where: str, place: str, more: Collection[str] = ()) -> Callable[[F], F]:
    """Decorate a method so that an unknown keyword argument raises the error of ``unknown_options``.

    So does a positional argument that it does not take. ``more`` are the names that its ``**options`` take.
    """

    def decorate(function: F) -> F:
        parameters = [each for each in inspect.signature(function).parameters.values() if each.kind != each.VAR_KEYWORD]
        named = [each.name for each in parameters if each.kind == each.KEYWORD_ONLY]
        taken = len(parameters) - len(named)
        known = [each.name for each in parameters if each.name not in ("self", "function")]
        known += [name for name in more if name not in known]

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            if not args or inspect.isfunction(args[0]):
                raise ValidationError(f"{where}: make a task queue first, tq = TaskQ(…), and write @tq.{where}")
            if unknown := options.keys() - known:
                raise unknown_options(where, place, unknown, known)
            if len(args) > taken:
                raise ValidationError(f"{where}: options are given by name, as in {where}({(named or known)[0]}=…)")
            return function(*args, **options)

        return cast(F, call)

    return decorate


class Hinted:
    """A base class whose error about an unknown attribute says what that of another library is here."""

    __slots__ = ()
    _place: ClassVar[str]
    """Where in the table its attributes are."""

    if not TYPE_CHECKING:  # type checkers go on to report unknown attributes

        def __getattr__(self, name: str) -> Any:
            error = f"{type(self).__name__!r} object has no attribute {name!r}"
            if (found := word(self._place, name)) is not None:
                error += f"; here: {found.here} ('aiotaskq docs {found.page}')"
            raise AttributeError(error, name=name, obj=self)
