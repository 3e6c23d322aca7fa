"""The heap of the schedules that are due next agrees with the store."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aiotaskq.core.schedule import Schedule, new_schedule
from aiotaskq.core.task import SECOND
from aiotaskq.runtime.scheduler.scheduler import HOLD, DueHeap

START = 1_700_000_000_000_000


def schedule(task_id: str, seconds: float, **changes: object) -> Schedule:
    made = new_schedule("s", "t", "once", execute_at=START // SECOND + 1, task_id=task_id, now=START)
    due = START + int(seconds * SECOND)
    return made.replace(next_run_at=due // SECOND, next_run_us=due % SECOND, **changes)


def test_it_gives_what_is_due_the_earliest_first() -> None:
    heap = DueHeap()
    assert (heap.head(), heap.take(START, 10), heap.covers(START)) == (None, [], False)
    later, soon, sooner = schedule("later", 0.9), schedule("soon", 0.5), schedule("sooner", 0.25)
    heap.fill([later, soon, sooner], START, START + SECOND)
    assert heap.head() == START + SECOND // 4
    assert heap.take(START + SECOND // 4 - 1, 10) == []
    assert heap.take(START + SECOND // 2, 1) == [sooner]
    assert heap.take(START + SECOND // 2, 10) == [soon]
    assert heap.take(START + SECOND // 2, 10) == []
    assert heap.head() == later.due


def test_it_covers_neither_what_it_did_not_read_nor_a_time_before() -> None:  # C12
    heap = DueHeap()
    heap.fill([], START, START + SECOND)
    covered = [heap.covers(START + moment) for moment in (-1, 0, SECOND - 1, SECOND)]
    assert covered == [False, True, True, False]
    heap.forget()
    assert not heap.covers(START)


def test_what_is_noted_stands_in_place_of_what_was_known() -> None:  # C10
    heap = DueHeap()
    heap.fill([schedule("a", 0.5), schedule("b", 0.6), schedule("c", 0.7)], START, START + SECOND)
    earlier, same = schedule("b", 0.1), schedule("a", 0.5, version=1)
    heap.note(earlier)
    heap.note(same)
    heap.note(schedule("c", 0.7, enabled=False))
    heap.note(schedule("beyond", 1.0))
    assert heap.take(START + 2 * SECOND, 10) == [earlier, same]
    heap.fill([schedule("a", 0.5)], START, START + SECOND)
    heap.note(schedule("a", 5))
    assert heap.head() is None


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 12), st.booleans()), max_size=20), st.integers(0, 12))
def test_like_a_table_that_is_sorted(notes: list[tuple[str, int, bool]], now: int) -> None:
    heap, table = DueHeap(), dict[str, Schedule]()
    heap.fill([], START, START + SECOND)
    for version, (task_id, tenths, enabled) in enumerate(notes):
        table[task_id] = schedule(task_id, tenths / 10, enabled=enabled, version=version)
        heap.note(table[task_id])
    live = sorted((s.due or 0, s.task_id) for s in table.values() if s.enabled)
    due = [task_id for at, task_id in live if at < START + SECOND and at <= START + now * SECOND // 10]
    assert [s.task_id for s in heap.take(START + now * SECOND // 10, 10)] == due
    assert heap.take(START + 12 * SECOND, 10) == [
        table[task_id] for at, task_id in live if at < START + SECOND and task_id not in due
    ]


def test_what_is_held_is_left_out_for_a_while_and_the_others_are_not() -> None:
    heap = DueHeap()
    heap.fill([schedule("full", 0.1), schedule("good", 0.5)], START, START + SECOND)
    now = START + SECOND // 10
    (full,) = heap.take(now, 10)
    heap.hold(full, now)
    assert [s.task_id for s in heap.take(START + SECOND - 1, 10)] == ["good"]
    assert heap.head() == START + SECOND  # what is due behind the end is not known
    heap.forget()
    heap.fill([full], START + SECOND, now + 2 * HOLD)
    assert heap.take(now + HOLD - 1, 10) == []
    assert heap.take(now + HOLD, 10) == [full]
    heap.hold(full, now)
    heap.fill([full], START - HOLD, START + SECOND)  # the clock was set back
    assert heap.head() == full.due
