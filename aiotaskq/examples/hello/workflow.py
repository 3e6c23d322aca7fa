"""A task that waits for a group, and gets its result: ``python workflow.py``."""

import asyncio

from aiotaskq import Parent, TaskQ, Workflow, group, injected

tq = TaskQ("memory://")


@tq.task
async def load(name: str) -> str:
    return name.upper()


@tq.task
async def save(parent: Parent[list[str]] = injected()) -> str:
    return f"saved {' and '.join(parent.result)}"


async def main() -> None:
    work = Workflow().add("books", group([load.call("dune"), load.call("emma")]))
    work.add("save", save.call(), after="books")
    async with tq.running():
        started = await tq.start(work)
        print(await started.result(timeout=10))


asyncio.run(main())
