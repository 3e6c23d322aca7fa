"""The tests of the shop: `pytest` in this folder."""

from __future__ import annotations

import os
import tempfile

os.environ["SHOP_DATABASE"] = os.path.join(tempfile.mkdtemp(), "test.db")  # before app.py reads it

from app import app, send_receipt, tq
from fastapi.testclient import TestClient

from aiotaskq.testing import override


def test_an_order_pushes_its_receipt() -> None:
    with override(tq) as pushes, TestClient(app) as client:
        assert client.post("/orders/1").status_code == 200
        assert client.post("/blocking/orders/2").status_code == 200
        pushes.assert_pushed(send_receipt, {"number": 1}, count=1)
        pushes.assert_pushed(send_receipt, {"number": 2}, count=1)


def test_an_order_that_is_there_pushes_nothing() -> None:
    with override(tq) as pushes, TestClient(app, raise_server_exceptions=False) as client:
        assert client.post("/orders/3").status_code == 200
        assert client.post("/orders/3").status_code == 500
        pushes.assert_pushed(send_receipt, {"number": 3}, count=1)


def test_the_receipt_is_sent() -> None:
    with TestClient(app) as client:  # with workers, on the database of the test
        task_id = client.post("/orders/4").json()["task_id"]
        assert client.portal is not None
        assert client.portal.call(tq.handle(task_id).result, 20) == "receipt of order 4"
        assert client.get(f"/receipts/{task_id}").json() == {"status": "completed"}
        assert client.get("/receipts/none").status_code == 404


def test_the_operations_need_the_token() -> None:
    with override(tq), TestClient(app) as client:
        assert client.get("/ops/tasks").status_code == 401
