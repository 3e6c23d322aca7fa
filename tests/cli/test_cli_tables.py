"""The layout of tables, durations, and shortened ids."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from aiotaskq.cli.i18n import width
from aiotaskq.cli.output import Column, layout, plain_lines
from aiotaskq.cli.store_access import unique_prefixes
from aiotaskq.cli.times import duration, local, read_time
from aiotaskq.core.task import SECOND

MINUTE, HOUR, DAY = 60 * SECOND, 3_600 * SECOND, 86_400 * SECOND


@pytest.mark.parametrize(
    ("microseconds", "shown"),
    [
        *[(0, "0s"), (-5, "0s"), (999, "0s"), (1_000, "1ms"), (999_999, "999ms"), (SECOND, "1s"), (2_740_000, "2.7s")],
        *[(10 * SECOND, "10s"), (59 * SECOND + 999_999, "59s"), (MINUTE, "1m"), (MINUTE + SECOND, "1m 1s")],
        *[(HOUR - 1, "59m 59s"), (HOUR, "1h"), (HOUR + 90 * SECOND, "1h 1m"), (DAY - 1, "23h 59m"), (DAY, "1d")],
        *[(DAY + HOUR - 1, "1d"), (400 * DAY + 5 * HOUR, "400d 5h")],
    ],
)
def test_a_duration_has_its_two_largest_units(microseconds: int, shown: str) -> None:
    assert duration(microseconds) == shown


def test_a_duration_in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert duration(DAY + 2 * HOUR) == "1天2小时" and duration(2_500_000) == "2.5秒"


@given(st.integers(0, 10**16), st.integers(0, 10**16))
def test_a_longer_duration_is_not_shown_as_a_shorter_one(one: int, other: int) -> None:
    def value(text: str) -> float:
        sizes = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0}
        parts = [part.replace("ms", "e-3s") for part in text.split()]
        return sum(float(part[:-1]) * sizes[part[-1]] for part in parts)

    assert (value(duration(one)) <= value(duration(other))) or one > other


NOW = int(datetime(2026, 3, 28, 12, tzinfo=UTC).timestamp()) * SECOND


@pytest.mark.parametrize(
    ("text", "time"),
    [
        *[("2h", datetime(2026, 3, 28, 10)), ("30m", datetime(2026, 3, 28, 11, 30)), ("0s", datetime(2026, 3, 28, 12))],
        *[("1h 30min", datetime(2026, 3, 28, 10, 30)), ("2026-03-28T12:00+02:00", datetime(2026, 3, 28, 10))],
        *[("1d12h", datetime(2026, 3, 27)), ("1.5h", datetime(2026, 3, 28, 10, 30))],
        ("2026-03-01", datetime(2026, 3, 1)),
    ],
)
def test_since_is_a_duration_or_a_time(text: str, time: datetime) -> None:
    assert read_time("since", text, NOW, utc=True) == time.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "text", "read"),
    [
        ("until", "2h", datetime(2026, 3, 28, 10, tzinfo=UTC)),
        ("at", "2h", datetime(2026, 3, 28, 14, tzinfo=UTC)),
        ("at", "1796000000", 1_796_000_000.0),
        ("since", "1796000000.5", 1_796_000_000.5),
        ("since", "20260327", datetime(2026, 3, 27, tzinfo=UTC)),
        ("expires", "2h", 7_200.0),
        ("expires", "60", 60.0),
        ("expires", "1.5", 1.5),
        ("expires", "2026-03-29T12:00", datetime(2026, 3, 29, 12, tzinfo=UTC)),
    ],
)
def test_a_duration_leads_on_from_now_unless_it_is_about_the_past(name: str, text: str, read: datetime | float) -> None:
    assert read_time(name, text, NOW, utc=True) == read


@pytest.mark.parametrize("text", ["", "2", "h", "2 weeks", "2h later", "-2h", "soon", "999999999999d", "2026-13-01"])
def test_other_texts_are_no_since(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="no duration"):
        read_time("since", text, NOW, utc=True)


def test_instants_in_utc() -> None:
    assert local(NOW, True) == "2026-03-28 12:00:00Z" and local(NOW + 1_500, True) == "2026-03-28 12:00:00.001Z"
    assert local(NOW, True, short=True) == "2026-03-28 12:00:00Z" and local(None, True) is None
    assert local(10**30, True) == str(10**30)
    shown = local(NOW, False)
    assert shown is not None and datetime.fromisoformat(shown) == datetime(2026, 3, 28, 12, tzinfo=UTC)


# ---- ids ----


def test_ids_are_shortened_to_what_tells_them_apart() -> None:
    assert unique_prefixes(["01234567-a", "01234567-b", "0123", "99999999-z"]) == {
        "01234567-a": "01234567-a",
        "01234567-b": "01234567-b",
        "0123": "0123",
        "99999999-z": "99999999",
    }
    assert unique_prefixes(["task-1234", "task-12345"]) == {"task-1234": "task-1234", "task-12345": "task-12345"}
    assert unique_prefixes(["0123456-89ab", "0123456-99ab"])["0123456-89ab"] == "0123456-8"
    assert unique_prefixes([]) == {}


@given(st.lists(st.text("01-", min_size=1, max_size=14), unique=True))
def test_a_shortened_id_is_the_beginning_of_that_id_alone(ids: list[str]) -> None:
    for task_id, prefix in unique_prefixes(ids).items():
        assert task_id.startswith(prefix)
        assert prefix == task_id or [other for other in ids if other.startswith(prefix)] == [task_id]


# ---- tables ----

TEXTS = st.lists(st.text("ab 长…é", max_size=30), min_size=2, max_size=2)
CELLS = TEXTS | st.lists(st.integers(0, 10**9), min_size=2, max_size=2)
COLUMNS = st.lists(
    st.builds(
        Column,
        st.text("AB列", min_size=1, max_size=8),
        CELLS.map(lambda cells: cells.__getitem__),
        rank=st.integers(0, 9),
        least=st.none() | st.integers(4, 12),
        good=st.none() | st.integers(12, 20),
    ),
    min_size=1,
    max_size=9,
).filter(lambda columns: any(column.rank == 0 for column in columns))


@given(COLUMNS, st.integers(40, 130))
def test_no_line_is_wider_than_the_room(columns: list[Column], room: int) -> None:
    rows = (0, 1)
    assert max(map(width, plain_lines(rows, columns, room))) <= room
    everything = plain_lines(rows, columns, None)
    if max(map(width, everything)) <= room - 20:
        assert plain_lines(rows, columns, room) == everything


def test_the_least_important_columns_go_first_and_long_texts_are_cut() -> None:
    columns = [
        Column("ID", "id"),
        Column("TEXT", "text", least=10),
        Column("NOTE", lambda row: row.note, rank=3),
        Column("MORE", "more", rank=4),
        Column("NONE", lambda _row: None, rank=1),
    ]
    row = SimpleNamespace(id="0123456789", text="x" * 30, note="n" * 12, more="m" * 12)

    def drawn(room: int | None) -> str:
        return plain_lines([row], columns, room)[1]

    wide = "0123456789  " + "x" * 30 + "  " + "n" * 12
    assert drawn(None) == drawn(70) == wide + "  " + "m" * 12
    assert drawn(60) == "0123456789  " + "x" * 19 + "…  " + "n" * 12 + "  " + "m" * 12
    assert drawn(49) == wide[:27] + "xxxxx"[:4] * 0 + wide[27:34] + "…  " + "n" * 12
    assert drawn(25) == "0123456789  " + "x" * 12 + "…"
    assert drawn(10).startswith("0") and len(drawn(10)) <= 10


def test_numbers_are_aligned_and_cells_have_styles() -> None:
    rows = [("a", 1_000), ("b", 2)]
    columns = [Column("QUEUE", 0, style=lambda cell: "green" if cell == "a" else ""), Column("N", 1)]
    assert plain_lines(rows, columns, 80) == ["QUEUE      N", "a      1,000", "b          2"]
    assert ("a", "green") in layout(rows, columns, 80)[1] and ("QUEUE", "bold") in layout(rows, columns, 80)[0]
