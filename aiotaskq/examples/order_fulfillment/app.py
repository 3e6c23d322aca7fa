"""An order that is charged, reserved, packed by people, and announced: the example of Absurd's README, in aiotaskq.

`aiotaskq run app:tq` runs it; `aiotaskq push order_fulfillment '{"order_id": "42", …}'` and
`aiotaskq events emit shipment.packed:42 '{"tracking": "1Z"}'` are the rest; its test with `pytest`.
"""

from aiotaskq import TaskQ, step, wait_event

tq = TaskQ("sqlite:///orders.db")


async def charge(amount: int) -> str:
    """Here a payment service is asked. It may be asked twice, so pass it a key of the order."""
    return f"payment of {amount}"


async def reserve(items: list[str]) -> None:
    """Here the items are taken from the inventory."""


async def send(email: str, tracking: str) -> None:
    """Here the mail goes out."""


@tq.task(max_retries=5)
async def order_fulfillment(order_id: str, amount: int, items: list[str], email: str) -> list[str]:
    """Each step is stored: a crash resumes after the last one. The wait for the warehouse holds no slot."""
    payment = await step("process-payment", charge, amount)
    await step("reserve-inventory", reserve, items)
    shipment = await wait_event(f"shipment.packed:{order_id}")
    await step("send-notification", send, email, shipment["tracking"])
    return [payment, shipment["tracking"]]
