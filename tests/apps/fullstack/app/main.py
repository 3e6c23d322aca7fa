from aiotaskq.integrations.fastapi import dashboard, router, setup
from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute

from app.api.deps import authenticate, get_current_superuser
from app.api.main import api_router
from app.core.config import settings
from app.tasks import tq


def custom_generate_unique_id(route: APIRoute) -> str:
    return f"{route.tags[0]}-{route.name}"


app = FastAPI(
    title=settings.PROJECT_NAME,
    openapi_url=f"{settings.API_V1_STR}/openapi.json",
    generate_unique_id_function=custom_generate_unique_id,
)
app.include_router(api_router, prefix=settings.API_V1_STR)
app.include_router(router(tq, operations=["healthz", "readyz"]))
operations = router(tq, dependencies=[Depends(get_current_superuser)])
app.include_router(operations, prefix=f"{settings.API_V1_STR}/operations")
app.include_router(dashboard(tq, login=authenticate, secret=settings.SECRET_KEY), prefix="/dashboard")
setup(app, tq, workers=False)
