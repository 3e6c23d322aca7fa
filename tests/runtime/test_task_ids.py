"""Which tasks the beginning of an id names."""

from __future__ import annotations

from aiotaskq.backends.memory.backend import MemoryBackend
from aiotaskq.runtime.queue.bulk import ids_named
from tests.support.rows import pushed


async def test_an_id_is_named_by_itself_or_by_its_beginning() -> None:
    backend = MemoryBackend()
    for task_id in ("ab", "abc", "abd", "b-1"):
        await pushed(backend, task_id=task_id)
    assert await ids_named(backend, "ab") == ["ab"], "the whole id, though others begin with it"
    assert await ids_named(backend, "a") == ["ab", "abc"]
    assert await ids_named(backend, "a", 5) == ["ab", "abc", "abd"]
    assert await ids_named(backend, "b") == ["b-1"]
    assert [await ids_named(backend, text) for text in ("", "x", "abcd")] == [[], [], []]
