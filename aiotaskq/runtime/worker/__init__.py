"""The worker: fetches tasks, runs their handlers, writes their outcomes."""
