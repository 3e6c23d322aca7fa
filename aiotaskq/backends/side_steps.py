"""The steps and events of a store as side rows; ``flow.steps`` has the rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from aiotaskq.backends.flow import steps as flow
from aiotaskq.backends.flow.steps import EVENT, WAIT, event_row, step_row, to_event, to_step
from aiotaskq.backends.flow.transaction import Holder
from aiotaskq.backends.side_rows import STEP, SideRow, SideRows
from aiotaskq.backends.steps import Leave, Steps, recoded, step_name
from aiotaskq.core.steps import EventValue, NewStep, Step, in_order

if TYPE_CHECKING:
    from aiotaskq.backends.flow.transaction import Beside, JoiningStore, Store
    from aiotaskq.core.task import Task

PAGE = 1_000  # keys of events that are looked at together


class SideSteps(Steps):
    """Steps, events and waits as side rows."""

    def __init__(self, store: Store, side: SideRows, joining: JoiningStore | None = None) -> None:
        """``joining`` is the store where it can take part in transactions of callers."""
        self._store, self._side, self._joining = store, side, joining
        self._looked_at = ("", "")  # behind this wait the next look for those of tasks that are gone begins

    async def read(self, task_id: str, seq: int) -> list[Step]:
        rows = await self._store.look(lambda tx: tx.side.of(STEP, [task_id]))
        found = map(to_step, rows)
        return in_order(self._plain_step(step) for stamp, step in found if stamp == seq)

    async def read_many(self, tasks: Sequence[Task]) -> list[list[Step]]:
        ids = sorted({task.task_id for task in tasks})
        found: dict[tuple[str, int], list[Step]] = {(task.task_id, task.seq): [] for task in tasks}
        for row in await self._store.look(lambda tx: tx.side.of(STEP, ids)):
            seq, step = to_step(row)
            if (row.owner, seq) in found:
                found[row.owner, seq].append(self._plain_step(step))
        return [in_order(found[task.task_id, task.seq]) for task in tasks]

    async def add(self, new: Sequence[NewStep]) -> list[Step | None]:
        if not new:
            return []
        rows = self._rows(new)
        texts = await self._store.add_held(STEP, rows, _holders(new))
        if texts == [row.text for row in rows]:  # as nearly always
            return [each.step for each in new]
        return self._there(new, rows, texts)

    async def add_with(self, session: Any, new: NewStep) -> Step | None:
        if self._joining is None:
            return await super().add_with(session, new)
        rows = self._rows([new])
        texts = await self._joining.transact_with(
            session, lambda tx: tx.add_held(STEP, rows, _holders([new])), lambda: None
        )
        return self._there([new], rows, texts)[0]

    async def put(self, new: Sequence[NewStep]) -> None:
        if rows := self._rows(new):
            await self._store.transact(lambda tx: tx.side.add(STEP, rows))

    def _rows(self, new: Sequence[NewStep]) -> list[SideRow]:
        if self.codec is None:
            return [step_row(each, each.step.text) for each in new]
        return [step_row(each, self._stored(each.step.text)) for each in new]

    def _there(self, new: Sequence[NewStep], rows: Sequence[SideRow], texts: Sequence[str | None]) -> list[Step | None]:
        return [
            None
            if text is None
            else each.step
            if text == row.text
            else self._plain_step(to_step(replace(row, text=text))[1])
            for each, row, text in zip(new, rows, texts, strict=True)
        ]

    async def suspend(self, leaves: Sequence[Leave]) -> list[bool]:
        return await self._store.transact(lambda tx: flow.suspend(tx, leaves, self._stored))

    async def emit(self, events: Sequence[EventValue]) -> list[EventValue]:
        stored = [self._stored_event(event) for event in events]
        found = await self._store.transact(lambda tx: flow.emit(tx, stored, self._stored))
        return self._plain_events(events, stored, found)

    async def emit_with(
        self, session: Any, event: EventValue, committed: Callable[[], None] = lambda: None
    ) -> EventValue:
        if self._joining is None:
            return await super().emit_with(session, event, committed)
        stored = [self._stored_event(event)]
        found = await self._joining.transact_with(session, lambda tx: flow.emit(tx, stored, self._stored), committed)
        return self._plain_events([event], stored, found)[0]

    def _plain_events(
        self, events: Sequence[EventValue], stored: Sequence[EventValue], found: Sequence[EventValue]
    ) -> list[EventValue]:
        each = zip(events, stored, found, strict=True)
        return [event if there is new else self._plain_event(there) for event, new, there in each]

    async def get_events(self, keys: Sequence[str], now: int) -> list[EventValue | None]:
        found = await self._side.get(EVENT, keys, now)
        return [
            None if text is None else self._plain_event(to_event(key, text))
            for key, text in zip(keys, found, strict=True)
        ]

    async def events(self, now: int, limit: int, *, prefix: str = "", after: str | None = None) -> list[EventValue]:
        rows = await self._side.range(EVENT, now, limit, prefix=prefix, after=after or "")
        return [self._plain_event(to_event(row.name, row.text)) for row in rows]

    async def waiting(self, keys: Sequence[str]) -> dict[str, int]:
        return await self._store.look(lambda tx: flow.count(tx, keys))

    async def awaited(self, limit: int, *, prefix: str = "") -> dict[str, int]:
        def body(tx: Beside) -> dict[str, int]:
            return flow.count(tx, tx.side.owners(WAIT, limit, prefix=prefix))

        counts = await self._store.look(body)
        return {key: counts[key] for key in sorted(counts) if counts[key]}

    async def expire(self, now: int, limit: int) -> int:
        after = self._looked_at
        self._looked_at = await self._store.transact(lambda tx: flow.forget(tx, after, limit))
        return await self._side.expire(EVENT, now, limit)

    async def orphans(self, limit: int) -> list[str]:
        return await self._store.look(lambda tx: tx.orphans(STEP, limit))

    async def drop(self, ids: Sequence[str]) -> None:
        await self._store.transact(lambda tx: tx.drop(ids))

    async def recode(self, ids: Sequence[str]) -> tuple[int, list[str]]:
        if self.codec is None:
            return await super().recode(ids)

        def body(tx: Beside) -> list[tuple[str, bool]]:
            read = [(row, *to_step(row)) for row in tx.side.of(STEP, ids)]
            anew = [(row, seq, step, self._anew(step.text)) for row, seq, step in read if step.text]
            written = [
                step_row(NewStep(row.owner, seq, 0, step), text) for row, seq, step, text in anew if text is not None
            ]
            tx.side.put(STEP, written)
            return [(step_name(row.owner, step), text is not None) for row, _, step, text in anew]

        return recoded(await self._store.transact(body))

    async def recode_events(self, keys: Sequence[str]) -> tuple[int, list[str]]:
        if self.codec is None:
            return await super().recode_events(keys)

        def body(tx: Beside) -> list[tuple[str, bool]]:
            found = [to_event(key, text) for key, text in tx.side.lock(EVENT, keys).items()]
            anew = [(event, self._anew(event.text)) for event in found]
            tx.side.put(EVENT, [event_row(replace(event, text=text)) for event, text in anew if text is not None])
            return [(event.key, text is not None) for event, text in anew]

        return recoded(await self._store.transact(body))

    async def mend(self, now: int) -> int:
        count, after = 0, ""
        while keys := await self._store.look(lambda tx, last=after: tx.side.owners(WAIT, PAGE, after=last)):  # type: ignore[misc]
            found = await self._side.get(EVENT, keys, now)
            if there := [key for key, text in zip(keys, found, strict=True) if text is not None]:
                count += await self._store.transact(lambda tx, keys=there: flow.mend(tx, keys, self._stored, now))  # type: ignore[misc]
            if len(keys) < PAGE:
                break
            after = keys[-1]
        return count


def _holders(new: Sequence[NewStep]) -> list[Holder]:
    return [(each.fence, each.seq) for each in new]
