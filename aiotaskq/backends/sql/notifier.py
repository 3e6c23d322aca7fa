"""What passes hints between the processes of one database."""

from __future__ import annotations

__all__ = ["Notifier"]


class Notifier:
    """Passes no hints: for a database without a channel, where other processes are heard of by polling only.

    A hint may be lost, so no method raises for want of a connection.
    """

    def bind(self) -> None:
        """Belong to the running loop, which sends the hints of other threads."""

    def listen(self) -> None:
        """Pass on what other processes tell, in the running loop, until ``stop``; idempotent."""

    async def stop(self) -> None:
        """Send what is waiting, and close every connection; idempotent."""

    def along(self, kind: str, count: int) -> tuple[str, str] | None:
        """Return the channel and the message of a notification about ``count`` tasks, if one may be sent now.

        The caller sends it in the statement that it is about, and does not forward the hint.
        """
        return None

    def weigh(self, kind: str, count: int) -> None:
        """Count ``count`` tasks towards the load beside those that the next hint names."""
