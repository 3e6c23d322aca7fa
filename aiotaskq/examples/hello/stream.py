"""A handler sends data while it runs: ``python stream.py``."""

import asyncio

from aiotaskq import TaskQ, current_task

tq = TaskQ("memory://")


@tq.task
async def answer(question: str) -> None:
    for word in question.split():
        current_task().stream(word)


async def main() -> None:
    async with tq.running():
        handle = await answer.push(question="how far is the moon")
        async for entry in handle.stream():
            print(entry.kind, entry.data if entry.kind == "data" else entry.text)


asyncio.run(main())
