"""The tests of the widget store, in virtual time: `pytest` in this folder."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

os.environ["WIDGETS_DATABASE"] = os.path.join(tempfile.mkdtemp(), "test.db")  # before app.py reads it

import app
import pytest
from fastapi.testclient import TestClient

from aiotaskq.testing import Kit, virtual

PAID = ["create_order", "reserve", "set_status", "start_dispatch"]


@asynccontextmanager
async def shop(inventory: int) -> AsyncIterator[Kit]:
    async with virtual(app.tq) as kit, app.engine.begin() as connection:
        await connection.run_sync(app.Base.metadata.drop_all)
        await connection.run_sync(app.Base.metadata.create_all)
        await connection.execute(app.Product.__table__.insert().values(id=1, inventory=inventory))
        await connection.commit()
        yield kit
    await app.engine.dispose()


async def pay(kit: Kit, status: str) -> list[Any]:
    """Check out once; return the number of the order, all orders, and what is left of the widgets."""
    handle = await app.checkout.push()
    await kit.drain(delayed=True)
    await app.tq.emit(f"payment:{handle.task_id}", status)
    await kit.drain(delayed=True)
    await kit.advance(15)
    return [await handle.result(), await app.orders(), await app.product()]


@pytest.mark.parametrize("lost", PAID)
@pytest.mark.parametrize("written", [False, True])
def test_a_crash_at_any_step_does_each_once(lost: str, written: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    crashed: list[str] = []
    once = app.once

    async def crashing(function: Any, *args: Any) -> Any:
        """Crash once: before the commit of a step, or after it."""
        crashes = function.__name__ == lost and not crashed
        if not crashes:
            return await once(function, *args)
        crashed.append(lost)
        if written:
            await once(function, *args)
        else:
            async with app.sessions() as session:
                await function(session, *args)
                await session.rollback()
        raise ConnectionError("the process is lost")

    async def main() -> None:
        async with shop(inventory=5) as kit:
            assert await pay(kit, "paid") == [1, [{"id": 1, "status": "dispatched"}], 4]

    monkeypatch.setattr(app, "once", crashing)
    asyncio.run(main())
    assert crashed == [lost]


def test_a_refused_payment_gives_the_widget_back() -> None:
    async def main() -> None:
        async with shop(inventory=5) as kit:
            assert await pay(kit, "refused") == [1, [{"id": 1, "status": "cancelled"}], 5]

    asyncio.run(main())


def test_what_is_sold_out_is_not_ordered() -> None:
    async def main() -> None:
        async with shop(inventory=0) as kit:
            assert await pay(kit, "paid") == [None, [{"id": 1, "status": "cancelled"}], 0]

    asyncio.run(main())


def test_the_endpoints() -> None:
    with TestClient(app.app) as client:  # with workers, on the database of the test
        payment = client.post("/checkout/key-1").json()
        assert client.post("/checkout/key-1").json() == payment, "a second click buys nothing more"
        assert client.get("/product").json() == 99
        order = client.post(f"/payment_webhook/{payment}/refused").json()
        assert client.get("/orders").json()[-1] == {"id": order, "status": "cancelled"}
        assert client.get("/product").json() == 100
