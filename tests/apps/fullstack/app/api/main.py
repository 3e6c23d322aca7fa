from fastapi import APIRouter

from app.api.routes import customers, orders, tasks

api_router = APIRouter()
api_router.include_router(customers.router)
api_router.include_router(orders.router)
api_router.include_router(tasks.router)
