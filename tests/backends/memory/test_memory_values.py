"""Public values in memory: any order of sets, reads and sweeps, also of several threads at a time."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from aiotaskq.backends.memory.values import MemoryValues
from aiotaskq.core.task import SECOND
from tests.support.machine import watchdog
from tests.support.threads import in_thread

KEYS = st.sampled_from(["a", "b", "c"])
STEPS = st.one_of(
    st.tuples(st.just("set"), KEYS, st.none() | st.integers(0, 5 * SECOND)),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("pass"), st.integers(0, 3 * SECOND)),
    st.tuples(st.just("sweep"), st.integers(1, 3)),
    st.tuples(st.just("clear")),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, max_size=40))
async def test_it_equals_a_dict_of_values_and_ends_and_keeps_nothing(steps: list[tuple[Any, ...]]) -> None:
    values, model, now = MemoryValues(), dict[str, tuple[int, float]](), 0
    for number, (step, *args) in enumerate(steps):
        live = {key: value for key, (value, end) in model.items() if end > now}
        if step == "set":
            key, ttl = args
            await values.put([(key, number, None if ttl is None else now + ttl)])
            model[key] = number, float("inf") if ttl is None else now + ttl
        elif step == "delete":
            assert await values.delete(args, now) == [args[0] in live]
            model.pop(args[0], None)
        elif step == "pass":
            now += args[0]
        elif step == "sweep":
            assert await values.expire(now, args[0]) <= args[0]
        else:
            await values.clear()
            model.clear()
        live = {key: value for key, (value, end) in model.items() if end > now}
        assert {key: values.read(key, now) for key in await values.keys(now)} == live
        assert await values.count(now) == len(live)
    await values.expire(now + 10 * SECOND, 100)
    permanent = {key for key, (_, end) in model.items() if end == float("inf")}
    assert set(values._values) == permanent
    assert not (values._unlisted or values._listed or values._second or values._seconds)


async def test_a_value_set_while_a_sweep_removes_the_old_one_stays_and_is_read() -> None:
    values = MemoryValues()
    reads: list[Future[Any]] = []

    class Racing(dict[str, Any]):
        def pop(self, key: str, *default: Any) -> Any:
            values.set(key, "new", 9 * SECOND)  # the sweep has just seen that the old value has expired
            popped = super().pop(key, *default)
            begun = threading.Event()
            reads.append(in_thread(lambda: (begun.set(), values.read(key, 2 * SECOND))[1]))
            assert begun.wait(watchdog())
            return popped

    values.set("key", "old", SECOND)
    values._values = Racing(values._values)
    assert await values.expire(2 * SECOND, 10) == 0
    assert [read.result(watchdog()) for read in reads] == ["new"]
    values._values = dict(values._values)
    assert values.read("key", 2 * SECOND) == "new"
    assert await values.expire(9 * SECOND, 10) == 1 and not values._values
