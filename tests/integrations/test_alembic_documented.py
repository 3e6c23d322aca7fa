"""The ``env.py`` of the manual, as it stands there."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from aiotaskq.backends.sql.migrations import VERSION_TABLE
from aiotaskq.models import OUR_TABLES
from tests.support import nursery
from tests.support.machine import within
from tests.support.programs import ROOT

PAGE = (ROOT / "aiotaskq" / "docs" / "transactions.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```py(?:thon)?\n# (\S+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))


def run(folder: Path, module: str, *arguments: str) -> None:
    done = nursery.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=within(50),
    )
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)


def revised(folder: Path, message: str) -> str:
    """Return the revision that ``--autogenerate`` writes."""
    run(folder, "alembic", "revision", "--autogenerate", "-m", message)
    (made,) = (folder / "migrations" / "versions").glob(f"*_{message}.py")
    return made.read_text(encoding="utf-8")


def test_the_documented_env_migrates_the_tables_of_the_application_alone(tmp_path: Path) -> None:
    run(tmp_path, "alembic", "init", "migrations")
    for name in ("shop.py", "migrations/env.py"):
        (tmp_path / name).write_text(BLOCKS[name], encoding="utf-8")
    run(tmp_path, "aiotaskq", "db", "upgrade", "--db", "sqlite:///shop.db")
    first = revised(tmp_path, "first")
    assert "create_table('orders'" in first and "create_table('bookings'" in first
    assert not [name for name in (*OUR_TABLES, VERSION_TABLE) if name in first]
    run(tmp_path, "alembic", "upgrade", "head")
    second = revised(tmp_path, "second")
    assert "drop_" not in second and "create_" not in second.partition("def upgrade")[2]
    run(tmp_path, "shop")
