import uuid

import pytest
from aiotaskq.testing import Pushes
from fastapi.testclient import TestClient
from sqlmodel import Session

from app import crud
from app.core.config import settings
from app.models import Customer, CustomerCreate
from app.tasks import ship_order


@pytest.fixture
def customer(db: Session) -> Customer:
    customer = crud.create_customer(session=db, customer_in=CustomerCreate(email="ann@example.com"))
    db.commit()
    return customer


def url(customer_id: uuid.UUID) -> str:
    return f"{settings.API_V1_STR}/customers/{customer_id}/orders/"


def test_create_order(client: TestClient, customer: Customer, pushes: Pushes) -> None:
    response = client.post(url(customer.id), json={"article": "tea"})
    assert response.status_code == 201
    pushes.assert_pushed(ship_order, {"order_id": response.json()["id"]}, count=1)
    assert client.get(url(customer.id)).json() == {"data": [response.json()], "count": 1}


def test_rolled_back_orders_have_no_task(client: TestClient, customer: Customer, pushes: Pushes) -> None:
    for _ in range(settings.MAX_OPEN_ORDERS):
        assert client.post(url(customer.id), json={"article": "tea"}).status_code == 201
    assert client.post(url(customer.id), json={"article": "one more"}).status_code == 409
    assert client.get(url(customer.id)).json()["count"] == settings.MAX_OPEN_ORDERS
    pushes.assert_pushed(ship_order, count=settings.MAX_OPEN_ORDERS)


def test_unknown_customer(client: TestClient, pushes: Pushes) -> None:
    assert client.post(url(uuid.uuid4()), json={"article": "tea"}).status_code == 404
    pushes.assert_not_pushed(ship_order)
