"""No models: Django sends ``post_migrate``, at which the tables are made, only to applications with this module."""
