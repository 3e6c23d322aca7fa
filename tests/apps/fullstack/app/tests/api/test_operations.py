from collections import Counter

from fastapi.testclient import TestClient

from app.core.config import settings

SUPERUSER = {"Authorization": f"Bearer {settings.SUPERUSER_TOKEN}"}


def test_only_superusers_see_tasks(client: TestClient) -> None:
    for path in ("/dashboard/", f"{settings.API_V1_STR}/operations/tasks"):
        assert client.get(path).status_code in (401, 403)
        assert client.get(path, headers=SUPERUSER).status_code == 200


def test_the_document_can_be_made_into_a_client(client: TestClient) -> None:
    document = client.get(f"{settings.API_V1_STR}/openapi.json").json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    ids = Counter(operation["operationId"] for operation in operations)
    assert ids["customers-create_customer"] == ids["aiotaskq_healthz_healthz"] == 1
    assert set(ids.values()) == {1}
    assert {"CustomerPublic", "AiotaskqTaskView"} <= document["components"]["schemas"].keys()
