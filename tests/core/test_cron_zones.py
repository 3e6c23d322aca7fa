"""Time zones of cron schedules: names, and the default."""

from __future__ import annotations

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


def test_the_default_zone_is_the_local_one_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import tzlocal

    monkeypatch.setattr(tzlocal, "get_localzone_name", lambda: "Asia/Tokyo")
    assert Cron.parse("0 2 * * *").timezone == local_timezone() == "Asia/Tokyo"

    def unknown() -> Any:
        raise LookupError("no such zone")

    for broken in (unknown, lambda: None, lambda: "Nowhere/City"):
        monkeypatch.setattr(tzlocal, "get_localzone_name", broken)
        with pytest.raises(ValidationError, match="the system's local time zone has no IANA name"):
            local_timezone()
