"""``--tag`` on the command line."""

from __future__ import annotations

import pytest

from tests.support.command import Cli, prepared


@pytest.fixture
def cli(cli: Cli) -> Cli:
    prepared(cli.home / "app.db")
    cli.monkeypatch.setenv("AIOTASKQ_DATABASE_URL", cli.url)
    return cli


def test_tasks_are_pushed_with_tags_and_chosen_by_them(cli: Cli) -> None:
    for order in ("17", "18"):
        cli.out("push", "mail", "--tag", f"order={order}", "--tag", "tenant=a b")
    (found,) = cli.json("tasks", "list", "--tag", "order=17", "--tag", "tenant=a b")["tasks"]
    assert found["tags"] == {"order": "17", "tenant": "a b"}
    assert "order=17 tenant=a b" in cli.out("tasks", "list", "--tag", "order=17")
    assert "tags " in cli.out("tasks", "get", found["task_id"])
    assert cli.json("tasks", "cancel", "--tag", "order=17", "--yes")["count"] == 1
    assert cli.json("tasks", "delete", "--tag", "order=17", "--dry-run")["count"] == 1
    assert "use name=value" in cli.fails("tasks", "list", "--tag", "order", code=2)
    assert "given twice" in cli.fails("push", "mail", "--tag", "a=1", "--tag", "a=2", code=2)


def test_schedules_have_tags(cli: Cli) -> None:
    made = cli.json("schedules", "add", "s", "mail", "--interval", "60", "--tag", "order=17")
    assert made["tags"] == {"order": "17"}
    assert cli.json("schedules", "update", "s", "--tag", "order=18")["tags"] == {"order": "18"}
    assert "order=18" in cli.out("schedules", "get", "s")
