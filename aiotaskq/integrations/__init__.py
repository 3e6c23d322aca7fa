"""Integrations of third-party libraries: one file each, imported only on use."""
