import secrets
from collections.abc import Generator
from typing import Annotated

from aiotaskq.integrations.fastapi import SessionPush, session_push
from fastapi import Depends, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlmodel import Session

from app.core.config import settings
from app.core.db import engine


def get_db() -> Generator[Session, None, None]:
    with Session(engine) as session:
        yield session


SessionDep = Annotated[Session, Depends(get_db)]
PushDep = Annotated[SessionPush, Depends(session_push(get_db))]
TokenDep = Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]


def authenticate(name: str, password: str) -> bool:
    """Return whether a superuser may log in to the dashboard, whose pages are sent without a token."""
    right = secrets.compare_digest(password.encode(), settings.FIRST_SUPERUSER_PASSWORD.encode())
    return right and name == settings.FIRST_SUPERUSER


def get_current_superuser(token: TokenDep) -> None:
    if not secrets.compare_digest(token.credentials, settings.SUPERUSER_TOKEN):
        raise HTTPException(status_code=403, detail="The user doesn't have enough privileges")
