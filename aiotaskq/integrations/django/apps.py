"""The application of Django: its worker command, the tables at ``migrate``, and its log in Django's ``LOGGING``."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate

from aiotaskq.integrations.django.backend import TasksBackend
from aiotaskq.integrations.django.framework import task_backends
from aiotaskq.log import output
from aiotaskq.sync import TaskQ

__all__ = ["AiotaskqConfig"]


class AiotaskqConfig(AppConfig):  # type: ignore[misc]  # Django has no types
    """``INSTALLED_APPS = ["aiotaskq.integrations.django", …]``."""

    name = "aiotaskq.integrations.django"
    label = "aiotaskq"
    verbose_name = "aiotaskq"

    def ready(self) -> None:
        """Write the log of aiotaskq through the standard library, and make the tables at ``manage.py migrate``."""
        output("INFO", to="logging")
        post_migrate.connect(_make_tables, sender=self)


def _make_tables(using: str, **_given: Any) -> None:
    for backend in task_backends.all():
        if isinstance(backend, TasksBackend) and backend.using == using:
            with TaskQ(backend.url):  # not its `taskq`, whose users would find it closed
                pass
