"""Takes the README's pictures of a real run: ``python -m tests.web.dashboard.screenshot [SECONDS]``.

It starts ``aiotaskq demo --web``, lets it work for a while, and writes the overview in both themes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.support.programs import ROOT
from tests.web.dashboard.browser import chromium

IMAGES = ROOT / "aiotaskq" / "docs" / "images"
SIZE: Any = {"width": 1280, "height": 860}


async def main(seconds: float) -> None:
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TZ": "UTC"}
        command = (
            "-m",
            "aiotaskq",
            "demo",
            "--port",
            "0",
            str(ROOT / "aiotaskq"),
            "--db",
            "sqlite:///demo.db",
            "--web",
        )
        pipe = asyncio.subprocess.PIPE
        demo = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=pipe, cwd=home, env=env)
        assert demo.stdout is not None
        try:
            async for line in demo.stdout:
                if line.startswith(b"dashboard: "):
                    break
            await asyncio.sleep(seconds)
            await _take(line.split()[1].decode())
        finally:
            demo.send_signal(signal.SIGINT)
            await demo.communicate()


async def _take(home: str) -> None:
    async with chromium() as browser:
        for theme in ("light", "dark"):
            wanted: Any = theme
            context = await browser.new_context(color_scheme=wanted, viewport=SIZE, locale="en")
            page = await context.new_page()
            await page.goto(home)
            await page.wait_for_timeout(3_000)  # its times and live parts are there
            path = IMAGES / f"dashboard-{theme}.png"
            await page.screenshot(path=path)
            print(Path(path).relative_to(ROOT))  # noqa: T201 - a program


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 60))
