"""Assertions on pushes name the pushes that were made instead."""

from __future__ import annotations

from types import ModuleType
from unittest.mock import ANY

import pytest

import aiotaskq.testing
from aiotaskq import TaskQ
from aiotaskq.testing import override


async def test_assertions_say_what_was_pushed_instead() -> None:
    tq = TaskQ("memory://")
    tq.elsewhere("other")

    @tq.task(queue="mails")
    async def send(to: str, subject: str = "") -> None: ...

    with override(tq) as pushes:
        with pytest.raises(AssertionError, match=r"^send: at least one expected, 0 pushed\nnothing was pushed$"):
            pushes.assert_pushed(send)
        pushes.assert_not_pushed(send)
        await send.push(to="ann", subject="hello")
        await send.options(queue="bulk").push(to="bob")
        (task,) = pushes.assert_pushed("send", {"to": "ann"})
        assert task.params == {"to": "ann", "subject": "hello"}
        assert len(pushes.assert_pushed(send, {"to": ANY}, count=2)) == 2
        pushes.assert_pushed(send, {"to": "bob"}, queue="bulk", count=1)
        pushes.assert_pushed("other", count=0)
        await send.options(tags={"order": "17", "a": "b"}).push(to="cy")
        (task,) = pushes.assert_pushed(send, tags={"order": "17"})
        assert task.params == {"to": "cy"}
        with pytest.raises(AssertionError, match=r"send tagged \{'order': '18'\}: at least one expected, 0 pushed"):
            pushes.assert_pushed(send, tags={"order": "18"})
        pushes.assert_not_pushed(send, tags={"order": "17", "a": "c"})
        pushes.pushed.remove(task)
        pushes.assert_not_pushed(send, {"to": "ann", "subject": "other"})
        with pytest.raises(AssertionError) as caught:
            pushes.assert_pushed(send, {"to": "eve"}, queue="bulk", count=3)
        assert str(caught.value) == (
            "send with {'to': 'eve'} in queue bulk: 3 expected, 0 pushed\n"
            "2 x send:\n"
            "  send {'to': 'ann', 'subject': 'hello'} in queue mails\n"
            "  send {'to': 'bob'} in queue bulk"
        )
        with pytest.raises(AssertionError, match=r"send: none expected, 2 pushed"):
            pushes.assert_not_pushed(send)
        for _ in range(30):
            await send.push(to="x" * 500)
        assert str(pushes).endswith("…  in queue mails\n  … and 12 more".replace("  in", " in"))
        pushes.pushed.clear()
        pushes.assert_not_pushed(send)


def test_public_names_of_the_test_tools() -> None:
    public = {
        name
        for name, value in vars(aiotaskq.testing).items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and name != "annotations"
    }
    assert public == set(aiotaskq.testing.__all__)
