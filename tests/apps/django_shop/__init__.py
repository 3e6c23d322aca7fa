"""A Django project with one application, for tests."""
