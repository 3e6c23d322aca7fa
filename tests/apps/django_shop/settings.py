"""The settings of a Django project with orders, whose database is a file named by ``SHOP_DB``."""

import os

from aiotaskq.integrations.django.framework import task_backends

SECRET_KEY = "of a test"
USE_TZ = True
TIME_ZONE = "Asia/Shanghai"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("SHOP_DB", "shop.db")}}
INSTALLED_APPS = ["aiotaskq.integrations.django", "tests.apps.django_shop"]
if "django_tasks" in type(task_backends).__module__:
    INSTALLED_APPS.append("django_tasks")
TASKS = {
    "default": {
        "BACKEND": "aiotaskq.integrations.django.TasksBackend",
        "QUEUES": ["default", "mail"],
    }
}
LOGGING_CONFIG = None
