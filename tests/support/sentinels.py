"""Real sentinels for tests; see ``servers.py``."""

from __future__ import annotations

from typing import ClassVar

from tests.support.servers import Valkey


class ValkeySentinel(Valkey):
    """A sentinel that watches the primary ``primary`` under the name ``main``; a fail-over needs ``quorum`` of them."""

    name: ClassVar[str] = "sentinel"

    def __init__(self, primary: Valkey, quorum: int, **settings: str) -> None:
        self._primary, self._quorum = primary, quorum
        super().__init__(False, **settings)

    def _install(self) -> None:
        super()._install()
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"dir {self.folder}",
            f"sentinel monitor main 127.0.0.1 {self._primary.port} {self._quorum}",
            "sentinel down-after-milliseconds main 300",
            "sentinel failover-timeout main 3000",
            *(f"{name} {value}" for name, value in self._settings.items()),
        ]
        (self.folder / "sentinel.conf").write_text("\n".join(lines) + "\n")  # it writes there what it has seen

    def _command(self) -> list[str]:
        return [self._binary, str(self.folder / "sentinel.conf"), "--sentinel"]

    def primary(self) -> tuple[str, int]:
        """Host and port of the primary as this sentinel sees it."""
        host, port = self.ask("SENTINEL GET-MASTER-ADDR-BY-NAME main")
        return host.decode(), int(port)
