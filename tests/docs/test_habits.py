"""What users of other libraries type from memory: the first section that a search finds has the answer, which works."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import NamedTuple

import pytest

from aiotaskq.cli.docs import sections
from tests.docs.migration import handling, pushing, scheduling, working
from tests.docs.migration.rows import Program, run
from tests.support.command import Cli


class Habit(NamedTuple):
    """What is typed; the page and the heading that come first; a word in the lines below it; a program that uses it."""

    typed: str
    page: str
    heading: str
    answer: str
    program: Program


LIMITS = "Limits, rates and fair shares"
HABITS = [
    # Celery
    Habit("self.retry(countdown=60)", "migration", "From Celery", "Retry(after=60)", handling.retried_after_a_pause),
    Habit("celery chord", "migration", "From Celery", "then=total.call()", pushing.a_callback_of_a_group),
    Habit("apply_async(eta=tomorrow)", "migration", "From Celery", "at=…", pushing.pushed_at_a_time),
    Habit("acks_late", "migration", "From Celery", "task.crashes", handling.run_again_after_a_crash),
    Habit(
        "worker_prefetch_multiplier",
        "migration",
        "From Celery",
        "concurrency=1",
        working.claimed_when_there_is_a_free_slot,
    ),
    Habit("CELERY_TASK_ALWAYS_EAGER", "migration", "From Celery", "inline(tq)", handling.inside_the_push),
    # arq
    Habit("raise Retry(defer=5)", "migration", "From arq", "Retry(after=5)", handling.retried_after_a_pause),
    Habit("_job_id", "migration", "From arq", "unique_key", pushing.keys),
    Habit("arq cron", "migration", "From arq", "@tq.schedule(cron=", scheduling.every_night),
    Habit("ctx['redis']", "migration", "From arq", "@tq.resource", handling.opened_once_in_a_worker),
    Habit("keep_result", "migration", "From arq", "retention=3600", handling.results_are_kept_for_an_hour),
    # dramatiq
    Habit("@dramatiq.actor", "migration", "From dramatiq", "@tq.task(", working.queues_and_priorities),
    Habit("dramatiq time_limit", "migration", "From dramatiq", "timeout=30", handling.timeouts_and_expiry),
    Habit("dramatiq pipeline", "migration", "From dramatiq", "chain(", pushing.one_after_the_other),
    Habit("rate limiter", "limits", LIMITS, "rate limiter", handling.at_most_ten_a_minute),
    Habit("send_with_options(delay=1000)", "migration", "From dramatiq", "delay=60", pushing.pushed),
    # RQ
    Habit("queue.enqueue_in", "migration", "From RQ", "delay=60", pushing.pushed),
    Habit("depends_on", "migration", "From RQ", "after=", pushing.after_another),
    Habit("job.meta", "migration", "From RQ", "progress(", handling.progress_is_shown),
    Habit("at_front", "migration", "From RQ", "priority=-1", working.queues_and_priorities),
    Habit("rq worker --burst", "migration", "From RQ", "tq.count(", working.until_nothing_waits),
    # APScheduler
    Habit("add_job", "migration", "From APScheduler", "tq.schedules.add(", scheduling.declared_or_added),
    Habit("misfire_grace_time", "migration", "From APScheduler", "catch_up", scheduling.late_runs),
    Habit("coalesce", "migration", "From APScheduler", "fire_once", scheduling.late_runs),
    Habit("max_instances", "migration", "From APScheduler", 'overlap="skip"', scheduling.one_at_a_time),
    Habit("jobstore", "migration", "From APScheduler", "TaskQ(url, schedules=…)", scheduling.a_store_of_their_own),
    # Huey
    Habit("@periodic_task", "migration", "From Huey", "@tq.schedule(cron=", scheduling.every_night),
    Habit("huey.immediate", "migration", "From Huey", "inline(tq)", handling.inside_the_push),
    Habit("task lock", "limits", LIMITS, "limit=Limit(1)", handling.at_most_some_at_a_time),
    Habit("pre_execute hook", "migration", "From Huey", "@tq.middleware", handling.hooks_and_middleware),
    Habit("huey f.s().then()", "migration", "From Huey", "chain(", pushing.one_after_the_other),
]


def place(habit: Habit) -> int:
    """Return which section of its page it is: the headings of a translation are in the same order."""
    return [section.heading for section in sections(habit.page)].index(habit.heading)


@pytest.mark.parametrize("locale", ["en_US.UTF-8", "zh_CN.UTF-8"])
@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: habit.typed)
def test_a_habit_is_found_in_one_try(habit: Habit, locale: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = place(habit)
    monkeypatch.setenv("LC_ALL", locale)
    first, *below = cli.out("docs", "--search", habit.typed).splitlines()
    assert first.replace("：", ": ") == f"{habit.page}: {list(sections(habit.page))[wanted].heading}"
    assert habit.answer in "\n".join(itertools.takewhile(lambda line: line.startswith("  "), below))


@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: habit.typed)
def test_a_habit_works(habit: Habit, cli: Cli, tmp_path: Path) -> None:
    run(habit.program, cli, tmp_path)
