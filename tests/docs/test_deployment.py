"""The manual on deployment and troubleshooting: samples are valid, and quoted errors are those of the code."""

from __future__ import annotations

import ast
import functools
import re
import shlex
import shutil
import sqlite3
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from aiotaskq import TaskQ
from aiotaskq.backends.sql import sqlite_file
from aiotaskq.cli.commands import app_for
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.web.endpoints import ENDPOINTS
from tests.support.machine import within

ROOT = Path(__file__).parent.parent.parent
SECTION = (ROOT / "aiotaskq" / "docs" / "deployment.md").read_text(encoding="utf-8")
SAMPLES = dict(re.findall(r"```(\w+)\n(.*?)```", SECTION.partition("\n## Kubernetes")[0], re.DOTALL))
MANIFEST = re.findall(r"```yaml\n(.*?)```", SECTION, re.DOTALL)[1]
ERRORS = [
    quoted
    for row in (ROOT / "aiotaskq" / "docs" / "troubleshooting.md").read_text(encoding="utf-8").splitlines()
    if row.startswith("| `")
    for quoted in re.findall(r"`(.+?)`(?=, `|$)", row.split("|")[1].strip())
]
# What other software says, in its own words.
FOREIGN = {"too many clients already": "PostgreSQL", "database is locked": "SQLite"}


def options(command: list[str]) -> dict[str, float]:
    """Parse ``aiotaskq run app:tq …`` as the command line does; return its numbers."""
    name, verb, *arguments = command
    assert (Path(name).name, verb) == ("aiotaskq", "run")
    run = get_command(app_for(None)).commands["run"]  # type: ignore[attr-defined]
    context = run.make_context("run", arguments)
    return {key: value for key, value in context.params.items() if isinstance(value, int | float)}


def unit() -> ConfigParser:
    parsed = ConfigParser(interpolation=None, strict=True)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read_string(SAMPLES["ini"])
    return parsed


def test_every_sample_is_there() -> None:
    assert set(SAMPLES) == {"ini", "dockerfile", "yaml"} and len(ERRORS) >= 20


def test_the_unit_gives_a_stop_the_time_it_may_take() -> None:
    service = unit()["Service"]
    run = options(shlex.split(service["ExecStart"]))
    assert float(service["TimeoutStopSec"]) >= run["drain"] + run["grace"] + 5
    assert service["KillMode"] == "mixed" and service["SuccessExitStatus"].split() == ["3", "4"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    # The paths of the sample exist on the reader's machine only.
    text = SAMPLES["ini"].replace("/srv/app/.venv/bin/aiotaskq", shutil.which("true") or "/bin/true")
    (tmp_path / "app-worker.service").write_text(
        text.replace("User=app", "User=root").replace("Group=app", "Group=root")
    )
    run = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "app-worker.service")],
        capture_output=True,
        text=True,
        timeout=within(30),
    )
    ours = [line for line in run.stderr.splitlines() if "app-worker.service" in line]
    assert ours == []
    (tmp_path / "app-worker.service").write_text(text.replace("KillMode", "KillMood"))
    run = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "app-worker.service")],
        capture_output=True,
        text=True,
        timeout=within(30),
    )
    assert "KillMood" in run.stderr, "it looks at what it is given"


def test_the_container_runs_the_command_as_a_user_and_as_a_list() -> None:
    lines = [line for line in SAMPLES["dockerfile"].splitlines() if line and not line.startswith("#")]
    steps = [line.partition(" ")[::2] for line in lines]
    assert {verb for verb, _ in steps} <= {"FROM", "COPY", "RUN", "WORKDIR", "USER", "CMD"}
    assert steps[0][0] == "FROM" and steps[-1][0] == "CMD" and ("USER", "app") in steps
    command = ast.literal_eval(steps[-1][1])
    assert options(command)["concurrency"] == 20
    copied = [rest.split()[0] for verb, rest in steps if verb == "COPY"]
    assert copied == ["aiotaskq", "app.py"]
    extra = re.search(r"/opt/aiotaskq\[(\w+)\]", SAMPLES["dockerfile"])
    assert extra is not None and f"\n{extra[1]} = [" in (ROOT / "pyproject.toml").read_text()


def test_the_compose_file_waits_for_the_database_and_for_the_stop() -> None:
    services = yaml.safe_load(SAMPLES["yaml"])["services"]
    worker, db = services["worker"], services["db"]
    run = options(["aiotaskq", "run", "app:tq"])
    assert float(worker["stop_grace_period"].removesuffix("s")) >= run["drain"] + run["grace"] + 5
    assert worker["depends_on"]["db"]["condition"] == "service_healthy" and db["healthcheck"]["test"]
    url = re.sub(r"\$\{DB_PASSWORD:.*?\}", "S3CRET", worker["environment"]["DATABASE_URL"])
    assert repr(TaskQ(url)) == "TaskQ('postgresql://app:***@db/app')"
    assert db["environment"]["POSTGRES_USER"] == db["environment"]["POSTGRES_DB"] == "app"


def test_the_manifest_waits_for_the_stop_and_probes_what_is_served() -> None:
    pod = yaml.safe_load(MANIFEST)["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    run = options(worker["args"])
    assert float(pod["terminationGracePeriodSeconds"]) >= run["drain"] + run["grace"] + 5 and run["web"]
    assert {each["name"] for each in worker["env"]} >= {"DATABASE_URL", worker["args"][-1]}
    served = {each.path for each in ENDPOINTS}
    probes = [worker[each]["httpGet"] for each in ("livenessProbe", "readinessProbe")]
    assert {each["path"] for each in probes} <= served
    assert {each["port"] for each in probes} == {"ops"} and worker["ports"][0]["containerPort"] == run["port"]


@functools.cache
def said() -> list[str]:
    """Every text in the package, with … for what is filled in."""
    texts = []
    for path in (ROOT / "aiotaskq").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(re.sub(r"\{[^{}]*\}", "…", node.value))
    return texts


@pytest.mark.parametrize("quoted", ERRORS)
def test_quoted_errors_are_what_the_code_says(quoted: str) -> None:
    if quoted not in FOREIGN:
        assert any(quoted in text for text in said()), "no longer said like this: correct the manual"


async def test_a_locked_database_is_told_in_sqlites_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT", 0.1)
    async with TaskQ(f"sqlite:///{tmp_path}/x.db") as tq:
        other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseUnavailable, match=r"x\.db: database is locked"):
            await tq.push("x")
        other.close()
