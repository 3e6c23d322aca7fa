"""Side rows on each store: texts under names, in kinds that know nothing of each other. See test_values.py, too."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiotaskq.backends.base import Backend
from aiotaskq.backends.side_rows import Range, SideRow
from tests.support.backends import Store
from tests.support.rows import NOW

NAMES = ["a 1", "a 2", "a_3", "b%1", "é1", "🙂"]


def rows(*names: str, until: int | None = None) -> list[SideRow]:
    return [SideRow(name, f"text of {name}", until) for name in names]


def names(found: list[SideRow]) -> list[str]:
    return [row.name for row in found]


async def test_a_range_is_in_the_order_of_names_between_its_bounds(backend: Backend) -> None:
    side = backend.side
    await side.put("x", [*rows(*NAMES[::-1]), *rows("a 0", until=NOW), *rows("a 9", until=NOW + 1)])
    everything = sorted([*NAMES, "a 9"])
    untils = {"a 9": NOW + 1}
    expected = [SideRow(name, f"text of {name}", untils.get(name)) for name in everything]
    assert await side.read(Range("x", NOW)) == expected
    assert names(await side.read(Range("x", NOW, newest=True))) == everything[::-1]
    assert names(await side.read(Range("x", NOW, 2, newest=True, after="a 2", before="é1"))) == ["b%1", "a_3"]
    assert names(await side.read(Range("x", NOW, after="a 2", before="é1"))) == ["a 9", "a_3", "b%1"]
    assert names(await side.read(Range("x", NOW, prefix="a "))) == ["a 1", "a 2", "a 9"]
    assert names(await side.read(Range("x", NOW, 1, prefix="a ", after="a 1"))) == ["a 2"]
    assert names(await side.read(Range("x", NOW, prefix="a ", after="b"))) == []
    assert await side.read(Range("x", NOW, 1, texts=False)) == [SideRow("a 1", "")]
    assert await side.read(Range("x", NOW, 0)) == []


async def test_many_rows_are_read_to_the_end(backend: Backend) -> None:
    many = [f"{number:05}" for number in range(1_203)]
    await backend.side.put("x", rows(*many))
    await backend.side.put("x", rows(*many[100:900], until=NOW))
    assert names(await backend.side.read(Range("x", NOW))) == many[:100] + many[900:]
    assert names(await backend.side.read(Range("x", NOW, 350, newest=True))) == (many[:100] + many[900:])[::-1][:350]
    assert await backend.side.count("x", NOW) == 403


async def test_kinds_are_apart(backend: Backend) -> None:
    side = backend.side
    await side.put("x", rows("a", "b", until=NOW))
    await side.put("y", rows("a", "c", until=NOW))
    assert await side.delete("x", ["a", "c"], NOW - 1) == [True, False]
    assert await side.expire("x", NOW, 10) == 1
    assert await side.get("y", ["a", "b", "c"], NOW - 1) == ["text of a", None, "text of c"]
    await side.clear("x")
    assert await side.count("y", NOW - 1) == 2
    assert await side.get("x", [], NOW) == []


async def test_a_swap_is_all_or_nothing(backend: Backend) -> None:
    side = backend.side
    await side.put("x", rows("a", "b"))
    assert not await side.swap("x", ["a", "gone"], rows("c"))
    assert names(await side.read(Range("x", NOW))) == ["a", "b"]
    assert await side.swap("x", ["a", "b"], rows("c", "b"))
    assert names(await side.read(Range("x", NOW))) == ["b", "c"]
    assert await side.swap("x", [], [])


async def test_rows_become_what_is_made_of_their_texts(backend: Backend) -> None:
    side = backend.side
    await side.put("x", rows("a", "b"))
    seen: list[Mapping[str, str]] = []

    def become(found: Mapping[str, str]) -> list[SideRow]:
        seen.append(found)
        return [SideRow("b", found["b"] + "!"), SideRow("c", "new")]

    assert await side.rewrite("x", ["a", "b", "missing"], become)
    assert seen[-1] == {"a": "text of a", "b": "text of b"}
    assert await side.read(Range("x", NOW)) == [SideRow("b", "text of b!"), SideRow("c", "new")]


async def test_what_is_not_rewritten_leaves_no_row(backend: Backend, sql_store: Store) -> None:
    assert not await backend.side.rewrite("x", ["missing"], lambda found: None)
    assert sql_store.execute("SELECT count(*) FROM aiotaskq_side") == [(0,)]


async def test_of_two_swaps_of_the_same_rows_one_is_done(shared_store: Store) -> None:
    sides = [shared_store.backend.side, (await shared_store.another()).side]
    many = [f"{number:03}" for number in range(50)]
    for number in range(10):
        await sides[0].put("x", rows(*many))
        found = await asyncio.gather(*(side.swap("x", many, rows(f"s{n}")) for n, side in enumerate(sides)))
        assert sorted(found) == [False, True]
        assert names(await sides[1].read(Range("x", NOW))) == [f"s{found.index(True)}"], number
        await sides[0].clear("x")


async def test_of_two_deletions_of_the_same_rows_one_finds_each(shared_store: Store) -> None:
    sides = [shared_store.backend.side, (await shared_store.another()).side]
    many = [f"{number:03}" for number in range(50)]
    for _ in range(10):
        await sides[0].put("x", rows(*many))
        found = await asyncio.gather(sides[0].delete("x", many, NOW), sides[1].delete("x", many[::-1], NOW))
        assert [a + b for a, b in zip(found[0], found[1][::-1], strict=True)] == [1] * len(many)
