"""The generated parts of the manual are those of the code."""

from __future__ import annotations

import re

import aiotaskq
import aiotaskq.sync
from tests.docs.generated import BEGIN, COMMAND, END, HOMES, SECTIONS, api, error_list, files


def test_the_manual_has_what_is_generated() -> None:
    stale = [path.name for path, text in files().items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], f"run: {COMMAND}"


def test_the_reference_has_every_public_name_of_the_package() -> None:
    text = api()
    names = {name for module in HOMES for name in module.__all__}
    assert sorted(names) == sorted({name for section in SECTIONS.values() for name in section.split()})
    assert [name for name in names if text.count(f"\n### {name}\n") != 1] == []
    assert "``" not in text.replace("```", "") and "Args:\n" not in text
    assert text.count("Push a task by the name of its type; when this returns on a durable store") == 1


def test_the_public_names_of_a_task_queue_are_those_of_the_reference() -> None:
    section = api().partition("\n### TaskQ\n")[2].partition("\n### ")[0]
    documented = {field or verb for field, verb in re.findall(r"^- `(\w+): |^(?:async )?def (\w+)\(", section, re.M)}
    awaited = {name for name in dir(aiotaskq.TaskQ("memory://")) if not name.startswith("_")}
    blocking = {name for name in dir(aiotaskq.sync.TaskQ("memory://")) if not name.startswith("_")}
    assert awaited == documented
    assert blocking ^ awaited == {"lifespan", "operate", "sync", "timezone", "worker"}


def test_the_list_of_errors_has_texts_with_their_values_left_out() -> None:
    text = error_list(chinese=False)
    assert text.startswith(BEGIN) and text.endswith(END)
    assert "- `there is no task …`" in text and text.count("\n- `") > 150
    assert "没有任务" in error_list(chinese=True)
