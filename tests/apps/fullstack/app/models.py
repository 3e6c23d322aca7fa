import uuid
from datetime import UTC, datetime

from sqlalchemy import DateTime
from sqlmodel import Field, Relationship, SQLModel


def now() -> datetime:
    return datetime.now(UTC)


class CustomerBase(SQLModel):
    email: str = Field(unique=True, index=True, max_length=255)
    full_name: str | None = Field(default=None, max_length=255)


class CustomerCreate(CustomerBase):
    pass


class Customer(CustomerBase, table=True):
    id: uuid.UUID = Field(default_factory=uuid.uuid4, primary_key=True)
    created_at: datetime = Field(default_factory=now, sa_type=DateTime(timezone=True))
    orders: list["Order"] = Relationship(back_populates="customer", cascade_delete=True)


class CustomerPublic(CustomerBase):
    id: uuid.UUID


class OrderBase(SQLModel):
    article: str = Field(min_length=1, max_length=255)
    quantity: int = Field(default=1, ge=1, le=1000)


class OrderCreate(OrderBase):
    pass


class Order(OrderBase, table=True):
    id: uuid.UUID = Field(default_factory=uuid.uuid4, primary_key=True)
    customer_id: uuid.UUID = Field(foreign_key="customer.id", nullable=False, ondelete="CASCADE")
    created_at: datetime = Field(default_factory=now, sa_type=DateTime(timezone=True))
    shipped_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))
    customer: Customer | None = Relationship(back_populates="orders")


class OrderPublic(OrderBase):
    id: uuid.UUID
    customer_id: uuid.UUID
    shipped_at: datetime | None


class OrdersPublic(SQLModel):
    data: list[OrderPublic]
    count: int


class Mail(SQLModel, table=True):
    """What was sent; in real life an SMTP server has it."""

    id: uuid.UUID = Field(default_factory=uuid.uuid4, primary_key=True)
    to: str = Field(max_length=255)
    subject: str = Field(max_length=255)


class TaskPushed(SQLModel):
    task_id: str


class TaskPublic(SQLModel):
    task_id: str
    status: str
