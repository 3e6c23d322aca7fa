"""The test of the order, in virtual time: `pytest` in this folder."""

import asyncio

import app
import pytest

from aiotaskq.testing import virtual

ORDER = {"order_id": "42", "amount": 9999, "items": ["widget-1", "gadget-2"], "email": "ann@example.com"}


@pytest.mark.parametrize("lost", ["charge", "reserve", "send"])
def test_a_crash_after_any_step_repeats_none_before_it(lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def counted(name: str) -> None:
        real = getattr(app, name)

        async def function(*args: object) -> object:
            called.append(name)
            if name == lost and called.count(name) == 1:
                raise ConnectionError("the process is lost")
            return await real(*args)

        monkeypatch.setattr(app, name, function)

    async def main() -> None:
        async with virtual(app.tq) as kit:
            handle = await app.order_fulfillment.push(**ORDER)
            await kit.advance(days=2)  # the order is not packed yet
            await app.tq.emit("shipment.packed:42", {"tracking": "1Z"})
            await kit.drain(delayed=True)
            assert await handle.result() == ["payment of 9999", "1Z"]

    for name in ("charge", "reserve", "send"):
        counted(name)
    asyncio.run(main())
    assert {name: called.count(name) for name in called} == {"charge": 1, "reserve": 1, "send": 1} | {lost: 2}
