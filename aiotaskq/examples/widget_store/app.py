"""A shop whose checkout survives any crash: DBOS' "widget store", in aiotaskq.

Run it with `uvicorn app:app`; `curl -X POST localhost:8000/checkout/key-1` answers with the id of a payment, and
`curl -X POST localhost:8000/payment_webhook/ID/paid` with the number of the order. Its tests run with `pytest`. It
needs the extra `fastapi` of aiotaskq, and uvicorn.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aiotaskq import TaskQ, current_task, sleep_for, step, wait_event
from aiotaskq.integrations.fastapi import setup

DATABASE = os.environ.get("WIDGETS_DATABASE", "widgets.db")
tq = TaskQ(f"sqlite:///{DATABASE}")
engine = create_async_engine(f"sqlite+aiosqlite:///{DATABASE}")
sessions = async_sessionmaker(engine)


class Base(DeclarativeBase):
    """The tables of the shop."""


class Product(Base):
    """What is sold."""

    __tablename__ = "product"
    id: Mapped[int] = mapped_column(primary_key=True)
    inventory: Mapped[int]


class Order(Base):
    """An order: pending, cancelled, paid or dispatched."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(default="pending")
    remaining: Mapped[int] = mapped_column(default=10)


# ---- the workflows ----


async def once(function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Call a function with a session, exactly once in the life of the task: effect and step in one transaction."""
    async with sessions.begin() as session:
        return await step(function.__name__, function, session, *args, session=session)


@tq.task(max_retries=20)
async def checkout() -> int | None:
    """Order, reserve, wait for the payment, dispatch; back out where that fails."""
    order: int = await once(create_order)
    if not await once(reserve):
        await once(set_status, order, "cancelled")
        return None
    current_task().stream("reserved")
    if await wait_event(f"payment:{current_task().task.task_id}") == "paid":
        await once(set_status, order, "paid")
        await once(start_dispatch, order)
    else:
        await once(give_back)
        await once(set_status, order, "cancelled")
    return order


@tq.task(max_retries=20)
async def dispatch(order: int) -> None:
    """Pack for ten seconds."""
    for _ in range(10):
        await sleep_for("packing", 1)
        await once(progress, order)


async def create_order(session: AsyncSession) -> int:
    session.add(order := Order())
    await session.flush()
    return order.id


async def reserve(session: AsyncSession) -> bool:
    taken = update(Product).where(Product.inventory > 0).values(inventory=Product.inventory - 1).returning(Product.id)
    return (await session.scalar(taken)) is not None


async def give_back(session: AsyncSession) -> None:
    await session.execute(update(Product).values(inventory=Product.inventory + 1))


async def set_status(session: AsyncSession, order: int, status: str) -> None:
    (await session.get_one(Order, order)).status = status


async def start_dispatch(session: AsyncSession, order: int) -> None:
    await dispatch.options(session=session).push(order=order)


async def progress(session: AsyncSession, number: int) -> None:
    order = await session.get_one(Order, number)
    order.remaining -= 1
    order.status = "paid" if order.remaining else "dispatched"


# ---- the application ----


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make the tables; `setup` below runs the workers inside this."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await restock()
    yield
    await engine.dispose()


app = FastAPI(title="widgets", lifespan=lifespan)
setup(app, tq)


@app.post("/checkout/{key}")
async def buy(key: str) -> str:
    """Start a checkout; the same key starts it once. Answer with the id of the payment, once a widget is reserved."""
    handle = await checkout.options(idempotency_key=key).push()
    async for note in handle.stream():
        if note.kind == "data":
            return handle.task_id
    raise HTTPException(404, "sold out")


@app.post("/payment_webhook/{payment}/{status}")
async def paid(payment: str, status: str) -> int:
    """Tell the checkout what came of the payment. Answer with the number of the order."""
    await tq.emit(f"payment:{payment}", status)
    order: int = await tq.handle(payment).result(timeout=30)
    return order


@app.get("/orders")
async def orders() -> list[dict[str, Any]]:
    """List the orders."""
    async with sessions() as session:
        return [{"id": each.id, "status": each.status} for each in await session.scalars(select(Order))]


@app.get("/product")
async def product() -> int:
    """Return how many widgets there are."""
    async with sessions() as session:
        return (await session.get_one(Product, 1)).inventory


@app.post("/restock")
async def restock() -> None:
    """Have a hundred widgets."""
    async with sessions.begin() as session:
        await session.merge(Product(id=1, inventory=100))


@app.post("/crash_application")
async def crash() -> None:
    """End the process, to see that the next one goes on."""
    os._exit(1)
