"""Gates where tasks are deleted and queues paused, and where other programs or lost processes left something."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from aiotaskq.backends.base import Backend
from aiotaskq.core.gate import Bounds, Gate, GateChange, GateState
from aiotaskq.core.task import SECOND
from tests.support.backends import Store
from tests.support.gated import CAP_1, CAP_2, MINUTE, claimed, counts, gated, settled, state
from tests.support.rows import NOW, ids, read


async def test_a_delete_frees_the_slot_for_the_next_sweep(backend: Backend) -> None:
    first, second = gated(), gated()
    await backend.push([first, second])
    assert await backend.delete([first.task_id]) == 1
    await backend.gates.admit(NOW + SECOND, 10)
    assert ids(await claimed(backend)) == [second.task_id]


async def test_a_paused_queue_holds_no_slot(backend: Backend) -> None:
    asleep, awake = gated(queue="a"), gated(queue="b")
    await backend.push([asleep, awake])
    await backend.set_paused("a", True)
    await backend.gates.admit(NOW + SECOND, 10)
    (task,) = await claimed(backend)
    assert task.task_id == awake.task_id
    await settled(backend, task)
    await backend.gates.admit(NOW + SECOND, 10)
    assert await counts(backend) == (0, 1)
    await backend.set_paused("a", False)
    await backend.gates.admit(NOW + SECOND, 10)
    assert ids(await claimed(backend)) == [asleep.task_id]


async def test_a_task_of_a_paused_queue_that_waits_at_its_second_gate_holds_no_slot(backend: Backend) -> None:
    a, full = ("a", CAP_1), ("full", CAP_1)
    running, asleep, awake = gated(full), gated(a, full, queue="asleep"), gated(a, queue="awake")
    await backend.push([running, asleep, awake])
    (run,) = await claimed(backend)
    assert (await read(backend, asleep)).gate == "full"
    assert await counts(backend, "a") == (1, 1)
    await backend.set_paused("asleep", True)
    await backend.gates.admit(NOW + SECOND, 10)
    assert ids(await claimed(backend)) == [awake.task_id]
    row = await read(backend, asleep)
    assert (row.parked, row.gate, row.due_at) == (True, "a", NOW)
    await settled(backend, run)
    await settled(backend, await read(backend, awake))
    await backend.gates.admit(NOW + SECOND, 10)
    assert [await counts(backend, key) for key in ("a", "full")] == [(0, 1), (0, 0)]
    await backend.set_paused("asleep", False)
    await backend.gates.admit(NOW + SECOND, 10)
    assert ids(await claimed(backend)) == [asleep.task_id]
    assert [await counts(backend, key) for key in ("a", "full")] == [(1, 0), (1, 0)]


async def test_mend_deletes_gates_without_a_use(backend: Backend) -> None:
    await backend.push([gated()])
    await backend.gates.change("kept", GateChange(bounds={"cap": 2}), NOW)
    (running,) = await claimed(backend)
    await backend.gates.mend(NOW)
    assert [each.gate.key for each in await backend.gates.find()] == ["g", "kept"]
    await settled(backend, running)
    await backend.gates.mend(NOW)
    assert [each.gate.key for each in await backend.gates.find()] == ["kept"]


async def test_mend_deletes_a_gate_that_is_as_a_new_one(backend: Backend) -> None:
    await backend.push([gated(("rate", Bounds(interval=SECOND)), ("g", CAP_1))])
    await backend.gates.change("closed", GateChange(closed_until=NOW + MINUTE), NOW)
    (running,) = await claimed(backend)
    await settled(backend, running)
    full_at = (await state(backend, "rate")).gate.tat
    assert full_at > NOW
    for now, left in (
        (full_at - 1, ["closed", "rate"]),
        (full_at, ["closed"]),
        (NOW + MINUTE - 1, ["closed"]),
        (NOW + MINUTE, []),
    ):
        assert await backend.gates.mend(now) == 0
        assert [each.gate.key for each in await backend.gates.find()] == left


async def test_mend_frees_the_slot_of_a_row_that_another_program_deleted(sql_store: Store) -> None:
    backend = sql_store.backend
    first, second = gated(), gated()
    await backend.push([first, second])
    sql_store.execute("DELETE FROM task_queue WHERE task_id = :id", id=first.task_id)
    assert await counts(backend) == (0, 1)
    assert await backend.gates.mend(NOW) == 1
    await backend.gates.admit(NOW + SECOND, 10)
    assert ids(await claimed(backend)) == [second.task_id]


async def test_a_gate_deleted_by_another_program_has_the_bounds_of_its_tasks(sql_store: Store) -> None:
    backend = sql_store.backend
    await backend.push([gated(("g", CAP_2)) for _ in range(4)])
    sql_store.execute("DELETE FROM aiotaskq_gate")
    (running, _) = await claimed(backend)
    await settled(backend, running)
    await backend.gates.mend(NOW)
    await backend.gates.admit(NOW + SECOND, 10)
    assert await counts(backend) == (2, 1)


async def test_a_changed_gate_that_is_deleted_at_once_is_returned_as_a_new_one(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = backend.gates.find

    async def find_later(keys: Sequence[str]) -> list[GateState]:
        await backend.gates.mend(NOW)
        return await find(keys)

    monkeypatch.setattr(backend.gates, "find", find_later)
    assert await backend.gates.change("g", GateChange(closed_until=0), NOW) == Gate(key="g")
    assert await find(["g"]) == []
    assert (await backend.gates.change("g", GateChange(bounds={"cap": 1}), NOW)).bounds == CAP_1
