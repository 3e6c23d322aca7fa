"""A folder of blobs that can be out of reach, and a store with it."""

from __future__ import annotations

from pathlib import Path

from aiotaskq import TaskQ
from aiotaskq.backends import connect
from aiotaskq.backends.base import Backend
from aiotaskq.backends.blobs import with_blobs
from aiotaskq.codecs import Codec, Folder
from tests.support.backends import Store
from tests.support.rows import NOW


class Counting(Folder):
    """A folder that counts what is read, and can be out of reach."""

    reads = 0
    away = False

    def put(self, name: str, data: bytes) -> None:
        self._reach()
        super().put(name, data)

    def get(self, name: str) -> bytes | None:
        self._reach()
        self.reads += 1
        return super().get(name)

    def _reach(self) -> None:
        if self.away:
            raise OSError("no route to host")


class Place:
    """A store, a folder of blobs, and a time."""

    def __init__(self, store: Store, root: Path) -> None:
        self.store, self.root, self.now = store, root, NOW
        self.folder = Counting(root)
        self._backends: list[Backend] = []

    async def open(self, codec: Codec | None = None, url: str | None = None) -> Backend:
        backend = connect(url or self.store.url, codec=with_blobs(codec, self.folder, lambda: self.now))
        await backend.open()
        self._backends.append(backend)
        return backend

    def tq(self, codec: Codec | None = None) -> TaskQ:
        return TaskQ(self.store.url, codec=codec, blobs=self.folder, poll_interval=0.05, history=False)

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.root.rglob("*") if path.is_file())

    async def close(self) -> None:
        for backend in self._backends:
            await backend.close()
