"""The models of the project."""

from django.db import models


class Order(models.Model):  # type: ignore[misc]
    name = models.CharField(max_length=50)

    class Meta:
        app_label = "django_shop"
