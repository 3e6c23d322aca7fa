"""After a failure or a crash, steps that have ended are not repeated: ``python steps.py``."""

import asyncio

from aiotaskq import TaskQ, current_task, sleep_for, step

tq = TaskQ("memory://")


async def charge(order: int) -> str:
    print("charged", order)
    return f"payment {order}"


@tq.task(max_retries=3, backoff=0)
async def place(order: int) -> str:
    payment = await step("charge", charge, order)
    if current_task().task.retry_count == 0:
        raise ConnectionError("the mail server is away")
    await sleep_for("cool", seconds=0.1)
    return f"{payment} mailed"


async def main() -> None:
    async with tq.running():
        print(await (await place.push(order=17)).result(timeout=10))


asyncio.run(main())
