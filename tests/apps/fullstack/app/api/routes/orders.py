import uuid
from typing import Any

from fastapi import APIRouter, HTTPException
from sqlmodel import col, select

from app import crud
from app.api.deps import PushDep, SessionDep
from app.core.config import settings
from app.models import Customer, Order, OrderCreate, OrderPublic, OrdersPublic
from app.tasks import ship_order

router = APIRouter(prefix="/customers/{customer_id}/orders", tags=["orders"])


@router.get("/", response_model=OrdersPublic)
def read_orders(session: SessionDep, customer_id: uuid.UUID) -> Any:
    """Retrieve the orders of a customer."""
    orders = session.exec(select(Order).where(Order.customer_id == customer_id).order_by(col(Order.created_at))).all()
    return OrdersPublic(data=[OrderPublic.model_validate(order) for order in orders], count=len(orders))


@router.post("/", response_model=OrderPublic, status_code=201)
def create_order(*, session: SessionDep, push: PushDep, customer_id: uuid.UUID, order_in: OrderCreate) -> Any:
    """Create an order, which a worker ships."""
    if not session.get(Customer, customer_id):
        raise HTTPException(status_code=404, detail="Customer not found")
    order = crud.create_order(session=session, order_in=order_in, customer_id=customer_id)
    push.sync(ship_order, order_id=str(order.id))
    if crud.count_open_orders(session=session, customer_id=customer_id) > settings.MAX_OPEN_ORDERS:
        # The session ends without a commit: there is neither the order nor its task.
        raise HTTPException(status_code=409, detail="Too many open orders")
    session.commit()
    return order
