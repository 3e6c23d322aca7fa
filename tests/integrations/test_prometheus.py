"""Metrics: scraped from a running worker and compared with its tasks; bounded, without secrets, off by default."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import aiotaskq.sync
from aiotaskq import Limit, Status, TaskFailed, TaskQ
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.schedule import new_schedule
from aiotaskq.core.task import new_task
from aiotaskq.errors import DatabaseUnavailable, ValidationError
from aiotaskq.integrations.measures import COUNTED
from aiotaskq.integrations.prometheus import Metrics, start_http_server
from tests.support import nursery
from tests.support.logs import logged
from tests.support.machine import VARIABLE, within
from tests.support.programs import ROOT
from tests.support.waiting import eventually

APP = """
import threading, time
from pathlib import Path
from aiotaskq import TaskQ, current_task
from aiotaskq.integrations.prometheus import Metrics

tq = TaskQ("sqlite:///app.db", poll_interval=0.05)
late = set()
tq.on("timeout", lambda event: late.add(event.task.task_id))
metrics = Metrics(tq, port=0, sample_interval=0.1)

def write(word):
    with open("ledger", "a") as ledger:
        ledger.write(word + chr(10))

@tq.task(queue="mail")
async def good():
    write("started good mail")
    write("completed good mail")

@tq.task(max_retries=2, backoff=0.01)
async def flaky():
    write("started flaky default")
    if current_task().task.retry_count < 1:
        write("retried flaky default")
        raise ValueError("not yet")
    write("completed flaky default")

@tq.task(max_retries=0)
def bad():
    write("started bad default")
    write("failed bad default")
    raise ValueError("S3CRET")

@tq.task(max_retries=0, timeout=0.5)
def slow():
    write("started slow default")
    while current_task().task.task_id not in late:
        time.sleep(0.01)
    time.sleep(0.3)
    write("timed_out slow default")
    write("failed slow default")

@tq.task
async def blocking():
    write("started blocking default")
    time.sleep(0.6)
    write("completed blocking default")

@tq.task(max_retries=0)
async def parent():
    write("started parent default")
    for number in range(3):
        await good.push()
        write("pushed good mail")
    write("completed parent default")

@tq.schedule(at=0)
async def scheduled():
    write("pushed scheduled default")
    write("started scheduled default")
    write("completed scheduled default")
"""


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Sample values by name and label values, in the order of the labels' names."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = [value for name, value in sorted(sample.labels.items()) if name != "le"]
            if not sample.name.endswith(("_bucket", "_created")):
                found[sample.name.removeprefix("aiotaskq_"), *labels] = sample.value
    return found


def read(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    return samples(generate_latest(registry).decode())


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=within(10)) as answer:
        return answer.read().decode()  # type: ignore[no-any-return]


@contextmanager
def worker_process(home: Path) -> Iterator[int]:
    """``aiotaskq run`` in the folder; give the port at which it serves its metrics."""
    run = nursery.Popen(
        [sys.executable, "-m", "aiotaskq", "run", "app:tq", "--concurrency", "4"],
        cwd=home,
        env={"PYTHONPATH": str(ROOT), "PATH": "", VARIABLE: os.environ[VARIABLE]},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stderr is not None
    lines = []
    with run:
        try:
            for line in run.stderr:
                lines.append(line)
                if served := re.search(r"http://127\.0\.0\.1:(\d+)/metrics", line):
                    break
            else:
                pytest.fail(f"it served nothing: {lines}")
            drain = threading.Thread(target=run.stderr.read)  # so that the process never waits for us
            drain.start()
            yield int(served[1])
        finally:
            run.terminate()
            run.wait(within(20))
    drain.join()


async def test_metrics_equal_what_ran(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with worker_process(tmp_path) as port:
        tq = TaskQ(f"sqlite:///{tmp_path}/app.db")
        async with tq:
            for name, count in {"flaky": 4, "bad": 3, "slow": 2, "parent": 2, "blocking": 1}.items():
                retries = 2 if name == "flaky" else 0
                await tq.push_many({"type": name, "params": {}, "max_retries": retries} for _ in range(count))
            await tq.push_many({"type": "good", "params": {}, "queue": "mail"} for _ in range(10))
            async with asyncio.timeout(within(30)):
                while (counts := (await tq.stats()).counts)["pending"] or counts["running"]:
                    await asyncio.sleep(0.05)
            assert (counts["completed"], counts["failed"]) == (10 + 6 + 4 + 2 + 1 + 1, 5)
        # The store is counted now and then: until that was after the last task.
        last = {("tasks", "default", "failed"): 5, ("ready_tasks",): 0, ("tasks", "default", "running"): 0}
        await eventually(lambda: samples(scrape(port)).items() >= last.items())
        text = scrape(port)

    told = samples(text)
    ledger = Counter(tuple(line.split()) for line in (tmp_path / "ledger").read_text().splitlines())
    events = ("pushed", "started", "completed", "retried", "failed", "timed_out", "lost", "released", "expired")
    counted = {
        (event, task_type, queue): int(value)
        for (name, *labels), value in told.items()
        if (event := name.removeprefix("tasks_").removesuffix("_total")) in events and len(labels) == 2
        for queue, task_type in [labels]
    }
    assert {key: count for key, count in counted.items() if count} == dict(ledger)
    started = {key[1:]: count for key, count in ledger.items() if key[0] == "started"}
    for name in ("wait_seconds", "run_seconds"):
        assert {k: told[f"{name}_count", k[1], k[0]] for k in started} == started
    assert told["run_seconds_sum", "default", "slow"] >= 2 * (0.5 + 0.3), "as long as the thread, not as its timeout"
    assert told["loop_stall_seconds_count", "default", "blocking"] == 1
    assert told["loop_stall_seconds_sum", "default", "blocking"] >= 0.25
    assert told["schedule_lateness_seconds_count", "default", "scheduled"] == 1
    assert told["schedule_lateness_seconds_sum", "default", "scheduled"] > 1e9, "due in 1970"
    assert told["worker_slots",] == 4 and told["worker_busy_slots",] == 0
    assert told["store_up",] == 1 and told["ready_tasks",] == 0
    assert (told["tasks", "default", "failed"], told["tasks", "mail", "pending"]) == (5, 0)
    assert "S3CRET" not in text and "not yet" not in text  # J8


@pytest.mark.parametrize("limit", [200, 20])
def test_series_are_bounded_whatever_is_pushed(limit: int) -> None:  # H3
    tq, registry = TaskQ("memory://"), CollectorRegistry()
    metrics = Metrics(tq, registry, queues=["vip"], limit=limit)
    for number in range(100):
        tq.task(name=f"known-{number}", queue=f"queue-{number % 10}")(lambda: None)
    tq.elsewhere("far away")
    emit = tq._registered.hooks.call
    task = new_task("known-0", now=0, queue="vip")
    emit("started", 0, task.replace(status=Status.RUNNING))
    for number in range(30_000):
        odd = task.replace(
            task_id=f"id-{number}", type=f"type-{number}", queue=f"q-{number}", error_message=f"{number}"
        )
        emit("started", number, odd)
        emit("failed", number, odd)
    series = set(read(registry))
    assert read(registry)["tasks_failed_total", "other", "other"] == 30_000
    for number in range(30_000):  # what is half known takes no room of what is known
        emit("completed", 0, task.replace(type=f"known-{number % 100}", queue=f"queue-{number}"))
        emit("completed", 0, task.replace(type=f"type-{number}", queue="vip"))
    grown = set(read(registry))
    assert len(grown - series) <= min(limit, 112) + 1 and len(metrics._labels._pairs) <= limit
    told = read(registry)
    assert sum(value for key, value in told.items() if key[0] == "tasks_completed_total") == 60_000
    assert told["tasks_started_total", "vip", "known-0"] == 1
    if limit == 200:
        assert told["tasks_completed_total", "other", "known-55"] == 300
        assert told["tasks_completed_total", "vip", "other"] == 30_000
        assert told["tasks_completed_total", "queue-7", "known-7"] == 1


async def test_each_event_is_counted_where_it_belongs() -> None:
    tq, registry = TaskQ("memory://"), CollectorRegistry()
    Metrics(tq, registry)
    tq.task(name="t")(lambda: None)
    emit, task = tq._registered.hooks.call, new_task("t", now=0)
    emit("lost", 0, task)  # its worker died, it is tried again
    emit("lost", 0, task.replace(status=Status.FAILED))  # for the third time
    emit("failed", 0, task.replace(status=Status.FAILED))
    emit("lost", 0, task.replace(status=Status.RUNNING))  # its own worker was late
    for name in ("cancelled", "expired", "released", "unknown", "timeout"):
        emit(name, 0, task)
    schedule = new_schedule("n", "t", "interval", None, 10, now=0)
    emit("fired", 0, task, schedule=schedule, lateness=0.5)
    emit("skipped", 0, None, schedule=schedule, count=7, skipped=((1, "misfire"), (2, "overlap"), (3, "overlap")))
    emit("disabled", 0, None, schedule=schedule, error="S3CRET")
    emit("stalled", 0, None, seconds=2.0)
    told = {key: value for key, value in read(registry).items() if value and key[0] not in ("store_up",)}
    assert told == {
        **{(f"tasks_{name}_total", "default", "t"): 1 for name in ("failed", "refused", "cancelled", "expired")},
        **{(f"tasks_{name}_total", "default", "t"): 1 for name in ("released", "unknown", "timed_out")},
        ("tasks_lost_total", "default", "t"): 2,
        ("schedule_lateness_seconds_count", "default", "t"): 1,
        ("schedule_lateness_seconds_sum", "default", "t"): 0.5,
        ("schedule_skipped_total", "default", "misfire", "t"): 5,
        ("schedule_skipped_total", "default", "overlap", "t"): 2,
        ("schedules_disabled_total", "default", "t"): 1,
        ("loop_stall_seconds_count", "other", "other"): 1,
        ("loop_stall_seconds_sum", "other", "other"): 2,
    }


async def test_depth_age_wait_and_run_are_measured_by_the_clock_of_the_queue() -> None:
    clock, registry = VirtualClock(), CollectorRegistry()
    tq = TaskQ("memory://", clock=clock)
    Metrics(tq, registry, sample_interval=5)
    go = asyncio.Event()

    @tq.task
    async def work() -> None:
        await go.wait()

    async with tq:
        await tq.push_many([work.call(), work.call()])
        await clock.advance(40)
        async with tq.running(concurrency=1):
            await clock.advance(6)
            told = read(registry)
            assert (told["ready_tasks",], told["oldest_ready_seconds",]) == (1, 45)
            assert (told["tasks", "default", "pending"], told["tasks", "default", "running"]) == (1, 1)
            assert told["worker_busy_slots",] == told["worker_slots",] == 1
            assert told["wait_seconds_sum", "default", "work"] == 40
            go.set()
            await clock.advance(6)
            told = read(registry)
            assert (told["wait_seconds_sum", "default", "work"], told["run_seconds_sum", "default", "work"]) == (86, 6)
            assert told["run_seconds_count", "default", "work"] == 2 and told["ready_tasks",] == 0
    assert read(registry)["worker_slots",] == 0, "no worker runs any more"


@pytest.mark.parametrize("limits", [0, 2, 10])
async def test_the_fullest_limits_have_series_and_the_others_are_one(limits: int) -> None:
    clock, registry = VirtualClock(), CollectorRegistry()
    tq = TaskQ("memory://", clock=clock)
    metrics = Metrics(tq, registry, limits=limits)

    @tq.task(limit=Limit(1, key="tenant"))
    async def work(tenant: str) -> None: ...

    def series(name: str) -> dict[str, float]:
        return {labels[0]: value for (each, *labels), value in read(registry).items() if each == name}

    async with tq, metrics.sampling():
        assert series("limit_waiting") == {}
        for tenant, count in (("a", 2), ("b", 5), ("c", 4), ("d", 1)):
            await tq.push_many([work.call(tenant) for _ in range(count)])
        await tq.limits.pause("tenant:d", 60)
        await clock.advance(16)
        waiting = {"tenant:b": 4, "tenant:c": 3, "tenant:a": 1, "tenant:d": 0}
        labels = list(waiting)[:limits]
        named = {label: waiting[label] for label in labels}
        assert series("limit_waiting") == {**named, "other": 8 - sum(named.values())}
        assert series("limit_held") == {**dict.fromkeys(labels, 1), "other": 4 - len(labels)}
        assert read(registry)["paused_limits",] == 1
        await tq.limits.set("tenant:a", 3)  # its tasks pass
        await tq.push_many([work.call("d") for _ in range(9)])
        await clock.advance(16)
        assert series("limit_waiting").get("tenant:d") == (9 if limits else None)


async def test_follow_ups_count_as_pushed(tmp_path: Path) -> None:
    tq, registry = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=0.05), CollectorRegistry()
    Metrics(tq, registry)
    done = asyncio.Event()

    @tq.task
    async def first() -> None: ...

    @tq.task
    async def second(**_: Any) -> None:
        done.set()

    async with tq.running():
        await first.options(on_success="second").push()
        await asyncio.wait_for(done.wait(), within(20))
    told = read(registry)
    assert told["tasks_pushed_total", "default", "first"] == told["tasks_pushed_total", "default", "second"] == 1


async def test_the_counters_of_registered_handlers_begin_at_zero() -> None:
    tq, registry = TaskQ("memory://"), CollectorRegistry()
    metrics = Metrics(tq, registry)

    @tq.task(queue="mail")
    async def send() -> None: ...

    assert ("tasks_failed_total", "mail", "send") not in read(registry)
    async with tq, metrics.sampling():
        found = read(registry)
        assert {"tasks.failed", "schedules.disabled", "slots.exhausted"} < set(COUNTED)
        for name in COUNTED:
            assert found[f"{name.replace('.', '_')}_total", "mail", "send"] == 0, name


async def test_late_threads_are_gauged_until_they_end() -> None:  # D14
    tq, registry, release = TaskQ("memory://"), CollectorRegistry(), threading.Event()
    Metrics(tq, registry)

    @tq.task(timeout=within(0.05), max_retries=0)  # long enough for a thread to start
    def stuck() -> None:
        release.wait(within(20))

    def held() -> tuple[float, ...]:
        told = read(registry)
        names = ("worker_slots", "worker_busy_slots", "worker_thread_slots", "worker_overdue_threads")
        return tuple(told[name,] for name in names)

    async with tq.running(concurrency=2):
        handles = await tq.push_many([stuck.call(), stuck.call()])
        await eventually(lambda: held() == (2, 2, 2, 2))
        await eventually(lambda: read(registry).get(("slots_exhausted_total", "default", "stuck")) == 1)
        told = read(registry)
        assert told["tasks_timed_out_total", "default", "stuck"] == 2
        assert not told["tasks_failed_total", "default", "stuck"], "they run"
        release.set()
        for handle in handles:
            with pytest.raises(TaskFailed, match="timed out"):
                await handle.result(within(20))
        await eventually(lambda: held() == (2, 0, 0, 0))
    assert read(registry)["tasks_failed_total", "default", "stuck"] == 2


async def test_a_store_that_is_away_is_told_and_work_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, registry = VirtualClock(), CollectorRegistry()
    tq = TaskQ("memory://", clock=clock)
    Metrics(tq, registry)

    async def away() -> Any:
        raise DatabaseUnavailable("away")

    async with tq.running():
        await clock.advance(1)
        assert read(registry)["store_up",] == 1
        with monkeypatch.context() as patch:
            patch.setattr(tq, "stats", away)
            await clock.advance(16)
            assert read(registry)["store_up",] == 0
        await clock.advance(16)
        assert read(registry)["store_up",] == 1


async def test_a_process_without_workers_samples_when_it_wants_to() -> None:
    clock, registry = VirtualClock(), CollectorRegistry()
    tq = TaskQ("memory://", clock=clock)
    metrics = Metrics(tq, registry, port=0)
    async with tq, metrics.sampling():
        await tq.push("x")
        await clock.advance(15)
        assert metrics.serving is not None
        assert samples(await asyncio.to_thread(scrape, metrics.serving))["ready_tasks",] == 1
    assert metrics.serving is None


async def test_ports_are_shared_out_and_work_goes_on_without_one() -> None:
    with logged("DEBUG") as lines, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        tq, other = TaskQ("memory://"), TaskQ("memory://")
        first = Metrics(tq, CollectorRegistry(), port=port)
        second = Metrics(other, CollectorRegistry(), port=port, ports=50)

        @other.task
        async def work() -> int:
            return 1

        async with tq.running(), other.running():
            assert first.serving is None and second.serving is not None
            assert port < second.serving < port + 50
            assert await (await work.push()).result(within(20)) == 1
    assert f"metrics are not served: port {port} of 127.0.0.1, the first of 1, is taken" in lines


async def test_a_port_is_free_for_the_next_run_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    tq = TaskQ("memory://")
    metrics = Metrics(tq, CollectorRegistry(), port=port)
    for _ in range(3):
        async with tq.running():
            assert metrics.serving == port
            assert samples(await asyncio.to_thread(scrape, port))["worker_slots",] == 10


def test_metrics_are_served_on_loopback_by_default() -> None:  # J4
    stop, port = start_http_server(0, registry=CollectorRegistry())
    try:
        assert scrape(port) == ""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), 5)
    finally:
        stop()
        stop()  # as in a clean-up that runs twice


def test_the_blocking_taskq_has_metrics() -> None:
    tq, registry = aiotaskq.sync.TaskQ("memory://"), CollectorRegistry()
    Metrics(tq, registry)

    @tq.task
    def double(x: int) -> int:
        return 2 * x

    with tq.running():
        assert double.push(x=4).result(within(20)) == 8
        assert read(registry)["worker_slots",] == 10
    told = read(registry)
    assert told["tasks_pushed_total", "default", "double"] == told["tasks_completed_total", "default", "double"] == 1


def test_refusals_name_what_is_wrong() -> None:
    tq, registry = TaskQ("memory://"), CollectorRegistry()
    Metrics(tq, registry)
    with pytest.raises(ValidationError, match="there is one for"):
        Metrics(tq, CollectorRegistry())
    with pytest.raises(ValidationError, match="give each TaskQ a namespace of its own"):
        Metrics(TaskQ("memory://"), registry)
    Metrics(TaskQ("memory://"), registry, namespace="another")
    with pytest.raises(ValidationError, match="port: 70000 is not in"):
        Metrics(TaskQ("memory://"), CollectorRegistry(), port=70_000)
    without = "import sys; sys.modules['{}'] = None\nimport aiotaskq.integrations.{}"
    for library, door, wanted in (
        ("prometheus_client", "prometheus", "'prometheus-client>=0.22,<1'"),
        ("opentelemetry", "opentelemetry", "'opentelemetry-api>=1.30,<2'"),
    ):
        code = without.format(library, door)
        run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=within(60))
        assert run.stderr.splitlines()[-1].startswith("aiotaskq.errors.MissingExtra: ")
        assert run.stderr.rstrip().endswith(f": pip install {wanted}")


async def test_without_listeners_no_event_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr("aiotaskq.runtime.hooks.HookCall", lambda *args: made.append(args))
    tq = TaskQ("memory://")

    @tq.task
    async def work() -> None: ...

    async with tq.running():
        await (await work.push()).result(within(20))
    assert made == [] and tq._registered.run_middleware == tq._registered.push_middleware == [] and tq.queue.immediate
