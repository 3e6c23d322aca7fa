from collections import Counter

from fastapi.testclient import TestClient

from app.core.config import settings

OPERATIONS = f"{settings.API_V1_STR}/operations"


def test_only_superusers_see_tasks(client: TestClient) -> None:
    assert client.get(f"{OPERATIONS}/tasks").status_code in (401, 403)
    superuser = {"Authorization": f"Bearer {settings.SUPERUSER_TOKEN}"}
    assert client.get(f"{OPERATIONS}/tasks", headers=superuser).status_code == 200


def test_a_superuser_logs_in_to_the_dashboard(client: TestClient) -> None:
    page = client.get("/dashboard/tasks")
    assert page.status_code == 401
    token = page.text.partition('name="form_token" value="')[2].partition('"')[0]
    login = {"user": settings.FIRST_SUPERUSER, "password": settings.FIRST_SUPERUSER_PASSWORD, "back": "tasks"}
    page = client.post("/dashboard/login", data=login | {"form_token": token})
    assert page.status_code == 200 and page.url.path == "/dashboard/tasks"


def test_the_document_can_be_made_into_a_client(client: TestClient) -> None:
    document = client.get(f"{settings.API_V1_STR}/openapi.json").json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    ids = Counter(operation["operationId"] for operation in operations)
    assert ids["customers-create_customer"] == ids["aiotaskq_healthz_healthz"] == 1
    assert set(ids.values()) == {1}
    assert {"CustomerPublic", "AiotaskqTaskView"} <= document["components"]["schemas"].keys()
