"""The workflows in .github run what is there, and nothing is published while the name belongs to another project."""

from __future__ import annotations

import os
import re
import tomllib
from typing import Any

import yaml

from tests.support.programs import ROOT

JOBS: dict[str, Any] = {
    f"{path.stem}.{name}": job
    for path in (ROOT / ".github" / "workflows").glob("*.yml")
    for name, job in yaml.safe_load(path.read_text())["jobs"].items()
}


def test_they_run_what_is_there() -> None:
    commands = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in JOBS.items()}
    assert ".ci/run" in commands["check.check"] and os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "nox -s dist" in commands["release.build"]
    assert "nox -s site" in commands["check.site"] and "nox -s site" in commands["site.publish"]
    sessions = re.findall(r"^@nox\.session.*\ndef (\w+)", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
    named = re.findall(r"nox -s (\w+)", str(commands))
    assert named and set(named) <= set(sessions)


def test_publishing_is_switched_off_as_long_as_uploads_are_to_be_refused() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    refused = "Private :: Do Not Upload" in project["classifiers"]
    assert (JOBS["release.publish"].get("if") is False) == refused
    assert JOBS["site.publish"]["if"] is False
    assert JOBS["release.publish"]["permissions"] == {"id-token": "write"} and "secrets." not in str(JOBS)
