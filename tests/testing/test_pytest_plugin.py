"""The pytest plugin in an application's tests: with pytest-asyncio in both modes, with anyio, and without either."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest

pytest_plugins = ["pytester"]

APP = """
from aiotaskq import TaskQ

tq = TaskQ("sqlite:///production.db")

@tq.task
async def mail(to: str) -> str:
    return "sent to " + to

@tq.task(max_retries=3, backoff=60)
async def flaky() -> str:
    raise ConnectionError("no mail server")

@tq.schedule(interval=3600)
@tq.task
async def hourly() -> None:
    pass
"""

# Each twice, so that what one test leaves behind meets the loop of the next one.
TESTS = """
import asyncio
import pathlib
import pytest
import app

{mark}

@pytest.fixture
def anyio_backend():
    return "asyncio"

@{fixture}
async def pushed(taskq_kit):
    @taskq_kit.tq.task
    async def double(x: int) -> int:
        return 2 * x

    return await double.options(delay=86_400).push(x=21)

@pytest.mark.parametrize("time", [1, 2])
async def test_kit(taskq_kit, taskq_clock, pushed, time):
    assert taskq_kit.clock is taskq_clock
    await taskq_kit.advance(days=1)
    assert await pushed.result() == 42
    taskq_kit.assert_pushed("double", {{"x": 21}}, count=1)

@pytest.mark.parametrize("time", [1, 2])
async def test_virtual(taskq_virtual, time):
    kit = taskq_virtual(app.tq)
    handle = await app.flaky.push()
    await kit.drain(delayed=True)
    assert await handle.status() == "failed"
    await kit.advance(days=1)
    kit.assert_pushed(app.hourly, count=24)

@pytest.mark.parametrize("time", [1, 2])
async def test_on_sqlite(taskq_virtual, tmp_path, time):
    kit = taskq_virtual(app.tq, "sqlite:///" + str(tmp_path / "test.db"), scheduler=False)
    assert await (await app.mail.push(to="ann")).result() == "sent to ann"

@pytest.mark.parametrize("time", [1, 2])
async def test_inline(taskq_inline, time):
    taskq_inline(app.tq)
    assert await (await app.mail.push(to="ann")).result() == "sent to ann"
    with pytest.raises(ConnectionError):
        await app.flaky.push()

@pytest.mark.parametrize("time", [1, 2])
async def test_override(taskq_override, time):
    pushes = taskq_override(app.tq)
    await app.mail.push(to="bob")
    pushes.assert_pushed(app.mail, {{"to": "bob"}}, count=1)
    pushes.assert_not_pushed(app.flaky)

async def test_left_in_the_middle(taskq_virtual):
    kit = taskq_virtual(app.tq)

    @kit.tq.task
    async def hangs() -> None:
        await asyncio.Event().wait()

    await hangs.push()
    await kit.clock.settle()

@pytest.mark.parametrize("time", [1, 2])
async def test_nothing_of_it_is_left(time):
    assert "memory" not in repr(app.tq) and app.tq.worker is None
    assert not pathlib.Path("production.db").exists()
    others = asyncio.all_tasks() - {{asyncio.current_task()}}
    assert not [task for task in others if task.get_name().startswith("aiotaskq")]
"""
COUNT = 13

SYNC = """
import asyncio
import app

def test_a_loop_of_its_own(taskq_virtual):
    kit = taskq_virtual(app.tq)

    async def use():
        assert await (await app.mail.push(to="ann")).result() == "sent to ann"
        await kit.stop()

    asyncio.run(use())

def test_a_loop_that_has_ended(taskq_inline, taskq_override):
    taskq_inline(app.tq)
    handle = asyncio.run(app.mail.push(to="ann"))
    assert asyncio.run(handle.result()) == "sent to ann"

def test_never_used(taskq_kit, taskq_virtual, taskq_inline, taskq_override, taskq_clock):
    taskq_virtual(app.tq)
"""


@pytest.fixture(autouse=True)
def _only_plugins_that_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # the others take longer to import than the tests to run


def run(pytester: pytest.Pytester, test: str, *arguments: str) -> pytest.RunResult:
    pytester.makeini("[pytest]")  # or that of a folder above would count, where temporary files lie in a checkout
    pytester.makepyfile(app=APP, test_app=test)
    arguments += "-p", "pytest_aiotaskq", "-p", "anyio"
    if "no:asyncio" not in arguments:  # pytest-asyncio warns where this is not said
        arguments += "-p", "pytest_asyncio.plugin", "-o", "asyncio_default_fixture_loop_scope=function"
    return pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider", *arguments)


def test_pytest_finds_the_plugin() -> None:
    (found,) = entry_points(group="pytest11", name="pytest_aiotaskq")
    assert found.value == "pytest_aiotaskq"


@pytest.mark.parametrize(
    ("mark", "fixture", "arguments"),
    [
        ("", "pytest.fixture", ["-o", "asyncio_mode=auto"]),
        ("pytestmark = pytest.mark.asyncio", "__import__('pytest_asyncio').fixture", ["-o", "asyncio_mode=strict"]),
        ("pytestmark = pytest.mark.anyio", "pytest.fixture", ["-o", "asyncio_mode=strict"]),
        ("pytestmark = pytest.mark.anyio", "pytest.fixture", ["-p", "no:asyncio"]),
    ],
    ids=["auto", "strict", "anyio", "anyio alone"],
)
def test_fixtures_work_under_every_plugin(  # E12
    pytester: pytest.Pytester, mark: str, fixture: str, arguments: list[str]
) -> None:
    run(pytester, TESTS.format(mark=mark, fixture=fixture), *arguments).assert_outcomes(passed=COUNT)


def test_fixtures_work_in_one_loop_for_a_whole_module(pytester: pytest.Pytester) -> None:  # E12
    mark = "pytestmark = pytest.mark.asyncio(loop_scope='module')"
    fixture = "__import__('pytest_asyncio').fixture(loop_scope='module')"
    run(pytester, TESTS.format(mark=mark, fixture=fixture), "-o", "asyncio_mode=strict").assert_outcomes(passed=COUNT)


def test_fixtures_work_without_a_plugin_for_loops(pytester: pytest.Pytester) -> None:  # E12
    run(pytester, SYNC, "-p", "no:asyncio", "-p", "no:anyio").assert_outcomes(passed=3)


def test_a_failed_assertion_shows_what_was_pushed(pytester: pytest.Pytester) -> None:
    test = """
    import app

    async def test_it(taskq_override):
        pushes = taskq_override(app.tq)
        await app.mail.push(to="bob")
        pushes.assert_pushed(app.mail, {"to": "ann"})
    """
    result = run(pytester, test, "-o", "asyncio_mode=auto")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E * mail with {'to': 'ann'}: at least one expected, 0 pushed", "E *mail {'to': 'bob'}"]
    )


def test_a_run_that_does_not_use_it_imports_nothing(pytester: pytest.Pytester) -> None:
    test = """
    import sys

    def test_it():
        assert "pytest_aiotaskq" in sys.modules
        assert "aiotaskq" not in sys.modules
    """
    run(pytester, test).assert_outcomes(passed=1)
