"""Each worker opens a resource once, and handlers get it: ``python resource.py``."""

import asyncio

from aiotaskq import TaskQ, injected

tq = TaskQ("memory://")


class Mailer:
    async def send(self, to: str) -> str:
        return f"sent to {to}"


@tq.resource
def mailer() -> Mailer:
    return Mailer()  # a generator may close it when the worker stops


@tq.task
async def mail(to: str, mailer: Mailer = injected()) -> str:
    return await mailer.send(to)


async def main() -> None:
    async with tq.running():
        print(await (await mail.push(to="ann")).result(timeout=10))


asyncio.run(main())
