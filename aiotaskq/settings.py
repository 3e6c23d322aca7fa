"""What can be set from outside the program: environment variables that begin with ``AIOTASKQ_``."""

from __future__ import annotations

from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """The process-wide defaults; read once, when something first needs one."""

    model_config = SettingsConfigDict(env_prefix="AIOTASKQ_", extra="ignore")

    database_url: str = "sqlite:///aiotaskq.db"
    """Where schedules live, and what ``engine`` and ``SessionLocal`` open; default a file in the working directory."""
    visibility_timeout: float = 300.0
    """Seconds after which a popped task that was not settled comes back, on durable queues."""
