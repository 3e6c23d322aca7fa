import os
import secrets
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    API_V1_STR: str = "/api/v1"
    PROJECT_NAME: str = "Shop"
    DATABASE_URL: str = field(default_factory=lambda: os.environ.get("DATABASE_URL", "sqlite:///shop.db"), repr=False)
    SECRET_KEY: str = field(default_factory=lambda: os.environ.get("SECRET_KEY", secrets.token_urlsafe()), repr=False)
    FIRST_SUPERUSER: str = "admin@example.com"
    FIRST_SUPERUSER_PASSWORD: str = field(default="changethis", repr=False)
    SUPERUSER_TOKEN: str = field(default="changethis", repr=False)
    MAX_OPEN_ORDERS: int = 3


settings = Settings()
