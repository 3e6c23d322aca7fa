"""What runs in the workers: ``aiotaskq run app.tasks:tq``."""

import uuid

from aiotaskq import TaskQ
from aiotaskq.sync import current_task
from sqlmodel import Session, select

from app.core.config import settings
from app.core.db import engine
from app.models import Customer, Mail, Order, now

tq = TaskQ(settings.DATABASE_URL, retention=7 * 86400)


@tq.task(max_retries=5)
def send_welcome_mail(customer_id: str) -> None:
    with Session(engine) as session:
        customer = session.get_one(Customer, uuid.UUID(customer_id))
        session.add(Mail(to=customer.email, subject=f"Welcome, {customer.full_name or 'customer'}"))
        current_task().complete(session)  # sent exactly once
        session.commit()


@tq.task(max_retries=5)
def ship_order(order_id: str) -> str:
    with Session(engine) as session:
        order = session.get_one(Order, uuid.UUID(order_id))
        order.shipped_at = now()
        session.commit()
        return order.article


@tq.task(max_retries=0)
def send_newsletter() -> int:
    with Session(engine) as session:
        customers = session.exec(select(Customer)).all()
        session.add_all(Mail(to=customer.email, subject="News") for customer in customers)
        session.commit()
        return len(customers)
