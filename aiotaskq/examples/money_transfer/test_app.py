"""The tests of the transfer, in virtual time: `pytest` in this folder."""

import asyncio

import app
import pytest

from aiotaskq import TaskFailed
from aiotaskq.testing import virtual

REFERENCE = {"withdraw": "r-withdrawal", "deposit": "r-deposit"}


class Lossy(app.Bank):
    """A bank whose answer to one booking is lost once, after it was booked."""

    def __init__(self, lost: str) -> None:
        super().__init__()
        self.lost, self.asked = lost, []

    async def book(self, account: str, amount: int, reference: str) -> str:
        self.asked.append(reference)
        booked = await super().book(account, amount, reference)
        if reference == self.lost and self.asked.count(reference) == 1:
            raise ConnectionError("the connection is lost")
        return booked


def run(bank: app.Bank, target: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    async def main() -> list[str]:
        async with virtual(app.tq) as kit:
            handle = await app.transfer.push(order=app.Transfer("85-150", target, 250, "r"))
            await kit.drain(delayed=True)
            return await handle.result()

    monkeypatch.setattr(app, "bank", bank)
    return asyncio.run(main())


@pytest.mark.parametrize("lost", ["r-withdrawal", "r-deposit"])
def test_a_crash_between_the_steps_books_nothing_twice(lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = Lossy(lost)
    assert run(bank, "43-812", monkeypatch) == ["B0", "B1"]
    assert bank.accounts == {"85-150": 1750, "43-812": 250}
    assert sorted(bank.asked) == sorted(["r-withdrawal", "r-deposit", lost])


def test_a_refused_deposit_is_refunded(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = Lossy("r-refund")
    with pytest.raises(TaskFailed, match="account 99-999 does not exist"):
        run(bank, "99-999", monkeypatch)
    assert bank.accounts == {"85-150": 2000, "43-812": 0}
    assert bank.asked.count("r-withdrawal") == 1, "it was stored before the crash during the refund"


def test_too_little_money_is_not_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = app.Bank()
    bank.accounts["85-150"] = 100
    with pytest.raises(TaskFailed, match="too little money"):
        run(bank, "43-812", monkeypatch)
    assert bank.booked == {}
