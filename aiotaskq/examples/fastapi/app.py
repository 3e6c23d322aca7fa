"""A shop with FastAPI: orders push their receipts in the transaction of the request, in async and blocking sessions.

Run it with `uvicorn app:app`, then `curl -X POST localhost:8000/orders/1`; its tests with `pytest`. It needs
the extra `fastapi` of aiotaskq, uvicorn, and for the tests pytest and httpx.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from aiotaskq import TaskQ
from aiotaskq.errors import NotFound
from aiotaskq.integrations.fastapi import SessionPush, TaskQDep, router, session_push, setup

DATABASE = os.environ.get("SHOP_DATABASE", "shop.db")
TOKEN = os.environ.get("SHOP_TOKEN") or secrets.token_urlsafe()  # unknown, until one is set

tq = TaskQ(f"sqlite:///{DATABASE}")
async_engine = create_async_engine(f"sqlite+aiosqlite:///{DATABASE}")
engine = create_engine(f"sqlite:///{DATABASE}")


class Base(DeclarativeBase):
    """The tables of the shop."""


class Order(Base):
    """An order, and whether its receipt was sent."""

    __tablename__ = "shop_order"
    number: Mapped[int] = mapped_column(primary_key=True)
    receipt: Mapped[bool] = mapped_column(default=False)


@tq.task(max_retries=5, timeout=30)
async def send_receipt(number: int) -> str:
    """Send the receipt of an order. It may run twice, so it looks whether it was sent."""
    async with AsyncSession(async_engine) as session:
        order = await session.get_one(Order, number)
        if not order.receipt:
            order.receipt = True  # here the mail goes out
            await session.commit()
    return f"receipt of order {number}"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make the tables of the shop; `setup` below runs the workers inside this."""
    async with async_engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await async_engine.dispose()
    engine.dispose()


async def get_async_session() -> AsyncIterator[AsyncSession]:
    """Yield a session for `async def` endpoints."""
    async with AsyncSession(async_engine) as session:
        yield session


def get_session() -> Iterator[Session]:
    """Yield a session for `def` endpoints."""
    with Session(engine) as session:
        yield session


async def admin(authorization: Annotated[str, Header()] = "") -> None:
    """Let only the owner of the token in."""
    if not secrets.compare_digest(authorization.encode(), f"Bearer {TOKEN}".encode()):
        raise HTTPException(401)


app = FastAPI(title="shop", lifespan=lifespan)
setup(app, tq, concurrency=20)
app.include_router(router(tq, dependencies=[Depends(admin)]), prefix="/ops")


@app.post("/orders/{number}")
async def place(
    number: int,
    session: Annotated[AsyncSession, Depends(get_async_session)],
    push: Annotated[SessionPush, Depends(session_push(get_async_session))],
) -> dict[str, str]:
    """Place an order. If the commit fails, there is no task."""
    session.add(Order(number=number))
    handle = await push(send_receipt, number=number)
    await session.commit()
    return {"task_id": handle.task_id}


@app.post("/blocking/orders/{number}")
def place_blocking(
    number: int,
    session: Annotated[Session, Depends(get_session)],
    push: Annotated[SessionPush, Depends(session_push(get_session))],
) -> dict[str, str]:
    """Place an order from a `def` endpoint, which FastAPI runs in a thread."""
    session.add(Order(number=number))
    task_id = push.sync(send_receipt, number=number)
    session.commit()
    return {"task_id": task_id}


@app.get("/receipts/{task_id}")
async def receipt(task_id: str, tq: TaskQDep) -> dict[str, str]:
    """Return the status of the task that sends a receipt."""
    try:
        return {"status": await tq.handle(task_id).status()}
    except NotFound:
        raise HTTPException(404) from None
