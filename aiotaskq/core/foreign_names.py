"""Names that other libraries have and people type first, with what says the same here, and the page of the manual.

The libraries are Celery, dramatiq, arq, RQ, huey, taskiq, APScheduler, procrastinate and SAQ. Errors about an unknown
attribute, option, command, or option of a command look here.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar, cast

from aiotaskq.core.errors import ValidationError

__all__ = ["NAMES", "Hinted", "Word", "checks_options", "unknown_options", "word"]

F = TypeVar("F", bound=Callable[..., Any])

NAMES: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "function": {
        "tasks": {
            "f.push(…)": "delay send kiq defer defer_async enqueue aenqueue",
            "f.options(delay=60).push(…)": "apply_async send_with_options enqueue_in schedule",
            "f.options(…).push(…)": "kicker configure using",
            "f.options(at=…).push(…)": "enqueue_at schedule_by_time",
            "f(…)": "apply call_local fn",
            "tq.push_many([f.call(…), …])": "map starmap chunks batch_defer",
            "raise an exception (backoff=…), or current_task().snooze(60)": "retry",
            "tq.handle(id)": "AsyncResult",
        },
        "workflows": {
            "f.call(…)": "s si signature subtask message message_with_options",
        },
        "transactions": {
            "f.options(session=session).push(…)": "delay_on_commit",
        },
        "schedules": {
            '@tq.schedule(cron="0 2 * * *")': "schedule_by_cron schedule_by_interval",
        },
    },
    "queue": {
        "tasks": {
            'f.push(…), or tq.push("type", {…})': "send_task enqueue_job enqueue kick",
            'tq.push("type", {…}, delay=60)': "enqueue_in enqueue_at",
            "@tq.task": "actor job shared_task register_task db_task context_task",
            "tq.handle(id)": "AsyncResult fetch_job result job_manager",
            "tq.cancel(id)": "revoke abort",
            'tq.find(status="pending")': "queued_jobs jobs pending get_queue_jobs",
            'tq.find(status="failed")': "failed_job_registry failed_jobs",
            "tq.purge(…)": "flush empty",
            "@tq.middleware": "before_process after_process add_middleware",
        },
        "schedules": {
            '@tq.schedule(cron="0 2 * * *")': (
                "periodic_task periodic cron cron_jobs scheduled_job add_periodic_task add_schedule"
            ),
            "@tq.schedule(…), or tq.schedules.add(…)": "add_job",
            "tq.schedules.list()": "get_jobs print_jobs",
            "tq.schedules.get(name)": "get_job",
            "tq.schedules.delete(name)": "remove_job",
            "tq.schedules.pause(name)": "pause_job",
            "tq.schedules.resume(name)": "resume_job",
            "tq.schedules.update(name, …)": "modify_job reschedule_job",
        },
        "workers": {
            "tq.run()": "worker_main run_worker run_worker_async work listen",
            "async with tq, or tq.running()": "startup connect open_async",
            "tq.close()": "shutdown stop disconnect close_async",
            "@tq.resource": "on_startup on_event on_shutdown",
            "tq.workers": "control",
        },
        "alerts": {
            '@tq.on("failed")': "signal",
        },
        "limits": {
            "@tq.task(limit=Limit(1))": "lock_task",
        },
        "migration": {
            "an import of each module with tasks, below tq = TaskQ(…)": "autodiscover_tasks",
            "TaskQ(…) and its arguments": "conf",
        },
    },
    "handle": {
        "tasks": {
            "handle.result(timeout=5)": "get wait wait_result return_value join output",
            "handle.status()": "ready state successful failed is_ready is_finished done",
            "handle.task_id": "id job_id message_id",
            "handle.cancel()": "revoke abort delete forget",
            "handle.progress()": "info meta",
            "handle.task()": "traceback exc_info refresh",
        },
    },
    "context": {
        "tasks": {
            "current_task().task": "request message job get",
            "raise an exception (backoff=…), or current_task().snooze(60)": "retry",
            "current_task().progress(done, total)": "update_state update_progress save_meta meta",
            "current_task().task.retry_count": "job_try attempts retries",
            "current_task().cancel_requested": "is_aborted should_abort",
        },
    },
    "task option": {
        "tasks": {
            "current_task() in the handler": "bind pass_context context ctx",
            "retry_on=…": "autoretry_for retry_when dont_autoretry_for throws",
            "max_retries=3": "retries max_tries retry retry_kwargs retry_on_error",
            "backoff=Backoff(base=1)": "retry_backoff default_retry_delay retry_delay min_backoff",
            "backoff=Backoff(limit=600)": "retry_backoff_max max_backoff",
            "backoff=Backoff(jitter=True)": "retry_jitter",
            "timeout=30": "time_limit soft_time_limit job_timeout",
            "expires=3600": "max_age ttl",
            "queue=…": "queue_name routing_key",
            "name=…": "actor_name task_name",
            "f.options(unique_key=…).push(…)": "queueing_lock unique",
            "@tq.middleware": "base",
        },
        "limits": {
            "rate=Rate(10, per=60)": "rate_limit",
            "limit=Limit(1)": "lock max_instances concurrency max_concurrency concurrency_limit",
        },
        "stores": {
            "TaskQ(…, retention=3600)": "ignore_result result_expires result_ttl keep_result",
            "TaskQ(…, retention_failed=3600)": "failure_ttl",
            "TaskQ(…, codec=…)": "serializer",
        },
        "schedules": {
            '@tq.schedule(cron="0 2 * * *")': "cron schedule run_every",
        },
        "migration": {
            "nothing: a task is always settled after its run": "acks_late reject_on_worker_lost",
        },
    },
    "Django task": {
        "django": {
            "task.enqueue(…)": "delay push send kiq defer",
            "task.using(run_after=…).enqueue(…)": (
                "apply_async options send_with_options enqueue_in enqueue_at schedule"
            ),
            "task.using(…).enqueue(…)": "kicker configure",
            "task.enqueue(…) in atomic()": "delay_on_commit apply_async_on_commit",
            "task.func(…)": "apply call_local fn run",
            "tq.call(task, {…})": "s si signature subtask message",
            "task.get_result(id)": "AsyncResult",
            "raise an exception (backoff=…), or current_task().snooze(60)": "retry",
        },
    },
    "option of a Django task": {
        "django": {
            "takes_context=True": "bind pass_context context ctx",
            "queue_name=…": "queue routing_key",
            "task.using(run_after=…)": "countdown eta delay at _defer_by _defer_until",
            "nothing: its name is the path of the function": "name task_name actor_name",
            "tq.push(task, {…}, task_id=…)": "task_id job_id _job_id",
            "unique_key=…": "queueing_lock unique",
            '@schedule(cron="0 2 * * *")': "cron schedule run_every",
        },
    },
    "push option": {
        "tasks": {
            "delay=60": "countdown _defer_by schedule_in",
            "at=…": "eta _defer_until schedule_at scheduled run_after",
            "on_success=…": "link",
            "on_failure=…": "link_error",
            "unique_key=…": "_job_id queueing_lock lock",
            "task_id=…": "job_id",
            "queue=…": "routing_key queue_name _queue_name",
            "expires=3600": "_expires ttl",
            "timeout=30": "time_limit soft_time_limit job_timeout",
            "max_retries=3": "retries retry max_tries",
            "priority=-1": "at_front",
            "f.push(…)": "args kwargs",
        },
        "workflows": {
            "Workflow().add(…, after=[…])": "depends_on",
        },
    },
    "schedule option": {
        "schedules": {
            'cron="0 2 * * *"': (
                "second minute hour day week month crontab expression day_of_week day_of_month month_of_year weekday"
            ),
            "interval=60": "seconds minutes hours days weeks every run_every",
            "at=…": "run_date eta run_at time",
            'cron="0 2 * * *", interval=60 or at=…': "trigger",
            "params={…}": "args kwargs",
            "name=…": "id schedule_id periodic_id",
            "catch_up=3600": "misfire_grace_time",
            'misfire="fire_once"': "coalesce",
            'overlap="skip"': "max_instances unique",
            'timezone="Asia/Shanghai"': "tz zoneinfo cron_offset",
            "TaskQ(…, schedules=…)": "jobstore",
        },
    },
    "constructor": {
        "stores": {
            'TaskQ("redis://…")': (
                "broker broker_url backend result_backend redis connection redis_settings connector dsn database_url"
            ),
            "TaskQ(…, schedules=…)": "jobstores jobstore",
            "TaskQ(…, retention=3600)": "result_expires result_ttl keep_result",
        },
        "workers": {
            "tq.run(concurrency=20)": "concurrency max_jobs workers threads",
        },
        "testing": {
            "aiotaskq.testing.inline(tq)": "task_always_eager immediate is_async",
        },
        "migration": {
            "an import of each module with tasks": "include imports functions",
        },
    },
    "command": {
        "command-line": {
            "run": "worker beat scheduler start multi consumer work app",
            "push": "enqueue add call send defer",
            "stats": "status info inspect report monitor",
            "tasks retry": "requeue failed",
            "tasks cancel": "revoke abort",
            "tasks list": "result jobs queue",
            "db upgrade": "migrate schema",
            "check": "healthchecks",
            "workers": "control",
            "limits": "gates rates",
        },
        "dashboard": {
            "web": "dashboard ui serve flower",
        },
        "workflows": {
            "groups": "workflows",
        },
        "schedules": {
            "schedules": "cron",
        },
    },
    "command of a group": {
        "command-line": {
            "list": "ls",
            "delete": "rm remove purge empty flush",
            "run or run-now": "fire trigger run run-job now",
            "retry": "requeue reschedule",
            "cancel": "revoke abort kill",
            "show or get": "get show info inspect status",
            "add": "create new",
            "pause or quiet": "disable stop",
            "resume or wake": "enable unpause start",
        },
    },
    "option of a command": {
        "command-line": {
            "--concurrency 20": "-c -t --threads --workers -w --max-async-tasks",
            "aiotaskq run app:tq": "-A --app",
            "--queues mail,default": "-Q -q --queue",
            "--log-level DEBUG": "-l --loglevel --logging-level -v --verbose",
            "--processes 4": "-p -P --pool --worker-type -k",
            "--db redis://…": "-u --url --redis -b --broker",
            "nothing: every worker runs the schedules": "-B --beat",
            "--drain 25": "--shutdown-timeout --wait-tasks-timeout",
        },
    },
}
"""By the place of the names and the page of the manual: what says the same here, and the names elsewhere."""


_BASES = {"option of a Django task": "task option"}
"""Places whose other names are those of another place."""


class Word(NamedTuple):
    """What says the same here, and the page of the manual about it."""

    here: str
    page: str


def word(place: str, name: str) -> Word | None:
    """Return what a name of another library is here; None if the table has it not."""
    for page, words in NAMES[place].items():
        for here, names in words.items():
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
            if unknown := options.keys() - known:
                raise unknown_options(where, place, unknown, known)
            if len(args) > taken:
                raise ValidationError(f"{where}: options are given by name, as in {where}({named[0]}=…)")
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
