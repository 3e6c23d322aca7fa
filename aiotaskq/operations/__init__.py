"""What a person or a program asks of a running system: one table of operations, from which every door is made.

``table`` says what an operation is; the other files have those on one kind of thing each. The doors are the command
line (``cli.door``), the HTTP API (``web.endpoints``), the MCP server (``integrations.mcp``), the actions of the
dashboard (``web.dashboard.view``), and ``operate`` for programs, which ``aiotaskq.sync.TaskQ`` has, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiotaskq.core.errors import guess
from aiotaskq.errors import NotFound

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ

ACTOR = "program"


async def operate(tq: TaskQ, name: str, /, **params: Any) -> Any:
    """Run an operation by its name, as ``await operate(tq, "limits.set", key="a", cap=5)``, and return its answer.

    Names and parameters are those of the operations API, and the answer is a Struct with its fields. A change has an
    entry in the audit log.

    Raises NotFound for an unknown name, ValidationError for a wrong parameter, and what the operation raises.
    """
    # Imported on use: most programs run no operation.
    from aiotaskq.operations.everything import OPERATIONS
    from aiotaskq.operations.table import Access, perform, read

    if name not in OPERATIONS:
        raise NotFound(f"there is no operation {name!r:.60}{guess(name, OPERATIONS)}")
    operation = OPERATIONS[name]
    return await perform(operation, Access(tq, show_args=True), read(operation, params), "program", ACTOR)
