"""Push a task, and wait for its result: ``python app.py``. Each of the other files shows one more idea."""

import asyncio

from aiotaskq import TaskQ

tq = TaskQ("memory://")


@tq.task
async def greet(name: str) -> str:
    return f"Hello, {name}!"


async def main() -> None:
    async with tq.running():
        handle = await greet.push(name="world")
        print(await handle.result(timeout=10))


asyncio.run(main())
