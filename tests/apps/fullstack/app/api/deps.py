from collections.abc import Generator
from typing import Annotated

from aiotaskq.integrations.fastapi import SessionPush, session_push
from fastapi import Depends
from sqlmodel import Session

from app.core.db import engine


def get_db() -> Generator[Session, None, None]:
    with Session(engine) as session:
        yield session


SessionDep = Annotated[Session, Depends(get_db)]
PushDep = Annotated[SessionPush, Depends(session_push(get_db))]
