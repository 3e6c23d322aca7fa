"""The answers of the page "How do I …" do what they say."""

from __future__ import annotations

import re
import sys
from types import ModuleType
from typing import Any

import pytest

from aiotaskq import TaskQ
from aiotaskq.testing import virtual
from tests.support.programs import ROOT

PAGE = (ROOT / "aiotaskq" / "docs" / "how-to.md").read_text(encoding="utf-8")
ANSWERS = {
    heading: block
    for heading, text in re.findall(r"^### … ([^\n]+)\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
}


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs the block below a heading which begins so, and returns its names."""
    app = ModuleType("app")
    app.__dict__["tq"] = TaskQ("sqlite:///app.db")
    monkeypatch.setitem(sys.modules, "app", app)

    def run(beginning: str) -> dict[str, Any]:
        (block,) = (block for heading, block in ANSWERS.items() if heading.startswith(beginning))
        module = ModuleType("answer")
        monkeypatch.setitem(sys.modules, "answer", module)
        exec(compile(block, beginning, "exec"), module.__dict__)
        return module.__dict__

    return run


async def test_a_pause_that_the_handler_chooses_is_bounded(answer: Any) -> None:
    names = answer("retry after")
    async with virtual(names["tq"]) as kit:
        handle = await names["fetch"].push("https://example.com")
        done = await names["fetch"].push("https://example.com", status=200)
        await kit.advance(minutes=9)
        task = await handle.task()
        assert (task.status, task.retry_count, task.fence) == ("pending", 19, 19)
        await kit.advance(minutes=1)
        task = await handle.task()
        assert task.status == "failed" and str(task.error_message).startswith("Retry: busy\n")
        assert await done.result() == 200


async def test_other_exceptions_are_not_retried_and_a_hook_hears_of_them(
    answer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    answer("hear of a dead letter")
    names = answer("stop retrying")
    async with virtual(names["tq"]) as kit:
        handle = await names["publish"].push("")
        await kit.drain()
        assert len(await handle.attempts()) == 1 and await handle.status() == "failed"
    assert "publish ValueError: no text" in capsys.readouterr().out


async def test_rows_with_a_key_are_pushed_once(answer: Any) -> None:
    names = answer("run one task at a time")
    export = names["export"]
    async with virtual(names["tq"]) as kit:
        calls = [export.options(idempotency_key=f"row-{row}").call(row) for row in (1, 2)]
        await names["tq"].push_many(calls[:1])
        await kit.drain()
        assert [handle.created for handle in await names["tq"].push_many(calls)] == [False, True]


async def test_a_result_is_read_by_the_id(answer: Any) -> None:
    from aiotaskq.errors import ResultTimeout

    names = answer("retry after")
    async with virtual(names["tq"]) as kit:
        handle = names["tq"].handle((await names["fetch"].push("u", status=200)).task_id)
        with pytest.raises(ResultTimeout):
            await names["tq"].handle((await names["fetch"].push("u")).task_id).result(timeout=0)
        await kit.drain()
        assert await handle.result(timeout=0) == 200


async def test_middleware_and_a_resource(answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    names = answer("open something")
    answer("do something around")
    async with virtual(names["tq"]) as kit:
        handle = await names["call"].push()
        await kit.drain()
        assert await handle.result() == "Client"
        (entry,) = await handle.log()
        assert entry.text.startswith("took seconds=")
        assert capsys.readouterr().out == ""
    assert capsys.readouterr().out == "closed\n"


def test_answers_are_short() -> None:
    lines = {heading: [line for line in block.splitlines() if line] for heading, block in ANSWERS.items()}
    own = {heading: len([line for line in each if "import " not in line]) for heading, each in lines.items()}
    assert len(PAGE.split("\n### … ")) > 20 and {heading: count for heading, count in own.items() if count > 14} == {}
