import os
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    API_V1_STR: str = "/api/v1"
    PROJECT_NAME: str = "Shop"
    DATABASE_URL: str = field(default_factory=lambda: os.environ.get("DATABASE_URL", "sqlite:///shop.db"), repr=False)
    SUPERUSER_TOKEN: str = field(default_factory=lambda: os.environ.get("SUPERUSER_TOKEN", "changethis"), repr=False)
    MAX_OPEN_ORDERS: int = 3


settings = Settings()
