"""The words of the pages: every sentence has a Chinese one with the same places, and no template has bare text."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import jinja2
import pytest
from jinja2 import nodes

import aiotaskq.web.dashboard as package
from aiotaskq.core.catalogue import parse
from aiotaskq.core.conversion import error_type
from aiotaskq.core.firing_record import OUTCOMES, REASONS
from aiotaskq.core.outcome import LeaseExpired, settle
from aiotaskq.core.schedule import ScheduleState
from aiotaskq.core.status import Status
from aiotaskq.operations.everything import OPERATIONS
from aiotaskq.operations.table import MANY
from aiotaskq.runtime.hooks import NAMES
from aiotaskq.web.dashboard.site import actions
from aiotaskq.web.dashboard.words import CATALOGUE, Words, language_of
from aiotaskq.web.endpoints import ENDPOINTS
from aiotaskq.web.problem_details import DETAILS
from tests.support.rows import new

FOLDER = Path(package.__file__).parent
TEMPLATES = sorted((FOLDER / "templates").glob("*.html"))
STATES = {*map(str, Status), "timed_out", "lost", "released", "paused", "active"}
"""States of tasks, attempts and queues: words that are translated, and names of icons and of classes in the styles."""
BARE = {"aiotaskq"}
"""Names that are the same in every language."""


def of_template(text: str) -> Iterator[str]:
    for call in jinja2.Environment().parse(text).find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and call.node.name in ("_", "n_"):
            wanted = call.args[:1] if call.node.name == "_" else call.args[:2]
            for each in wanted:
                yield from (const.value for const in [each, *each.find_all(nodes.Const)] if _is_text(const))


def _is_text(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Const) and isinstance(node.value, str)


CHANGES = {operation.word for operation in OPERATIONS.values() if operation.changes}
"""Names of changes in the audit log and the hook ``operated``."""


def of_module(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "marked" and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)
            if node.func.id == "map" and isinstance(node.args[0], ast.Name) and node.args[0].id == "marked":
                yield from ast.literal_eval(node.args[1])


def sentences() -> set[str]:
    found = {*STATES, *NAMES, *OUTCOMES, *REASONS, *CHANGES, *DETAILS, *get_args(ScheduleState)}
    for path in TEMPLATES:
        found.update(of_template(path.read_text(encoding="utf-8")))
    for path in FOLDER.rglob("*.py"):
        found.update(of_module(path.read_text(encoding="utf-8")))
    return found


def chinese() -> dict[str, str]:
    return {english: text for (_, english), text in parse(CATALOGUE.read_text(encoding="utf-8")).items()}


def test_every_sentence_is_in_the_catalogue_and_no_other() -> None:
    assert sentences() == set(chinese())


def test_each_change_has_a_word() -> None:
    changes = {each.name if "." in each.name else each.name.replace("_", "-") for each in ENDPOINTS if each.changes}
    assert {name.removesuffix(MANY) for name in changes | set(actions)} == CHANGES


@pytest.mark.parametrize(("english", "text"), chinese().items())
def test_a_translation_has_the_same_places(english: str, text: str) -> None:
    places = [sorted(set(re.findall(r"\{(\w+)\}", each))) for each in (english, text)]
    assert places[0] == places[1] or (places[0] != places[1] and "{number}" in english + text)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_has_no_bare_text(path: Path) -> None:
    text = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", " ", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    inside = re.sub(r"<!--.*?-->|<[^>]*>", " ", text, flags=re.DOTALL)
    words = set(re.findall(r"[^\W\d_]{2,}", re.sub(r"&\w+;", " ", inside)))
    attributes = re.findall(r'(?:title|alt|aria-label|placeholder)="([^"]*\w[^"]*)"', text)
    assert words <= BARE and attributes == []


def test_a_template_has_no_inline_script_style_or_handler() -> None:
    for path in TEMPLATES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"<style|style=|<script(?! src=)|\son\w+=|javascript:|\|safe|Markup", text), path.name


@pytest.mark.parametrize(
    ("chosen", "accepted", "wanted"),
    [
        ("", "", "en"),
        ("zh", "en", "zh"),
        ("", "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("", "fr, en;q=0.5, zh;q=0.6", "zh"),
        ("", "zh;q=0, en;q=0.1", "en"),
        ("xx", "de;q=x,,;", "en"),
    ],
)
def test_the_language_is_the_chosen_one_or_that_of_the_browser(chosen: str, accepted: str, wanted: str) -> None:
    assert language_of(chosen, accepted) == wanted


@pytest.mark.parametrize(
    ("seconds", "english", "text"),
    [
        (None, "", ""),
        (0.0123, "12 ms", "12 毫秒"),
        (2.04, "2.0 s", "2.0 秒"),
        (2, "2 s", "2 秒"),
        (59, "59 s", "59 秒"),
        (61, "1 min 1 s", "1 分 1 秒"),
        (7200, "2 h", "2 小时"),
        (90_061, "1 d 1 h", "1 天 1 小时"),
        (-90, "-1 min 30 s", "-1 分 30 秒"),
    ],
)
def test_durations_have_two_units(seconds: float | None, english: str, text: str) -> None:
    assert (Words("en", "UTC").duration(seconds), Words("zh", "UTC").duration(seconds)) == (english, text)


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (1 / 3_600, "1 per hour, burst 2"),
        (100 / 60, "100 per minute, burst 2"),
        (2.999991, "3 per second, burst 2"),
        (20_000, "20,000 per second, burst 2"),
        (1.23456, "1.2346 per second, burst 2"),
        (1 / 86_400 / 7, "0.1429 per day, burst 2"),
    ],
)
def test_a_rate_is_in_the_unit_that_suits_it(tokens: float, text: str) -> None:
    assert Words("en").rate(tokens, 2) == text


def test_what_lasts_is_said_in_whole_minutes() -> None:
    english, chinese = Words("en", "UTC"), Words("zh", "UTC")
    assert [english.lasting(each) for each in (-1, 59, 60, 119.9, 7_325)] == [
        *["for less than a minute"] * 2,
        *["for 1 min"] * 2,
        "for 2 h 2 min",
    ]
    assert [chinese.lasting(each) for each in (59, 61)] == ["不到 1 分钟", "已 1 分"]
    assert [english.minutes(each) for each in (59, 90.5)] == ["< 1 min", "1 min"]


def test_times_are_in_one_zone_and_as_its_readers_write_them() -> None:
    at = 1_700_000_000 * 1_000_000
    assert Words("en", "Asia/Shanghai").time(at) == "15 Nov 2023 06:13:20"
    assert Words("zh", "Asia/Shanghai").time(at) == "2023-11-15 06:13:20"
    assert Words("en", "UTC").time(None) == Words("en", "UTC").time(2**62) == ""
    assert Words("en", "UTC")("{ready} ready", ready=12_345) == "12,345 ready"


def test_why_a_run_was_lost_is_chinese_where_messages_are_hidden_too() -> None:
    running = new(status=Status.RUNNING, lease_owner="worker-a", fence=1, began_at=5_000_000, started_at=5)
    error = settle(running, LeaseExpired(None), 10_000_000).attempts[-1].error
    for text in (error, error_type(error)):
        assert Words("zh").error(text).startswith("进程已死亡"), text
