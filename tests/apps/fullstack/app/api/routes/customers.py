from typing import Any

from fastapi import APIRouter, HTTPException

from app import crud
from app.api.deps import PushDep, SessionDep
from app.models import CustomerCreate, CustomerPublic, TaskPushed
from app.tasks import send_newsletter, send_welcome_mail

router = APIRouter(prefix="/customers", tags=["customers"])


@router.post("/", response_model=CustomerPublic, status_code=201)
def create_customer(*, session: SessionDep, push: PushDep, customer_in: CustomerCreate) -> Any:
    """Create a customer, and send a welcome mail once the customer is stored."""
    if crud.get_customer_by_email(session=session, email=customer_in.email):
        raise HTTPException(status_code=409, detail="A customer with this email exists already")
    customer = crud.create_customer(session=session, customer_in=customer_in)
    push.sync(send_welcome_mail, customer_id=str(customer.id))
    session.commit()
    return customer


@router.post("/newsletter", response_model=TaskPushed, status_code=202)
def newsletter() -> Any:
    """Send the newsletter to all customers."""
    return TaskPushed(task_id=send_newsletter.options(unique_key="newsletter").push_sync())
