from collections.abc import Generator

import pytest
from aiotaskq.testing import Pushes, override
from fastapi.testclient import TestClient
from sqlmodel import Session, SQLModel, StaticPool, create_engine

from app.api.deps import get_db
from app.main import app
from app.tasks import tq


@pytest.fixture
def db() -> Generator[Session, None, None]:
    """A database in memory; each request has a session of its own on it, as in the application."""
    engine = create_engine("sqlite://", connect_args={"check_same_thread": False}, poolclass=StaticPool)
    SQLModel.metadata.create_all(engine)

    def get_test_db() -> Generator[Session, None, None]:
        with Session(engine) as session:
            yield session

    app.dependency_overrides[get_db] = get_test_db
    with Session(engine) as session:
        yield session
    app.dependency_overrides.clear()
    engine.dispose()


@pytest.fixture
def pushes() -> Generator[Pushes, None, None]:
    """What the application pushes; no worker runs."""
    with override(tq) as pushes:
        yield pushes


@pytest.fixture
def client(db: Session, pushes: Pushes) -> Generator[TestClient, None, None]:
    with TestClient(app) as client:
        yield client
