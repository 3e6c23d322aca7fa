"""Tools for event loops and threads that know nothing of tasks."""
