"""Folders and buckets as the places of blobs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import TaskQ
from aiotaskq.backends.blobs import BlobCodec, with_blobs
from aiotaskq.codecs import S3, BlobStore, Folder
from aiotaskq.core.errors import REQUIREMENTS
from aiotaskq.errors import DatabaseUnavailable, MissingExtra, ValidationError
from aiotaskq.runtime.blobs import sweep
from tests.support.machine import within
from tests.support.s3 import BUCKET, Server, small_s3

NAMES = ["scope/2026-01-01T00/aa", "scope/2026-01-01T00/ab", "scope/2026-01-02T00/aa", "other/2026-01-01T00/aa"]


@pytest.fixture
def server() -> Iterator[Server]:
    with small_s3() as made:
        yield made


def bucket(server: Server, **options: Any) -> S3:
    return S3(**{"bucket": BUCKET, "endpoint": server.url, "access_key_id": "key", "secret_access_key": "s", **options})


@pytest.fixture(params=["folder", "bucket", "prefix"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    if request.param == "folder":
        yield Folder(tmp_path / "a" / "b")
    else:
        with small_s3() as server:
            yield bucket(server, prefix="" if request.param == "bucket" else "deep/er/")
            assert all(name.startswith("deep/er/") for name in server.objects) == (request.param == "prefix")


def test_blobs_are_stored_listed_and_deleted(blobs: BlobStore) -> None:
    assert list(blobs.names("scope")) == []
    for number, name in enumerate(NAMES):
        blobs.put(name, b"\x00\xff" * number)
    assert [blobs.get(name) for name in NAMES] == [b"\x00\xff" * number for number in range(4)]
    assert blobs.get("scope/2026-01-01T00/ac") is None
    blobs.put(NAMES[0], b"again")
    assert blobs.get(NAMES[0]) == b"again"
    assert sorted(blobs.names("scope")) == NAMES[:3] and list(blobs.names("other")) == NAMES[3:]
    blobs.delete([*NAMES[:2], "scope/2026-01-01T00/ac"])
    assert list(blobs.names("scope")) == NAMES[2:3]
    blobs.put(NAMES[0], b"a folder that went comes again")
    assert blobs.get(NAMES[0]) is not None


def test_a_bucket_that_cannot_be_had_is_an_error_and_a_hiccup_is_none(server: Server) -> None:
    blobs = bucket(server)
    server.failing = 1
    blobs.put(NAMES[0], b"1")
    server.failing = 1
    assert blobs.get(NAMES[0]) == b"1", "it asks again"
    for other in (bucket(server, bucket="none"), bucket(server, access_key_id="wrong")):
        with pytest.raises(Exception, match=r"NoSuchBucket|AccessDenied"):
            other.get(NAMES[0])
    assert repr(blobs) == "S3('jobs', prefix='')"


async def test_tasks_in_a_bucket(server: Server, tmp_path: Path) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/app.db", blobs=bucket(server), poll_interval=0.05)

    @tq.task
    async def work(text: str) -> int:
        return len(text)

    async with tq.running(concurrency=2), asyncio.timeout(within(30)):
        handles = await tq.push_many([work.call(text="a" * 100_000 + str(n)) for n in range(5)])
        assert [await handle.result() for handle in handles] == [100_001] * 5
        assert len(server.objects) == 5
        await tq.purge()
        codec = tq.queue.backend.codec
        assert isinstance(codec, BlobCodec)
        assert await sweep(tq.queue.backend) == 0, "they are young"
        codec.now = lambda: tq.queue.clock.now() + 2 * 86_400_000_000
        assert await sweep(tq.queue.backend) == 5 and server.objects == {}
        server.objects.clear()
        handle = await work.push(text="a" * 100_000)
        await handle.result()
        ((name, data),) = server.objects.items()
        server.objects[name] = data[:-1]
        with_error = await handle.task()
        assert "was altered" in (with_error.undecodable or "")


def test_options(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for wrong in ({"bucket": ""}, {"bucket": 5}, {"over": 2**30}, {"grace": 3599}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            bucket(server, **wrong)
    with pytest.raises(ValidationError, match="path"):
        Folder("")
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(MissingExtra, match=r"obstore is not installed; install the extra s3"):
        bucket(server)
    assert REQUIREMENTS["s3"] == ("obstore>=0.8,<0.13",)


async def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with TaskQ(f"sqlite:///{tmp_path}/app.db", blobs=Folder(tmp_path / "file" / "blobs")) as tq:
        with pytest.raises(DatabaseUnavailable, match=r"blobs: Folder\('.*/file/blobs'\): NotADirectoryError"):
            await tq.push("t", {"text": "a" * 100_000})
        assert await tq.find() == []


async def test_an_unmounted_folder_is_out_of_reach(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "a")
    folder.put("s/h/x", b"1")
    assert (folder.get("s/h/x"), folder.get("s/h/y"), folder.get("s/other/y")) == (b"1", None, None)
    (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(FileNotFoundError):
        folder.get("s/h/x")


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"blobs: a store is needed, as Folder"):
        TaskQ("memory://", blobs=str(tmp_path))  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=r"^path: "):
        Folder(5)  # type: ignore[arg-type]
    for options in ({"over": 0}, {"over": 10**9}, {"grace": 5}):
        with pytest.raises(ValidationError):
            Folder(tmp_path, **options)  # type: ignore[arg-type]


def test_an_undecoded_value_that_looks_like_a_reference_is_none(tmp_path: Path) -> None:
    class Plain:
        def encode(self, data: bytes, /) -> bytes:
            return b"\x00bl" + data

        def decode(self, data: bytes, /) -> bytes:
            return data[3:]

    codec = with_blobs(Plain(), Folder(tmp_path), lambda: 0)
    assert isinstance(codec, BlobCodec) and codec.decode(codec.encode(b"{}")) == b"{}"
