"""``manage.py aiotaskq_worker``: runs the tasks of a backend in this process."""

from __future__ import annotations

import asyncio
import os
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from aiotaskq.core.masking import mask
from aiotaskq.core.stopping import ExitCode
from aiotaskq.errors import AiotaskqError
from aiotaskq.integrations.django.backend import TasksBackend
from aiotaskq.integrations.django.borrowed import advising_migrate
from aiotaskq.integrations.django.framework import task_backends
from aiotaskq.integrations.django.worker import worker_of

__all__ = ["Command"]


class Command(BaseCommand):  # type: ignore[misc]  # Django has no types
    """Runs workers and the scheduler until a signal; the exit codes are those of ``aiotaskq run``."""

    help = "Run tasks until SIGINT or SIGTERM; a second signal does not wait for running tasks."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options of the command."""
        parser.add_argument("--backend", default="default", metavar="ALIAS", help="The alias in TASKS.")
        parser.add_argument("--concurrency", type=int, default=10, metavar="N", help="Tasks that run at a time.")
        parser.add_argument("--queues", metavar="A,B", help="Process only these queues.")
        parser.add_argument("--drain", type=float, default=25.0, metavar="SECONDS", help="Time to end after a signal.")
        parser.add_argument("--grace", type=float, default=5.0, metavar="SECONDS", help="Time to end after the cancel.")

    def handle(self, **options: Any) -> None:
        """Run the workers. Raises CommandError for wrong options, SystemExit for another exit code than 0."""
        if options["backend"] not in task_backends.settings:
            raise CommandError(f"TASKS has no {options['backend']!r}")
        backend = task_backends[options["backend"]]
        if not isinstance(backend, TasksBackend):
            raise CommandError(f"TASKS[{options['backend']!r}] is no backend of aiotaskq")
        queues = [name.strip() for name in (options["queues"] or "").split(",") if name.strip()]
        if backend.queues and (unknown := [name for name in queues if name not in backend.queues]):
            known = ", ".join(sorted(backend.queues))
            raise CommandError(f"--queues: {unknown[0]!r} is not in QUEUES of TASKS[{options['backend']!r}]: {known}")
        try:
            tq = worker_of(backend)
            self.stderr.write(f"aiotaskq starts on {mask(backend.url)}; Ctrl-C or SIGTERM stops it")
            work = tq.run(options["concurrency"], queues=queues or None, drain=options["drain"], grace=options["grace"])
            with advising_migrate():
                code = asyncio.run(work)
        except AiotaskqError as error:
            raise CommandError(str(error)) from error
        if code is ExitCode.ABANDONED:  # the interpreter would wait for the threads
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(code))
        if code is not ExitCode.DRAINED:
            sys.exit(int(code))
