"""FastAPI: workers in the application's lifespan, typed dependencies, and the operations as a router."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Unpack

import msgspec

from aiotaskq.app.handle import BoundTask, P, PushOptions, T, TaskCall, TaskHandle
from aiotaskq.app.taskq import TaskQ, check_taskq
from aiotaskq.core.errors import missing
from aiotaskq.web.asgi import asgi_path, setup, taskq_of
from aiotaskq.web.endpoint import responder
from aiotaskq.web.endpoints import ENDPOINTS, selected
from aiotaskq.web.openapi import SCHEMAS, Describe, entry_of, kinds_of, named_schemas
from aiotaskq.web.policy import DashboardOptions, OperationsOptions, Policy

try:
    from fastapi import APIRouter, Depends, Response
    from fastapi.requests import HTTPConnection
    from fastapi.routing import APIRoute
    from pydantic import BaseModel, ConfigDict, create_model
except ModuleNotFoundError:
    raise missing("fastapi", "fastapi") from None

__all__ = ["SessionPush", "TaskQDep", "dashboard", "get_taskq", "router", "session_push", "setup"]


def get_taskq(connection: HTTPConnection) -> TaskQ:
    """Return the task queue of the application; a dependency. Raises ValidationError where it has none."""
    return taskq_of(connection)


TaskQDep = Annotated[TaskQ, Depends(get_taskq)]
"""``async def endpoint(tq: TaskQDep)``: the task queue of the application."""


class SessionPush:
    """Pushes in the transaction of the request's session: no task is pushed if that is rolled back."""

    def __init__(self, tq: TaskQ, session: Any) -> None:
        self.tq = tq
        self.session = session

    async def __call__(self, task: BoundTask[P, T], /, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[T]:
        """Push a task function, or one with options, with these arguments: ``await push(book, order=1)``.

        It exists once the session is committed, which is not done here. Raises as ``TaskQ.push``.
        """
        return await self.tq.push_call(self._joined(task.call(*args, **kwargs)))

    async def push(
        self, type: str, params: dict[str, Any] | None = None, **options: Unpack[PushOptions]
    ) -> TaskHandle[Any]:
        """Push by the name of a type; arguments as ``TaskQ.push``."""
        return await self.tq.push(type, params, **{**options, "session": self.session})

    def sync(self, task: BoundTask[P, T], /, *args: P.args, **kwargs: P.kwargs) -> str:
        """The same in a ``def`` endpoint, where the session is a ``Session``; return the task's id."""
        return self.tq.sync.push_call(self._joined(task.call(*args, **kwargs)))

    def _joined(self, call: TaskCall[T]) -> TaskCall[T]:
        return TaskCall(call.type, call.params, {**call.options, "session": self.session})


def session_push(get_session: Callable[..., Any]) -> Callable[..., SessionPush]:
    """Return a dependency that pushes with the session of ``get_session``, the application's own dependency.

    ``Push = Annotated[SessionPush, Depends(session_push(get_session))]``. FastAPI calls ``get_session`` once
    per request, so an endpoint that depends on it, too, has the same session and commits both.
    """

    given = Depends(get_session)

    def dependency(tq: TaskQDep, session: Any = given) -> SessionPush:
        return SessionPush(tq, session)

    return dependency


def router(tq: TaskQ, *, dependencies: Sequence[Any] = (), **options: Unpack[OperationsOptions]) -> APIRouter:
    """Return the operations: ``app.include_router(router(tq, dependencies=[Depends(admin)]), prefix="/ops")``.

    Args:
        dependencies: the application's own, above all its access control: the operations have none.
        options: those of ``OperationsOptions``.

    Raises:
        ValidationError: for an unknown operation or a wrong value.
    """
    check_taskq("router", tq)
    policy = Policy(**options)
    made = APIRouter(dependencies=list(dependencies), generate_unique_id_function=_operation_id)
    models, describe = _components()
    for operation in selected(policy.operations):
        names = _REFERENCE.findall(str([describe(kind) for kind in kinds_of(operation)]))
        entry = entry_of(operation, describe)
        made.add_api_route(
            asgi_path(operation.path),
            responder(operation, tq, policy),
            methods=[operation.method],
            name=f"aiotaskq:{operation.name}",
            tags=[operation.tag],
            status_code=operation.successes[0].status,
            response_class=Response,
            # FastAPI puts the schemas of this type into its components. No response is made by it.
            response_model=tuple[*(models[name] for name in names)],  # type: ignore[misc]
            responses=entry.pop("responses"),
            openapi_extra=entry,
        )
    return made


def dashboard(tq: TaskQ, *, dependencies: Sequence[Any] = (), **options: Unpack[DashboardOptions]) -> APIRouter:
    """Return the dashboard: ``app.include_router(dashboard(tq, dependencies=[Depends(admin)]), prefix="/tasks")``.

    Args:
        dependencies: the application's own, above all its access control. Needed without ``allow`` and ``login``.
        options: those of ``DashboardOptions``.

    Raises:
        ValidationError: where nothing checks the visitors, for a weak ``secret``, and for a task queue of
            ``aiotaskq.sync``.
    """
    from aiotaskq.web.dashboard.site import guarded_dashboard  # it needs jinja2, which the rest does not

    pages = guarded_dashboard(tq, bool(dependencies), "dependencies=[Depends(…)], allow=…", **options)
    made = APIRouter(
        dependencies=list(dependencies),
        include_in_schema=False,
        tags=["aiotaskq dashboard"],  # applications read the tags of every route
        generate_unique_id_function=_operation_id,
    )
    methods = ["GET", "HEAD", "POST"]
    made.add_api_route("/{name:path}", pages.respond, methods=methods, name="aiotaskq:dashboard", response_model=None)
    return made


def _operation_id(route: APIRoute) -> str:
    # By the path, since the probes may be included twice; not by the application's own rule, which knows its routes.
    return re.sub(r"\W+", "_", f"{route.name}{route.path_format}").strip("_")


@functools.cache
def _components() -> tuple[dict[str, type[BaseModel]], Describe]:
    """Return a model of pydantic for each schema of the operations, by its name, and what refers to a schema.

    FastAPI makes the components of its document from models. Of these, only the names and the references are used.
    """
    schemas, describe = named_schemas(ENDPOINTS)
    models: dict[str, type[BaseModel]] = {}

    def model(name: str) -> type[BaseModel]:
        if name not in models:
            text = msgspec.json.encode(schemas[name]).decode()

            def replace(made: dict[str, Any]) -> None:
                fields = made.get("properties", {})  # by the names to which they refer
                made.clear()
                made.update(msgspec.json.decode(_REFERENCE.sub(lambda found: fields[found[1]]["$ref"], text)))

            fields: dict[str, Any] = {each: (model(each), ...) for each in _REFERENCE.findall(text)}
            models[name] = create_model(name, __config__=ConfigDict(json_schema_extra=replace), **fields)
        return models[name]

    return {name: model(name) for name in schemas}, describe


_REFERENCE = re.compile(rf"{SCHEMAS}(\w+)")
