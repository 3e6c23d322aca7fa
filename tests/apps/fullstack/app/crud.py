"""Reads and writes; whoever calls them commits."""

import uuid

from sqlmodel import Session, func, select

from app.models import Customer, CustomerCreate, Order, OrderCreate


def create_customer(*, session: Session, customer_in: CustomerCreate) -> Customer:
    customer = Customer.model_validate(customer_in)
    session.add(customer)
    session.flush()
    return customer


def get_customer_by_email(*, session: Session, email: str) -> Customer | None:
    return session.exec(select(Customer).where(Customer.email == email)).first()


def create_order(*, session: Session, order_in: OrderCreate, customer_id: uuid.UUID) -> Order:
    order = Order.model_validate(order_in, update={"customer_id": customer_id})
    session.add(order)
    session.flush()
    return order


def count_open_orders(*, session: Session, customer_id: uuid.UUID) -> int:
    statement = select(func.count()).select_from(Order)
    return session.exec(statement.where(Order.customer_id == customer_id, Order.shipped_at == None)).one()  # noqa: E711
