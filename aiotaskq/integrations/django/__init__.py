"""Django: a backend of its tasks framework, whose pushes are part of Django's own transactions.

``TASKS = {"default": {"BACKEND": "aiotaskq.integrations.django.TasksBackend"}}``, and in ``INSTALLED_APPS``
``"aiotaskq.integrations.django"``, for ``manage.py aiotaskq_worker``. The framework is ``django.tasks``, which Django
has from 6.0 on, else the package ``django-tasks``.
"""

from __future__ import annotations

from aiotaskq.integrations.django.backend import TasksBackend
from aiotaskq.integrations.django.borrowed import session
from aiotaskq.integrations.django.task import Task, schedule
from aiotaskq.integrations.django.worker import closing_connections

__all__ = ["Task", "TasksBackend", "closing_connections", "schedule", "session"]
