"""A task that fails for good is kept, and can be retried: ``python dead_letter.py``."""

import asyncio

from aiotaskq import TaskFailed, TaskQ

tq = TaskQ("memory://")


up: list[str] = []


@tq.task(max_retries=0)
async def fetch() -> str:
    return f"fetched by {up[0]}"


async def main() -> None:
    async with tq.running():
        handle = await fetch.push()
        try:
            await handle.result(timeout=10)
        except TaskFailed as failed:
            print(str(failed.error).splitlines()[0])
        up.append("the second server")
        await tq.retry(handle.task_id)
        print(await handle.result(timeout=10))


asyncio.run(main())
