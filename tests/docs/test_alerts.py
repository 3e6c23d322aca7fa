"""Alerts and the board read metrics that exist; every event is explained, and log lines are those of the code."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from aiotaskq import TaskQ
from aiotaskq.integrations.prometheus import Metrics
from aiotaskq.runtime.hooks import NAMES
from tests.docs.test_deployment import said
from tests.support.programs import ROOT

DOCS = ROOT / "aiotaskq" / "docs"
PAGE = (DOCS / "alerts.md").read_text(encoding="utf-8")
RULES: list[dict[str, Any]] = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0])["groups"][0]["rules"]
BOARD: dict[str, Any] = json.loads((DOCS / "grafana.json").read_text(encoding="utf-8"))
QUERIES = [rule["expr"] for rule in RULES]
QUERIES += [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]


def exported() -> set[str]:
    """The names of all series that Metrics can have."""
    registry = CollectorRegistry()
    Metrics(TaskQ("memory://"), registry)
    suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
    return {f"{each.name}{suffix}" for each in registry.collect() for suffix in suffixes[each.type]}


def test_rules_and_board_read_metrics_that_exist() -> None:
    used = {name for query in QUERIES for name in re.findall(r"aiotaskq_\w+", query)}
    assert len(used) > 20
    assert used - exported() == set()


@pytest.mark.parametrize("query", QUERIES)
def test_queries_have_their_brackets(query: str) -> None:
    assert query.count("(") == query.count(")") and query.count("[") == query.count("]")


def test_the_board_places_each_panel_on_its_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        x, y, w, h = (panel["gridPos"][key] for key in "xywh")
        cells = {(column, row) for column in range(x, x + w) for row in range(y, y + h)}
        assert x + w <= 24 and not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


def rows(title: str) -> list[str]:
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


def test_every_event_is_explained() -> None:
    assert rows("Hooks") == list(NAMES)


@pytest.mark.parametrize("line", rows("Log words"))
def test_explained_lines_are_what_the_code_logs(line: str) -> None:
    texts = [re.sub(r"…+", "…", text) for text in said()]
    assert any(line.strip("…; ") in text for text in texts), "no longer logged like this: correct the manual"
