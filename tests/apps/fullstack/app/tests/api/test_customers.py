from aiotaskq.testing import Pushes
from fastapi.testclient import TestClient
from sqlmodel import Session, select

from app.core.config import settings
from app.models import Customer, Mail
from app.tasks import send_newsletter, send_welcome_mail

URL = f"{settings.API_V1_STR}/customers/"


def test_create_customer(client: TestClient, db: Session, pushes: Pushes) -> None:
    response = client.post(URL, json={"email": "ann@example.com", "full_name": "Ann"})
    assert response.status_code == 201
    customer = db.exec(select(Customer)).one()
    assert response.json() == {"email": "ann@example.com", "full_name": "Ann", "id": str(customer.id)}
    pushes.assert_pushed(send_welcome_mail, {"customer_id": str(customer.id)}, count=1)
    assert db.exec(select(Mail)).all() == []


def test_create_customer_twice(client: TestClient, pushes: Pushes) -> None:
    for status in (201, 409):
        assert client.post(URL, json={"email": "ann@example.com"}).status_code == status
    pushes.assert_pushed(send_welcome_mail, count=1)


def test_newsletter(client: TestClient, pushes: Pushes) -> None:
    response = client.post(f"{URL}newsletter")
    assert response.status_code == 202
    pushes.assert_pushed(send_newsletter, count=1)
    task_id = response.json()["task_id"]
    assert client.get(f"{settings.API_V1_STR}/tasks/{task_id}").json() == {"task_id": task_id, "status": "pending"}
    assert client.get(f"{settings.API_V1_STR}/tasks/nonsense").status_code == 404


def test_probes(client: TestClient) -> None:
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 200
