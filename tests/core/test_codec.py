"""Codecs: each gives back what it was given, and a wrong key or damage is found."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aiotaskq.codecs import Chain, Codec, Fernet, Zlib, Zstd
from aiotaskq.core.coded import COLUMNS, PREFIX, decoded, encoded, from_stored, is_coded, to_stored
from aiotaskq.core.task import Attempt, Task
from aiotaskq.errors import MissingExtra, ValidationError
from tests.support.codecs import Keyed

CODECS: dict[str, Codec] = {
    "nothing": Chain(),
    "zlib": Zlib(over=10),
    "keyed": Keyed("a", "b"),
    "chain": Chain(Zlib(over=0), Keyed("a")),
    "odd chain": Chain(Keyed("a"), Zlib(over=0)),
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.text(max_size=5), json_values, max_size=3)


@pytest.mark.parametrize("name", CODECS)
@given(data=st.binary() | st.binary(max_size=30).map(lambda data: data * 50))
@example(data=b"\x00z")
@example(data=b"\x00z" + b"\x00" * 100)
def test_what_is_decoded_is_what_was_encoded(name: str, data: bytes) -> None:
    codec = CODECS[name]
    assert codec.decode(codec.encode(data)) == data


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=30)
@given(
    params=objects,
    extra=objects,
    result=json_values,
    progress=st.none() | objects,
    attempts=st.lists(st.builds(Attempt, number=st.integers(1, 99), error=st.none() | st.text()), max_size=2).map(
        tuple
    ),
)
def test_a_task_is_what_it_was(name: str, **fields: Any) -> None:
    task = Task(task_id="1", type="t", **fields)
    stored = encoded(task, CODECS[name])
    assert encoded(stored, CODECS[name]) is stored, "a second time changes nothing"
    assert all(is_coded(text) for text in (stored.coded or {}).values())
    assert set(stored.coded or {}) <= set(COLUMNS)
    found = decoded(stored, CODECS[name])
    assert found == task and found.undecodable is None
    if name == "keyed":
        assert "params" in (stored.coded or {}) and stored.params == {}
        assert decoded(stored, Keyed("b", "a")) == task
        lost = decoded(stored, Keyed("c"))
        assert lost.coded == stored.coded and lost.undecodable is not None and "LookupError" in lost.undecodable


def test_json_and_coded_text_are_told_apart() -> None:
    assert to_stored(b'{"a":1}', Zlib()) == b'{"a":1}', "left as it is, it is stored as plain JSON"
    text = to_stored(b'{"a":1}', Keyed("k")).decode()
    assert text.startswith(PREFIX) and is_coded(text) and not is_coded('"' + PREFIX) and not is_coded(None)
    assert is_coded(text.encode()) and not is_coded(b"{}")
    assert from_stored(text, Keyed("k")) == b'{"a":1}'
    with pytest.raises(ValueError, match="no codec is set"):
        from_stored(text, None)
    with pytest.raises(ValueError):
        from_stored(PREFIX + "no base64!", Keyed("k"))


def test_compression_is_for_long_data_that_becomes_shorter() -> None:
    long = b"a" * 2000
    assert Zlib().encode(b"a" * 1024) == b"a" * 1024 and len(Zlib().encode(long)) < 100
    incompressible = bytes(range(256))
    assert Zlib(over=0).encode(incompressible) == incompressible
    packed = Zlib().encode(long)
    for damaged in (packed[:-3], packed + b"more"):
        with pytest.raises(ValueError, match="damaged"):
            Zlib().decode(damaged)
    with pytest.raises(ValidationError, match="over: -1"):
        Zlib(over=-1)


def test_a_small_text_cannot_become_a_huge_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiotaskq.core.codec.MOST", 10_000)
    assert Zlib().decode(Zlib().encode(b"a" * 10_000)) == b"a" * 10_000
    with pytest.raises(ValueError, match="more than 10,000 bytes"):
        Zlib().decode(Zlib().encode(b"a" * 10_001))


# ---- what needs a library -------------------------------------------------------------------------------------------


def zstd(over: int) -> Zstd:
    """Return a codec, where Python 3.14 or the extra is there; else the test is skipped."""
    if sys.version_info < (3, 14):
        pytest.importorskip("backports.zstd", reason="the extra zstd is not installed")
    return Zstd(over)


def test_a_small_text_cannot_become_a_huge_one_by_zstd(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = zstd(over=0)
    packed = codec.encode(b"a" * 10_000)
    monkeypatch.setattr("aiotaskq.core.codec.MOST", 10_000)
    assert codec.decode(packed) == b"a" * 10_000
    for wrong in (codec.encode(b"a" * 10_001), packed[:-3], packed + b"more"):
        with pytest.raises(ValueError, match="damaged, or has more than 10,000 bytes"):
            codec.decode(wrong)


def test_zstd() -> None:
    codec = zstd(over=0)
    data = b"abc" * 1000
    assert len(codec.encode(data)) < 200 and codec.decode(codec.encode(data)) == data
    assert codec.decode(b"plain") == b"plain" and codec.decode(codec.encode(b"\x00s")) == b"\x00s"
    with pytest.raises(Exception):  # noqa: B017 - of the library
        codec.decode(b"\x00snonsense")
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda text: codec.decode(codec.encode(text)), [data * 100] * 20)) == {data * 100}


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("compression", "backports", "cryptography"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"backports\.zstd is not installed; install the extra zstd"):
        Zstd()
    with pytest.raises(MissingExtra, match="cryptography is not installed; install the extra crypto"):
        Fernet("A" * 43 + "=")


def test_fernet_rotates_its_keys() -> None:
    old, new = "A" * 43 + "=", "B" * 42 + "A="
    library = pytest.importorskip("cryptography.fernet", reason="the extra crypto is not installed")
    first = Fernet(old)
    data = b'{"secret": 1}'
    token = first.encode(data)
    assert first.decode(token) == data and b"secret" not in token and old not in repr(first)
    rotated = Fernet(new, old.encode())
    assert rotated.decode(token) == data
    assert Fernet(new).decode(rotated.encode(data)) == data
    for wrong, stored in ((Fernet(new), token), (first, token[:-1] + bytes([token[-1] ^ 1]))):
        with pytest.raises(library.InvalidToken):
            wrong.decode(stored)
    with pytest.raises(ValidationError, match="keys: at least one"):
        Fernet()
    with pytest.raises(ValidationError, match="keys: each is 32 bytes") as refused:
        Fernet("my secret")
    assert "my secret" not in str(refused.value)
