"""A FastAPI application as users write it: orders in their own tables, tasks in the same database, an admin's API.

Settings come from the environment, since it runs in processes of its own: SHOP_URL, SHOP_LEDGER (a file that each
handler appends a line to), SHOP_DRAIN (seconds), SHOP_LONGEST (what a handler takes at most) and SHOP_EVERY (seconds
between the runs of a schedule).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from aiotaskq import TaskQ
from aiotaskq.integrations.fastapi import SessionPush, TaskQDep, dashboard, router, session_push, setup

URL = os.environ.get("SHOP_URL", "sqlite:///shop.db")
LONGEST = float(os.environ.get("SHOP_LONGEST", "60"))
LEDGER = os.environ.get("SHOP_LEDGER", "ledger.txt")

tq = TaskQ(URL, poll_interval=0.05, check_interval=0.5)
driver = URL.replace("sqlite:", "sqlite+aiosqlite:").replace("postgresql:", "postgresql+asyncpg:")
engine = create_async_engine(driver)


def note(line: str) -> None:
    with open(LEDGER, "a") as ledger:  # one write of one line: whole also where several processes do it
        ledger.write(f"{os.getpid()} {line}\n")


@tq.task
async def book(order: int, seconds: float = 0.0) -> int:
    note(f"began {order}")
    await asyncio.sleep(min(seconds, LONGEST))
    note(f"booked {order}")
    return order


@tq.task(max_retries=0)
async def refuse(secret: str) -> None:
    raise RuntimeError(f"refused: {secret}")


if os.environ.get("SHOP_EVERY"):

    @tq.schedule(interval=int(os.environ["SHOP_EVERY"]))
    async def tick() -> None:
        note("tick")


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
    async with tq, engine.begin() as connection:  # whichever process comes first makes it
        if driver.startswith("postgresql"):  # there IF NOT EXISTS may fail where two processes do it at once
            await connection.execute(text("SELECT pg_advisory_xact_lock(1)"))
        await connection.execute(text("CREATE TABLE IF NOT EXISTS orders (id INTEGER)"))
    note("up")
    yield {"greeting": "hello"}
    await engine.dispose()
    note("down")


async def get_session() -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine) as session:
        yield session


async def admin(x_admin: Annotated[str, Header()] = "") -> None:
    if x_admin != "yes":
        raise HTTPException(401, "who are you?")


Session = Annotated[AsyncSession, Depends(get_session)]
Push = Annotated[SessionPush, Depends(session_push(get_session))]


async def known_admin(session: Session, x_admin: Annotated[str, Header()] = "") -> None:
    """Look the visitor up, which holds a connection of the pool (5, and 10 more) for as long as the request takes."""
    await session.execute(text("SELECT 1"))
    await admin(x_admin)


app = FastAPI(lifespan=lifespan)
setup(app, tq, concurrency=4, drain=float(os.environ.get("SHOP_DRAIN", "5")), grace=1)
app.include_router(router(tq, dependencies=[Depends(admin)], show_args=True), prefix="/ops")
app.include_router(router(tq, operations=["healthz", "readyz"]))
app.include_router(dashboard(tq, dependencies=[Depends(known_admin)]), prefix="/tasks")
mounted = FastAPI()
mounted.include_router(router(tq, read_only=True))
app.mount("/deep/down", mounted)


@app.post("/orders/{order}")
async def order(order: int, session: Session, push: Push, seconds: float = 0.0, fail: bool = False) -> dict[str, str]:
    await session.execute(text("INSERT INTO orders VALUES (:order)"), {"order": order})
    handle = await push(book, order=order, seconds=seconds)
    if fail:
        raise HTTPException(418, "no tea, no order")  # the session ends without a commit
    await session.commit()
    return {"task_id": handle.task_id}


@app.post("/login")
async def login(session: Session) -> str:
    await session.execute(text("SELECT 1"))
    return "welcome"


@app.get("/held")
async def held() -> int:
    """Return how many connections of the pool are in use."""
    return int(engine.pool.checkedout())  # type: ignore[attr-defined]


@app.get("/result/{task_id}")
async def result(task_id: str, tq: TaskQDep) -> int:
    found: int = await tq.handle(task_id).result(timeout=10)
    return found
