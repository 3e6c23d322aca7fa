"""The contract of the audit log: a store of what operators have changed; ``core.audit`` has the bounds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiotaskq.core.audit import AuditEntry


class AuditLog(ABC):
    """The entries of one store. Each method is atomic."""

    @abstractmethod
    async def add(self, entry: AuditEntry, before: int, most: int) -> None:
        """Add an entry; delete those of before the instant ``before``, and all but the newest ``most``.

        ``before`` in microseconds UTC.
        """

    @abstractmethod
    async def read(self, limit: int) -> list[AuditEntry]:
        """Read the newest entries, the newest first; of one instant in the order of their ids, the last first."""
