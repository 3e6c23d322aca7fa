from aiotaskq.integrations.fastapi import router, setup
from fastapi import FastAPI

from app.api.main import api_router
from app.core.config import settings
from app.tasks import tq

app = FastAPI(title=settings.PROJECT_NAME, openapi_url=f"{settings.API_V1_STR}/openapi.json")
app.include_router(api_router, prefix=settings.API_V1_STR)
app.include_router(router(tq, operations=["healthz", "readyz"]))
setup(app, tq, workers=False)
