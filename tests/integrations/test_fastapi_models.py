"""Handlers of a FastAPI application that take and return pydantic models, as its endpoints do."""

from __future__ import annotations

import datetime as dt
import uuid
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from aiotaskq import TaskQ
from aiotaskq.integrations.fastapi import router
from aiotaskq.types import TaskHandle
from tests.support.machine import within


class Order(BaseModel):
    id: uuid.UUID
    due: dt.datetime
    items: list[str] = []


class Receipt(BaseModel):
    order: Order
    number: int


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/shop.db"])
async def test_a_model_goes_from_the_endpoint_to_the_handler_and_back(tmp_path: Path, url: str) -> None:
    tq = TaskQ(url.format(tmp_path), poll_interval=0.05)
    handles: list[TaskHandle[Receipt]] = []

    @tq.task
    async def pay(order: Order, urgent: bool = False) -> Receipt:
        assert isinstance(order.due, dt.datetime) and isinstance(order.id, uuid.UUID)
        return Receipt(order=order, number=len(order.items))

    app = FastAPI()
    app.include_router(router(tq, dependencies=[]), prefix="/queue")

    @app.post("/orders")
    async def create(order: Order) -> str:
        handles.append(await pay.push(order))
        return handles[-1].task_id

    order = {"id": str(uuid.UUID(int=5)), "due": "2026-12-01T08:00:00Z", "items": ["a", "b"]}
    async with (
        tq.running(scheduler=False),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as web,
    ):
        assert (await web.post("/orders", json=order)).status_code == 200
        receipt = await handles[0].result(within(30))
        assert receipt == Receipt(order=Order.model_validate(order), number=2)
        by_name = await web.post("/queue/tasks", json={"type": "pay", "params": {"order": order}})
        assert by_name.status_code == 201, by_name.text
        handle: TaskHandle[Receipt] = tq.handle(by_name.json()["task_id"])
        assert (await handle.result(within(30))).number == 2
        wrong = await web.post("/queue/tasks", json={"type": "pay", "params": {"order": {**order, "due": "soon"}}})
        assert wrong.status_code == 422 and "params.order.due: Input should be a valid datetime" in wrong.text
