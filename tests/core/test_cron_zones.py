"""Time zones of cron schedules: names, and the default."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

import pytest

from aiotaskq.core.cron import Cron, check_timezone, local_timezone
from aiotaskq.errors import ValidationError


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Europe/Berln", "(got 'Europe/Berln'); did you mean 'Europe/Berlin'?"),
        ("berlin", "(got 'berlin'); did you mean 'Europe/Berlin'?"),
        ("new york", "(got 'new york'); did you mean 'America/New_York'?"),
        ("europe/paris", "(got 'europe/paris'); did you mean 'Europe/Paris'?"),
        ("../../etc/passwd", "(got '../../etc/passwd'); write one such as 'Europe/Berlin' or 'UTC'"),
        ("/etc/localtime", "(got '/etc/localtime'); write one such as 'Europe/Berlin' or 'UTC'"),
        ("right/Europe/Berlin", "(got 'right/Europe/Berlin'); did you mean 'Europe/Berlin'?"),
        ("", "(got ''); write one such as 'Europe/Berlin' or 'UTC'"),
        ("a\x00b", "(got 'a\\x00b'); write one such as 'Europe/Berlin' or 'UTC'"),
        ("z" * 5000, f"(got {'z' * 40!r}…); write one such as 'Europe/Berlin' or 'UTC'"),
    ],
)
def test_unknown_zones(name: str, message: str) -> None:  # I7
    with pytest.raises(ValidationError) as caught:
        check_timezone(name)
    assert str(caught.value) == f"timezone: the name is not an IANA time zone {message}"


@pytest.mark.parametrize("name", ["Europe", "localtime", "posixrules", "Factory", "tzdata.zi", "UTC+1", "EST5EDT4"])
def test_directories_and_private_entries_are_no_zones(name: str) -> None:
    with pytest.raises(ValidationError, match="not an IANA time zone"):
        check_timezone(name)


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        *(("CST-8", "Etc/GMT-8"), ("<+08>-8", "Etc/GMT-8"), ("CST-08:00:00", "Etc/GMT-8"), ("NZDT-13", "Etc/GMT-13")),
        *(("EST5", "Etc/GMT+5"), ("EST+05:00", "Etc/GMT+5"), ("UTC0", "Etc/GMT"), ("XXX-0", "Etc/GMT")),
    ],
)
def test_the_offset_in_the_tz_variable_is_the_local_zone(
    variable: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", variable)
    assert Cron.parse("0 2 * * *").timezone == local_timezone() == name
    try:
        time.tzset()
        assert check_timezone(name).utcoffset(datetime(2026, 7, 1)) == timedelta(seconds=time.localtime(0).tm_gmtoff)
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


@pytest.mark.parametrize("variable", ["Bogus/Zone", "CST-15", "EST13", "IST-5:30", "CET-1CEST", "Asia/shanghai", ":x"])
def test_a_tz_variable_without_a_zone_is_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", variable)
    with pytest.raises(ValidationError, match="the TZ variable names no IANA time zone"):
        local_timezone()


@pytest.mark.parametrize("variable", ["Asia/Shanghai", ":Asia/Shanghai", "EST5EDT", "UTC", "GMT0"])
def test_a_zone_in_the_tz_variable_goes_to_tzlocal(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import tzlocal

    monkeypatch.setenv("TZ", variable)
    monkeypatch.setattr(tzlocal, "get_localzone_name", lambda: variable.removeprefix(":"))
    assert local_timezone() == variable.removeprefix(":")


def test_the_default_zone_is_the_local_one_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import tzlocal

    monkeypatch.delenv("TZ", raising=False)
    monkeypatch.setattr(tzlocal, "get_localzone_name", lambda: "Asia/Tokyo")
    assert Cron.parse("0 2 * * *").timezone == local_timezone() == "Asia/Tokyo"

    def unknown() -> Any:
        raise LookupError("no such zone")

    for broken in (unknown, lambda: None, lambda: "Nowhere/City"):
        monkeypatch.setattr(tzlocal, "get_localzone_name", broken)
        with pytest.raises(ValidationError, match="the system's local time zone has no IANA name"):
            local_timezone()
