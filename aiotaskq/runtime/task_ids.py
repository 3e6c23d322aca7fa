"""Tasks that are named by the beginning of an id."""

from __future__ import annotations

from aiotaskq.backends.base import Backend


async def ids_named(backend: Backend, text: str, most: int = 2) -> list[str]:
    """Return the ids that a text can mean: itself where a task has this id, else up to ``most`` that begin with it.

    An empty text means none.
    """
    if not text:
        return []
    if (await backend.get([text]))[0] is not None:
        return [text]
    (found,) = await backend.ids_with_prefix([text], most)
    return found
