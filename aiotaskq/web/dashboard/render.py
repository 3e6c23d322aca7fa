"""From a page's data to HTML: Jinja2 templates, in which everything is escaped that is not markup of a template."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aiotaskq.core.errors import missing

try:
    import jinja2
except ModuleNotFoundError:
    raise missing("jinja2", "dashboard") from None

TEMPLATES = Path(__file__).parent / "templates"
_LIVE = re.compile(r'<(\w+) id="([\w-]+)" data-live[^>]*>(.*?)</\1><!--end \2-->', re.DOTALL)


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )


def render(name: str, data: Mapping[str, Any]) -> bytes:
    """Return the page of a template."""
    return _environment().get_template(f"{name}.html").render(data).encode("utf-8", "replace")


def live_parts(page: bytes) -> Iterator[tuple[str, str]]:
    """Yield id and content of each part of a page that may change while it is open: see ``live`` in ``parts.html``."""
    for found in _LIVE.finditer(page.decode()):
        yield found[2], found[3]
