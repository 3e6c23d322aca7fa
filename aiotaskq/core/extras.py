"""The libraries of each extra of the package, for errors about a library that is not installed.

The table repeats ``[project.optional-dependencies]`` of pyproject.toml; a test compares them. An error names the
library itself, because ``pip install 'aiotaskq[redis]'`` would fetch another project of that name from the public
index, and ``pip install -e '.[redis]'`` would install the project of the user.
"""

from __future__ import annotations

import shlex

from aiotaskq.core.errors import MissingExtra

REQUIREMENTS = {
    "redis": ("redis[hiredis]>=5.0.4,<9",),
    "mysql": ("asyncmy>=0.2.13,<0.3", "pymysql>=1.1,<2"),
    "postgres": ("psycopg[binary]>=3.2.2,<4",),
    "web": ("starlette>=0.46,<2", "uvicorn>=0.31.1,<1", "jinja2>=3.1.2,<4"),
    "dashboard": ("jinja2>=3.1.2,<4",),
    "fastapi": ("fastapi>=0.115.12,<1", "pydantic>=2.13,<3"),
    "aiohttp": ("aiohttp>=3.10,<4",),
    "metrics": ("prometheus-client>=0.22,<1",),
    "crypto": ("cryptography>=42,<51",),
    "zstd": ("zstandard>=0.22,<1",),
    "otel": ("opentelemetry-api>=1.28,<2",),
    "calendars": ("holidays>=0.80,<1",),
    "mcp": ("mcp>=2.3,<3",),
    "django": ("django>=5.2,<7", "django-tasks>=0.12,<0.13; python_version < '3.12'"),
    "pydantic": ("pydantic>=2.13,<3",),
    "pydantic-ai": ("pydantic-ai-slim>=2.68,<3",),
}


def missing(library: str, extra: str) -> MissingExtra:
    """Return the error for a library that is not installed, with the command that installs its extra."""
    wanted = " ".join(shlex.quote(requirement) for requirement in REQUIREMENTS[extra])
    return MissingExtra(f"{library} is not installed; install the extra {extra}: pip install {wanted}")
