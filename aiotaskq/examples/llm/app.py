"""An LLM job: a long answer in a task, its progress and its text so far for a page that asks, and a cancel button.

`python app.py` runs it with a fake model. For a real one, replace `FakeModel`; nothing else changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiotaskq import Backoff, TaskFailed, TaskQ, current_task, injected

tq = TaskQ("sqlite:///llm.db", retention=86_400)
LONGEST = 600  # seconds that the text so far is kept


class Overloaded(Exception):
    """The model takes no request now."""


class FakeModel:
    """A model that answers with the words of the prompt, and is overloaded at the first request."""

    def __init__(self) -> None:
        self.requests = 0

    async def stream(self, prompt: str) -> AsyncIterator[str]:
        """Yield the answer piece by piece."""
        self.requests += 1
        if self.requests == 1:
            raise Overloaded("try again")
        for word in ["You", "said:", *prompt.split()]:
            await asyncio.sleep(0.01)
            yield word


@tq.resource
async def model() -> AsyncIterator[FakeModel]:
    """Open the model once for each worker."""
    yield FakeModel()


# A request costs money: a task is retried only where the model has done nothing yet.
@tq.task(queue="llm", max_retries=5, backoff=Backoff(base=0.1, limit=30), retry_on=(Overloaded,), timeout=300)
async def answer(prompt: str, limit: int = 100, model: FakeModel = injected()) -> str:
    """Ask the model, and store the text so far; a cancel ends the stream where it is."""
    task_id = current_task().task.task_id
    words: list[str] = []
    async for word in model.stream(prompt):
        words.append(word)
        await tq.values.set_public(f"answer:{task_id}", " ".join(words), ttl=LONGEST)
        await current_task().progress(len(words), limit, word)
        if len(words) == limit:
            break
    return " ".join(words)


async def main() -> None:
    """Ask twice: one answer is read while it grows, the other one is cancelled."""
    async with tq.running(concurrency=5, queues=["llm"]):
        first = await answer.options(idempotency_key="question-1").push(prompt="how far is the moon")
        second = await answer.push(prompt="a very long story " * 100, limit=400)
        await second.cancel()
        print(await first.result(timeout=30))
        print(await tq.values.get_public(f"answer:{first.task_id}"))
        try:
            await second.result(timeout=30)
        except TaskFailed as failed:
            print(failed.status)


if __name__ == "__main__":
    asyncio.run(main())
