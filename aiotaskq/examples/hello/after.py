"""A task that is pushed after one that runs already waits for its end: ``python after.py``."""

import asyncio

from aiotaskq import Parent, TaskQ, injected

tq = TaskQ("memory://")


@tq.task
async def render(video: str) -> str:
    return f"{video}.mp4"


@tq.task
async def publish(parent: Parent[str] = injected()) -> str:
    return f"published {parent.result}"


async def main() -> None:
    async with tq.running():
        video = await render.push("cats")  # elsewhere, earlier
        handle = await publish.options(after=[video]).push()
        print(await handle.result(timeout=5))


asyncio.run(main())
