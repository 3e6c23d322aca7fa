"""Money from one account to another, and back if that fails: Temporal's "money transfer", in aiotaskq.

`python app.py` transfers once; its tests with `pytest`. A failure of the bank's service is retried, and what is done
is not done again. An account that does not exist ends the transfer: the money goes back.
"""

import asyncio
from dataclasses import dataclass

from aiotaskq import Backoff, TaskQ, step

tq = TaskQ("sqlite:///bank.db")


class Refused(Exception):
    """The bank has refused a booking; to try again is of no use."""


@dataclass
class Transfer:
    """What is to be transferred."""

    source: str
    target: str
    amount: int
    reference: str


class Bank:
    """A bank that books each reference once, however often it is asked."""

    def __init__(self) -> None:
        self.accounts = {"85-150": 2000, "43-812": 0}
        self.booked: dict[str, str] = {}

    async def book(self, account: str, amount: int, reference: str) -> str:
        """Add to an account, or take from it; return the id of the booking."""
        if reference not in self.booked:
            if account not in self.accounts or self.accounts[account] + amount < 0:
                raise Refused(f"account {account} does not exist, or has too little money")
            self.accounts[account] += amount
            self.booked[reference] = f"B{len(self.booked)}"
        return self.booked[reference]


bank = Bank()


@tq.task(max_retries=100, backoff=Backoff(base=1, limit=60), retry_on=(OSError, TimeoutError), timeout=30)
async def transfer(order: Transfer) -> list[str]:
    """Withdraw, deposit, and refund if the deposit is refused."""
    withdrawn = await step("withdraw", bank.book, order.source, -order.amount, f"{order.reference}-withdrawal")
    try:
        deposited = await step("deposit", bank.book, order.target, order.amount, f"{order.reference}-deposit")
    except Refused:
        await step("refund", bank.book, order.source, order.amount, f"{order.reference}-refund")
        raise
    return [withdrawn, deposited]


async def main() -> None:
    """Transfer once."""
    async with tq.running():
        order = Transfer("85-150", "43-812", 250, "12345")
        handle = await transfer.options(idempotency_key="pay-invoice-701").push(order=order)
        print("transfer complete:", *await handle.result(timeout=60))


if __name__ == "__main__":
    asyncio.run(main())
