"""The conditions of a measurement: the machine, its load, and the versions of the contestants."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.stores import START, Stores

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "aiotaskq", "aiosqlite", "apscheduler", "arq", "asyncmy", "asyncpg", "cachetools", "croniter", "cronsim",
    "dramatiq", "honker", "huey", "msgspec", "oban", "pgqueuer", "procrastinate", "psycopg", "redis", "saq",
    "sqlalchemy", "taskiq", "taskiq-postgres", "taskiq-redis",
)  # fmt: skip

POSTGRESQL = (
    "SELECT current_setting('server_version') || ', JIT ' || "
    "CASE WHEN pg_jit_available() THEN 'on' WHEN current_setting('jit') = 'on' THEN 'not installed' ELSE 'off' END"
)


def describe(stores: Stores, arguments: list[str]) -> dict[str, Any]:
    """Return the conditions for the report; called before anything is measured."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks", *arguments]),
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "disk": _filesystem(stores.folder),
        "sync_ms": round(stores.sync_seconds() * 1000, 3),
        "load": round(os.getloadavg()[0], 2),
        "versions": {"SQLite": sqlite3.sqlite_version, **_versions()},
    }


def servers(stores: Stores) -> dict[str, str]:
    """Return the versions of the servers that were started, and whether PostgreSQL compiles plans (JIT)."""
    questions = {"postgresql": POSTGRESQL, "mysql": "SELECT version()", "redis": "INFO server"}
    found = {}
    for kind in START:
        if kind in stores.started and (server := stores.start(kind)) is not None:
            said = server.execute(questions[kind])[0][0]
            found[kind] = f"Valkey {said['valkey_version']}" if isinstance(said, dict) else str(said)
    return found


def _commit() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "--short", "HEAD")
    return f"{head} with changes" if head and git("status", "--porcelain", "aiotaskq", "benchmarks") else head


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _filesystem(folder: Path) -> str:
    """Return the kind of file system of a folder: in memory nothing is durable, and everything is fast."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return sys.platform
    over = [(point, kind) for point, kind in mounts if folder.resolve().is_relative_to(point)]
    return max(over, key=lambda each: len(each[0]))[1]


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
